"""FCN (Wang et al. 2017, arXiv 1611.06455) on GunPoint of the UCR archive; `--config.input.dataset` takes others.

The papers' recipe is Adam 1e-3 for 2000 epochs with the rate halved on plateaus and the weights of the least training
loss; here the rate falls along a cosine over a fixed number of steps, and the last weights count. Batch: a tenth of the
training set, 16 at most. What the study measured stands in experiments/ucr/README.md:

    cnn train --config=configs/classification/ucr_fcn.py --workdir=runs/gunpoint
    cnn train --config=configs/classification/ucr_fcn.py --workdir=runs/mine \
        --config.input.dataset=ucr --config.input.data_dir=FOLDER --config.input.batch_size=16
    python -m experiments.reproduce ucr
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_steps = 1000
    c.model = ConfigDict({"name": "series_fcn"})

    c.input.dataset = "ucr_gunpoint"
    c.input.batch_size = 5

    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.eval.split = ""  # the archive has no validation split, and its test split chooses nothing
    c.checkpoint.every_steps = 500
    config.finish(c, arg)
    if arg == "smoke":
        c.model.widths = (8, 8, 8)
    return c
