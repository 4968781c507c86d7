"""EfficientNet-B0 on ImageNet (Tan & Le 2019, arXiv 1905.11946): 350 epochs, 77.1 % top-1 (from memory). Not run.

RMSprop with decay and momentum 0.9, weight decay 1e-5, dropout and stochastic depth 0.2, EMA, as the paper; RandAugment
in place of AutoAugment, and a cosine in place of 0.97 every 2.4 epochs.

    cnn train --config=configs/classification/imagenet_efficientnet_b0.py --workdir=runs/efficientnet_b0 \
        --config.input.data_dir=TFDS_DIR
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 350.0
    c.model = ConfigDict({"name": "efficientnet_b0", "dropout": 0.2, "drop_path": 0.2})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1})

    c.input.dataset = "imagenet2012"
    c.input.train_split = "train[:99%]"
    c.input.batch_size = 4096
    size, short = (32, 36) if arg == "smoke" else (224, 256)
    c.input.train_transforms = (
        ("random_resized_crop", {"size": size}),
        ("flip", {}),
        ("randaugment", {"layers": 2, "magnitude": 9}),
    )
    c.input.eval_transforms = (("resize_short", {"size": short}), ("center_crop", {"size": size}))
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "rmsprop"
    c.optim.b2, c.optim.momentum, c.optim.nesterov = 0.9, 0.9, False
    c.optim.lr = 0.016 * c.input.batch_size / 256
    c.optim.weight_decay = 1e-5
    c.optim.ema_decay = 0.9999
    c.schedule.warmup_epochs = 5.0

    c.eval.split = "train[99%:]"
    c.eval.test_split = "validation"
    c.eval.every_epochs = 10.0
    c.eval.batch_size = 1024
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.depth = 0.25, 0.1
    return c
