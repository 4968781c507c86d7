"""ResNet-50 v1.5 on ImageNet, 90 epochs: the MLPerf-style baseline, 76 to 77 % top-1. Not run here.

Goyal et al. 2017 (linear rule 0.1 per 256, 5 epochs of warm-up), He et al. 2019 (zero-initialised last
scale, no decay on norms and biases, label smoothing, cosine). Needs ILSVRC2012 prepared by TFDS:

    cnn data prepare imagenet2012 --data_dir=TFDS_DIR
    cnn train --config=configs/classification/imagenet_resnet50.py --workdir=runs/imagenet_resnet50 \\
        --config.input.data_dir=TFDS_DIR
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 90.0
    c.model = ConfigDict({"name": "resnet50", "bn": "global"})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1})

    c.input.dataset = "imagenet2012"
    c.input.train_split = "train[:99%]"
    c.input.batch_size = 1024
    size, short = (32, 36) if arg == "smoke" else (224, 256)
    c.input.train_transforms = (("random_resized_crop", {"size": size}), ("flip", {}))
    c.input.eval_transforms = (("resize_short", {"size": short}), ("center_crop", {"size": size}))
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.lr = 0.1 * c.input.batch_size / 256
    c.optim.weight_decay = 5e-5
    c.schedule.warmup_epochs = 5.0

    c.eval.split = "train[99%:]"
    c.eval.test_split = "validation"
    c.eval.every_epochs = 5.0
    c.eval.batch_size = 1024
    config.finish(c, arg)
    if arg == "smoke":
        c.model.name, c.model.width, c.model.stage_sizes = "resnet18", 8, (1, 1)
    return c
