"""DeepLab v3+ on Cityscapes, 19 classes, crops of 769 (Chen et al. 2018, arXiv 1802.02611, section 4.3).

The paper's number, 78.79 mIoU on the validation set, is of an Xception backbone; for ResNet-50 it gives none. Needs the
two archives (`cnn data prepare cityscapes` says where from) and ImageNet weights of the backbone in --config.init_from.
The validation set is scored whole, 1024x2048. Hardware: eight accelerators. Expected: not run

    cnn train --config=configs/segmentation/cityscapes_deeplabv3plus.py --workdir=runs/cityscapes
"""

from ml_collections import ConfigDict

from cnn import config

BACKBONE = {"name": "resnet50"}


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_steps = 90_000
    c.model = ConfigDict({"name": "deeplabv3plus_resnet50"})
    c.model.backbone = ConfigDict(BACKBONE)
    c.task = ConfigDict({"name": "segmentation", "loss": "ce", "background": False})

    c.input.dataset = "cityscapes"
    c.input.batch_size = 16
    c.input.train_transforms = (
        ("random_scale", {"factor": (0.5, 2.0)}),
        ("random_crop", {"size": 33 if arg == "smoke" else 769}),
        ("flip", {}),
        ("color_jitter", {}),
    )
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "sgd"
    c.optim.lr = 0.01
    c.optim.weight_decay = 5e-4
    c.schedule.warmup_steps = 1000

    c.eval.split = "validation[:20%]"
    c.eval.test_split = "validation"
    c.eval.metric = "miou"
    c.eval.every_steps = 5000
    c.eval.batch_size = 8
    c.eval.baselines = False
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.fine_width = 8, 4
        c.model.backbone.update({"stage_sizes": (1, 1, 1, 1), "width": 8})
        c.input.eval_transforms = (("resize", {"size": 32}),)
    return c
