"""DenseNet-121 on your own chest X-rays or similar: DIR/CLASS/*, as CheXNet (Rajpurkar et al. 2017, arXiv 1711.05225).

Grey and 16-bit pictures are read too. Beside accuracy each run scores what a physician asks for: AUROC, average
precision, calibration (ECE, reliability.png), and wrong answers against the share answered (risk_coverage.png).
Pictures are never mirrored: the heart is on the left. Of one patient's pictures all must lie in one split, which only
DIR/{train,validation,test}/CLASS/* can say. Expected: not run; no such pictures are at hand.

    cnn data check folder --data_dir=DIR
    cnn train --config=configs/medical/xray_densenet121.py --config.input.data_dir=DIR --workdir=runs/xray

Weights of a run or of a file that `cnn convert` read come in with --config.init_from=WORKDIR.
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 30.0
    c.model = ConfigDict({"name": "densenet121"})
    c.task = ConfigDict({"name": "classification"})

    c.input.dataset = "folder"
    c.input.batch_size = 32
    size, short = (32, 36) if arg == "smoke" else (224, 256)
    c.input.eval_transforms = (("resize_short", {"size": short}), ("center_crop", {"size": size}))
    c.input.train_transforms = (
        *c.input.eval_transforms,
        ("affine", {"degrees": 7, "scale": 0.1, "shift": 0.05}),
        ("color_jitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.0}),
    )
    c.input.mean, c.input.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    c.optim.name = "adamw"
    c.optim.lr = 3e-4
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.optim.ema_decay = 0.999
    c.schedule.warmup_epochs = 1.0

    c.eval.metric = "balanced_accuracy"
    c.eval.every_epochs = 1.0
    c.eval.batch_size = 64
    c.eval.use = "best"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.stage_sizes, c.model.growth_rate = (1, 1, 1, 1), 8
    return c
