"""TCN on copy memory (Bai et al. 2018, arXiv 1803.01271, section 5.2), T = 100.

The authors' network and optimizer for T = 1000, where their table says 3.5e-5; with
--config.input.dataset=copy_memory_t1000 it is theirs whole. Measured: see experiments/tcn/README.md.

    cnn train --config=configs/sequence_labelling/copy_memory_tcn.py --workdir=runs/copy
    python -m experiments.reproduce tcn
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 10.0
    c.task = ConfigDict({"name": "sequence_labelling"})
    c.model = ConfigDict({"name": "tcn", "width": 10, "levels": 8, "window": 8, "per_step": True})

    c.input.dataset = "copy_memory_t100"
    c.input.batch_size = 32

    c.optim.name = "rmsprop"
    c.optim.b2, c.optim.momentum = 0.99, 0.0  # b2 is PyTorch's alpha
    c.optim.lr = 5e-4
    c.optim.clip_norm = 1.0
    c.schedule.name = "constant"
    c.eval.split = ""
    c.eval.metric, c.eval.mode = "loss", "min"
    c.checkpoint.every_steps = 1000
    config.finish(c, arg)
    if arg == "smoke":
        c.model.levels = 2
    return c
