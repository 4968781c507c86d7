"""The config of the runs over several processes: `tiny`, as a file that `cnn train` takes."""

from ml_collections import ConfigDict

from tests.support.runs import tiny


def get_config(arg: str = "") -> ConfigDict:
    """20 steps at a rate at which rounding is not amplified."""
    c = tiny(mesh__devices=0, eval__every_steps=10, optim__lr=0.02)
    c.unlock()
    return c
