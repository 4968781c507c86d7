"""ResNet-18 on Fashion-MNIST, for a GPU or TPU. The data set's README has 0.949 for it. Not run here."""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 60.0
    c.model = ConfigDict({"name": "resnet18_cifar"})

    c.input.dataset = "fashion_mnist"
    c.input.train_split = "train[:95%]"
    c.input.batch_size = 256
    c.input.train_transforms = (("pad_crop", {"padding": 4}), ("flip", {}), ("erase", {"p": 0.25}))
    c.input.mean, c.input.std = (0.286,), (0.353,)

    c.optim.lr = 0.2
    c.optim.weight_decay = 5e-4
    c.optim.ema_decay = 0.999
    c.schedule.warmup_epochs = 3.0

    c.eval.split = "train[95%:]"
    c.eval.every_epochs = 2.0
    c.eval.batch_size = 500
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.stage_sizes = 8, (1, 1)
    return c
