"""ResNet-18 (He et al. 2015, 3x3 stem) on CIFAR-10: crops, flips, cosine, 200 epochs.

Expected: about 95 %, from memory of public repositories. Not run here.

    cnn train --config=configs/classification/cifar10_resnet18.py --workdir=runs/cifar10_resnet18
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 200.0
    c.model = ConfigDict({"name": "resnet18_cifar"})

    c.input.dataset = "cifar10"
    c.input.train_split = "train[:95%]"
    c.input.batch_size = 128
    c.input.train_transforms = (("pad_crop", {"padding": 4}), ("flip", {}))
    c.input.mean, c.input.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)

    c.optim.lr = 0.1
    c.optim.weight_decay = 5e-4
    c.schedule.warmup_epochs = 1.0

    c.eval.split = "train[95%:]"
    c.eval.every_epochs = 5.0
    c.eval.batch_size = 500
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.stage_sizes = 8, (1, 1)
    return c
