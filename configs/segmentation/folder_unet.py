"""U-Net on your own images and masks: DIR/images/*.jpg with DIR/masks/*.png of the same names, or both below DIR/train,
DIR/validation and DIR/test; DIR/classes.txt names the classes, the background first.

    cnn data check masks_folder --data_dir=DIR
    cnn train --config=configs/segmentation/folder_unet.py --config.input.data_dir=DIR --workdir=runs/mine
    cnn predict --workdir=runs/mine photo.jpg --masks=said/
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 60.0
    c.model = ConfigDict({"name": "unet", "widths": (32, 64, 128, 256, 256)})
    c.task = ConfigDict({"name": "segmentation", "loss": "ce+dice"})

    c.input.dataset = "masks_folder"
    c.input.batch_size = 16
    resize = ("resize", {"size": 32 if arg == "smoke" else 256})
    c.input.train_transforms = (
        resize,
        ("affine", {"degrees": 15, "scale": 0.25, "shear": 0.1, "shift": 0.1}),
        ("flip", {}),
        ("color_jitter", {}),
    )
    c.input.eval_transforms = (resize,)
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.optim.ema_decay = 0.99
    c.schedule.warmup_epochs = 2.0

    c.eval.metric = "miou"
    c.eval.every_epochs = 3.0
    c.eval.batch_size = 16
    c.eval.use = "best"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.widths = (4, 8, 8)
    return c
