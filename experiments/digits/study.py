"""Handwritten digits of scikit-learn: a small residual network against what needs no network.

898 digits to train, 899 to test: the split of scikit-learn's example "Recognizing hand-written digits".
Tolerances are half widths of 95 % Wilson intervals on 899 digits, rounded up to a half.
"""

from experiments.study import Row

QUESTION = "Digits: is a CNN better than SVC, logistic regression and the nearest neighbour?"
EXAMPLE = "scikit-learn, example 'Recognizing hand-written digits' (0.97; 0.9689 with four digits, measured)"
EARLIER = "measured in JAX before this project: a CNN of 65,000 parameters with shifts"

ROWS = [
    Row("cnn", "configs/classification/digits_resnet.py", {}, 99.1, 1.0, EARLIER, size="ci", minutes=0.6),
    Row("svc", of="cnn", baseline="svm", expected=96.9, tolerance=1.5, source=EXAMPLE, size="ci"),
    Row("logistic", of="cnn", baseline="logistic_regression", size="ci"),
    Row("nearest_neighbour", of="cnn", baseline="nearest_neighbour", size="ci"),
    Row("majority", of="cnn", baseline="majority", size="ci"),
]
COMPARE = [("cnn", "svc"), ("cnn", "nearest_neighbour")]
