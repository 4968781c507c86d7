"""Fashion-MNIST: the small rows of the table in the data set's own README, on the real 60,000 / 10,000 pictures.

The README names layers and preprocessing, no recipe, no seeds and for most rows no number of parameters; so the recipes
are ours, and the tolerance is a point: twice the sampling error of 10,000 pictures. One seed by default, for the time;
an interval needs --seeds 3.
"""

from experiments.study import Row

QUESTION = "Fashion-MNIST: do small networks score as the table of the data set's README says?"
README = "table in the README of Fashion-MNIST (Debian: /usr/share/doc/dataset-fashion-mnist)"
TUTORIAL, UNDER_100K = f"{README}: 2 conv + pooling, TF tutorial", f"{README}: 2 conv, under 100,000 parameters"
CNN, RESNET = "configs/classification/fashion_mnist_cnn.py", "configs/classification/fashion_mnist_resnet.py"
MLP = {
    "model.name": "mlp",
    "model.widths": "(256, 128, 100)",
    "total_epochs": "20",
    "input.train_transforms": "()",
    "optim.lr": "0.05",
}
TWO_CONV = {"model.name": "experiments.fashion_mnist.two_conv:two_conv", "total_epochs": "12"}

ROWS = [
    Row("mlp_256_128_100", CNN, MLP, 88.33, 1.0, README, 1, minutes=2),
    Row("two_conv", CNN, TWO_CONV | {"input.train_transforms": "()"}, 91.6, 1.0, TUTORIAL, 1, minutes=12),
    Row("two_conv_flips", CNN, TWO_CONV, 92.5, 1.0, UNDER_100K, 1, minutes=12),
    Row("small_resnet", CNN, {}, 92.5, 1.0, UNDER_100K, 1, minutes=12),
    Row("logistic", of="small_resnet", baseline="logistic_regression", size="cpu"),
    Row("resnet18", RESNET, {}, 94.9, 1.0, README, 3, size="tpu"),
    Row("wrn_28_10", RESNET, {"model.name": "wrn_28_10"}, 95.9, 1.0, README, 3, size="tpu"),
]
