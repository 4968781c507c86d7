"""The recurrent rows: the TCN's configs with an LSTM or a GRU in its place; `:adding` or `:copy` says which task."""

from ml_collections import ConfigDict

from cnn import flags
from cnn.errors import UserError
from experiments.study import ROOT

TASKS = {  # config of the TCN, options of the network, learning rate
    "adding": ("configs/regression/adding_tcn.py", {"width": 130, "head": "last"}, 2e-3),
    "copy": ("configs/sequence_labelling/copy_memory_tcn.py", {"width": 50, "head": "each"}, 5e-4),
}


def get_config(arg: str = "") -> ConfigDict:
    """The config of one task; `model.name` chooses between experiments.recurrent:lstm and :gru."""
    if arg not in TASKS:
        raise UserError(f"the config takes one of {', '.join(TASKS)} as its argument, not '{arg}'")
    path, options, rate = TASKS[arg]
    c = flags.load_config(str(ROOT / path), {}).unlock()
    c.model = ConfigDict({"name": "experiments.recurrent:lstm", **options})
    c.optim.lr, c.optim.clip_norm = rate, 1.0
    return c
