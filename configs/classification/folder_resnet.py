"""ResNet-18 on your own folder of images: DIR/CLASS/*.jpg, or DIR/{train,validation,test}/CLASS/*.

    cnn data check folder --data_dir=DIR
    cnn train --config=configs/classification/folder_resnet.py --config.input.data_dir=DIR --workdir=runs/mine
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 60.0
    c.model = ConfigDict({"name": "resnet18", "width": 32})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1})

    c.input.dataset = "folder"
    c.input.batch_size = 32
    size, short = (32, 36) if arg == "smoke" else (128, 146)
    c.input.train_transforms = (
        ("random_resized_crop", {"size": size}),
        ("flip", {}),
        ("randaugment", {"layers": 2, "magnitude": 7}),
    )
    c.input.eval_transforms = (("resize_short", {"size": short}), ("center_crop", {"size": size}))
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.optim.ema_decay = 0.999
    c.schedule.warmup_epochs = 3.0

    c.eval.every_epochs = 3.0
    c.eval.batch_size = 64
    c.eval.use = "best"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.stage_sizes = 8, (1, 1)
    return c
