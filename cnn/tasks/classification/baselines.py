"""The strong trivial answers to classification, which every network is printed beside."""

import math
from typing import Any

import numpy as np

from cnn.errors import UserError

FIT_EXAMPLES = 10_000  # logistic regression fits at most so many, drawn with the seed
KERNEL_EXAMPLES = 5_000  # the kernel and neighbour methods run up to so many training examples
MAX_FEATURES = 10_000  # per example; raw pixels of larger pictures say little and cost much


def classify(
    train_x: np.ndarray | None,
    train_y: np.ndarray,
    test_x: np.ndarray | None,
    test_y: np.ndarray,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Accuracy and balanced accuracy, on all of the test set, of what needs no network.

    'majority' always says the most frequent class. 'logistic_regression' is on standardised features.
    'svm' has a Gaussian kernel and 'nearest_neighbour' is the class of the nearest training example; both
    only where they are quick. The kernel's gamma is 2 / (features * variance), twice scikit-learn's 'scale':
    on the digits it gives the 96.9 % of scikit-learn's own example, which sets gamma by hand.

    Args:
      train_x, test_x: raw inputs [n, ...] of any rank, the same scale in both. None, or more than
        MAX_FEATURES numbers each, leaves 'majority' only.
      train_y, test_y: labels [n].
      seed: of the subset that a large training set is cut to.

    Returns:
      {name: {'accuracy', 'balanced_accuracy', 'train_examples'}}.

    Raises:
      UserError: scikit-learn is not installed.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)

    def scores(predicted: np.ndarray, examples: int) -> dict[str, Any]:
        recalls = [(predicted[test_y == label] == label).mean() for label in np.unique(test_y)]
        return {
            "accuracy": float(np.mean(predicted == test_y)),
            "balanced_accuracy": float(np.mean(recalls)),
            "train_examples": int(examples),
        }

    majority = np.bincount(train_y).argmax()
    result = {"majority": scores(np.full_like(test_y, majority), len(train_y))}
    if train_x is None or test_x is None or len(np.unique(train_y)) < 2:
        return result
    if math.prod(train_x.shape[1:]) > MAX_FEATURES:
        return result
    try:
        from sklearn import linear_model, neighbors, pipeline, preprocessing, svm
    except ImportError as error:
        raise UserError(
            "baselines need scikit-learn: pip install 'cnn[data]', or eval.baselines=False"
        ) from error

    train_x = np.asarray(train_x, np.float32).reshape(len(train_x), -1)
    test_x = np.asarray(test_x, np.float32).reshape(len(test_x), -1)
    if len(train_x) > FIT_EXAMPLES:
        chosen = np.random.default_rng(seed).choice(len(train_x), FIT_EXAMPLES, replace=False)
        train_x, train_y = train_x[chosen], train_y[chosen]
    logistic = linear_model.LogisticRegression(max_iter=200, tol=1e-3)
    models = {
        "logistic_regression": pipeline.make_pipeline(preprocessing.StandardScaler(), logistic)
    }
    if len(train_x) <= KERNEL_EXAMPLES:
        models["svm"] = svm.SVC(gamma=2 / (train_x.shape[1] * max(train_x.var(), 1e-12)))
        models["nearest_neighbour"] = neighbors.KNeighborsClassifier(1)
    import warnings

    with warnings.catch_warnings():
        # An unconverged fit after 200 iterations is still the baseline that is meant.
        warnings.simplefilter("ignore")
        for name, model in models.items():
            predicted = model.fit(train_x, train_y).predict(test_x)
            result[name] = scores(predicted, len(train_x))
    return result
