"""Logistic regression on MNIST-1D (Greydanus & Kobak, ICML 2024): 410 parameters, Adam, 6000 steps of 100.

The paper's table says 32 %; its recipe has no decay and no augmentation.
Measured: 31.58 +- 1.09 (5 seeds, two CPU cores):

    python -m experiments.seeds --config=configs/classification/mnist1d_logistic.py
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_steps = 6000
    c.model = ConfigDict({"name": "mnist1d_logistic"})
    c.input.dataset = "mnist1d"
    c.input.batch_size = 100
    c.input.shuffle = False  # as in the authors' code: forty fixed batches, again and again
    c.optim.name = "adamw"
    c.optim.lr = 0.01
    c.schedule.name = "constant"
    c.eval.split = ""  # the paper trains for a fixed number of steps
    c.checkpoint.every_steps = 2000
    c.log_every_steps = 100
    return config.finish(c, arg)
