"""Wide ResNet 28-10 on CIFAR-10 (Zagoruyko & Komodakis 2016, table 5: 96.0 % with flips and crops). Not run here."""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 200.0
    c.model = ConfigDict({"name": "wrn_28_10", "dropout": 0.0})

    c.input.dataset = "cifar10"
    c.input.train_split = "train[:95%]"
    c.input.batch_size = 128
    c.input.train_transforms = (("pad_crop", {"padding": 4}), ("flip", {}))
    c.input.mean, c.input.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)

    c.optim.lr = 0.1
    c.optim.weight_decay = 5e-4
    c.schedule.name = "step"
    c.schedule.boundaries = (0.3, 0.6, 0.8)
    c.schedule.factor = 0.2

    c.eval.split = "train[95%:]"
    c.eval.every_epochs = 5.0
    c.eval.batch_size = 500
    config.finish(c, arg)
    if arg == "smoke":
        c.model.depth, c.model.widen = 10, 1
    return c
