"""DeepLab v3 on Oxford-IIIT Pet: the pet against its background, its outline ignored.

Needs the photos (`cnn data prepare oxford_iiit_pet`). From ImageNet weights of the backbone (a torchvision or timm file
of resnet50, `cnn convert`) set --config.init_from. Hardware: one accelerator. Expected: not run

    cnn train --config=configs/segmentation/pet_deeplabv3.py --workdir=runs/pet
"""

from ml_collections import ConfigDict

from cnn import config

BACKBONE = {"name": "resnet50"}


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 40.0
    c.model = ConfigDict({"name": "deeplabv3_resnet50", "output_stride": 16, "rates": (6, 12, 18), "aux": True})
    c.model.backbone = ConfigDict(BACKBONE)
    c.task = ConfigDict({"name": "segmentation", "loss": "ce", "aux_weight": 0.5})

    c.input.dataset = "oxford_iiit_pet"
    c.input.train_split = "train[:90%]"
    c.input.batch_size = 32
    size = 32 if arg == "smoke" else 320
    c.input.train_transforms = (
        ("random_scale", {"factor": (0.5, 2.0)}),
        ("random_crop", {"size": size}),
        ("flip", {}),
        ("color_jitter", {}),
    )
    c.input.eval_transforms = (("resize", {"size": size}),)
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "sgd"
    c.optim.lr = 0.02
    c.optim.weight_decay = 1e-4
    c.schedule.warmup_epochs = 1.0

    c.eval.split = "train[90%:]"
    c.eval.metric = "miou"
    c.eval.every_epochs = 4.0
    c.eval.batch_size = 32
    c.eval.use = "best"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width = 8
        c.model.backbone.update({"stage_sizes": (1, 1, 1, 1), "width": 8})
    return c
