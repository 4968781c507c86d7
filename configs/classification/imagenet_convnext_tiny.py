"""ConvNeXt-T on ImageNet (Liu et al. 2022, arXiv 2201.03545, table 5): 300 epochs, 82.1 % top-1 (from memory). Not run.

    cnn train --config=configs/classification/imagenet_convnext_tiny.py --workdir=runs/convnext_tiny \
        --config.input.data_dir=TFDS_DIR
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 300.0
    c.model = ConfigDict({"name": "convnext_tiny", "drop_path": 0.1})
    c.task = ConfigDict(
        {"name": "classification", "label_smoothing": 0.1, "mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    )

    c.input.dataset = "imagenet2012"
    c.input.train_split = "train[:99%]"
    c.input.batch_size = 4096
    size, short = (32, 36) if arg == "smoke" else (224, 256)
    c.input.train_transforms = (
        ("random_resized_crop", {"size": size}),
        ("flip", {}),
        ("randaugment", {"layers": 2, "magnitude": 9}),
        ("erase", {"p": 0.25}),
    )
    c.input.eval_transforms = (("resize_short", {"size": short}), ("center_crop", {"size": size}))
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "adamw"
    c.optim.lr = 4e-3
    c.optim.weight_decay = 0.05
    c.optim.ema_decay = 0.9999
    c.schedule.warmup_epochs = 20.0

    c.eval.split = "train[99%:]"
    c.eval.test_split = "validation"
    c.eval.every_epochs = 10.0
    c.eval.batch_size = 1024
    config.finish(c, arg)
    if arg == "smoke":
        c.model.depths, c.model.widths = (1, 1, 1, 1), (8, 8, 8, 8)
    return c
