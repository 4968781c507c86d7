"""TCN on the adding problem (Bai et al. 2018, arXiv 1803.01271, section 5.2), T = 200.

The authors' network and optimizer for T = 600, where their table says 5.8e-5; with
--config.input.dataset=adding_t600 it is theirs whole (10 epochs here; they train until it converges). Ten epochs
are 15,625 steps. Measured: see experiments/tcn/README.md.

    cnn train --config=configs/regression/adding_tcn.py --workdir=runs/adding
    python -m experiments.reproduce tcn
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 10.0
    c.task = ConfigDict({"name": "regression"})
    c.model = ConfigDict({"name": "tcn", "width": 30, "levels": 8, "window": 7})

    c.input.dataset = "adding_t200"
    c.input.batch_size = 32

    c.optim.name = "adamw"
    c.optim.lr = 4e-3
    c.schedule.name = "constant"
    c.eval.split = ""
    c.eval.metric, c.eval.mode = "mse", "min"
    c.checkpoint.every_steps = 1000
    config.finish(c, arg)
    if arg == "smoke":
        c.model.width, c.model.levels = 4, 2
    return c
