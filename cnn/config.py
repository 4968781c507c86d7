"""Configs: the defaults, reading one with its overrides, units to steps, checking, JSON.

A config file is plain Python with `get_config(arg='')` that starts from `default()`. Everything that a
run needs is in the one tree; it is locked, so a misspelt field is an error that names the nearest one.
"""

import functools
import json
import math
from typing import Any

from ml_collections import ConfigDict, config_dict

from cnn.errors import UserError, unknown

UNITS = ("epochs", "steps")
ABOVE_0, BELOW_1 = 1e-12, 1 - 1e-12
RANGES = (  # (field, least, most): values that nothing else would refuse
    ("seed", 0, 2**31 - 1),
    ("max_minutes", 0, math.inf),
    ("log_every_steps", 1, math.inf),
    ("input.threads", 0, math.inf),
    ("input.workers", 0, math.inf),
    ("optim.lr", ABOVE_0, math.inf),
    ("optim.momentum", 0, BELOW_1),
    ("optim.b1", 0, BELOW_1),
    ("optim.b2", 0, BELOW_1),
    ("optim.weight_decay", 0, math.inf),
    ("optim.clip_norm", ABOVE_0, math.inf),
    ("optim.clip_adaptive", ABOVE_0, math.inf),
    ("optim.accumulate_steps", 1, math.inf),
    ("optim.ema_decay", 0, BELOW_1),
    ("schedule.final_fraction", 0, 1),
    ("schedule.peak_fraction", 0, 1),
    ("eval.batch_size", 1, math.inf),
    ("eval.every_steps", 1, math.inf),
    ("eval.every_epochs", ABOVE_0, math.inf),
    ("checkpoint.every_steps", 1, math.inf),
    ("checkpoint.every_epochs", ABOVE_0, math.inf),
    ("eval.patience", 0, math.inf),
    ("eval.recalibrate_batches", 0, math.inf),
    ("mesh.space", 1, math.inf),
    ("mesh.num_slices", 1, math.inf),
    ("mesh.virtual_shards", 1, math.inf),
    ("checkpoint.keep_last", 1, math.inf),
    ("checkpoint.keep_best", 0, math.inf),
)


def default() -> ConfigDict:
    """Every field that the trainer reads, with its default. Durations name their unit."""
    c = ConfigDict()
    c.seed = 0
    c.total_epochs = config_dict.placeholder(float)  # exactly one of the two
    c.total_steps = config_dict.placeholder(int)
    c.max_minutes = config_dict.placeholder(float)  # save and stop after so long; the same command goes on
    c.deterministic = ""  # 'invariant': bit-identical on any number of devices, slower (cnn/invariant.py)
    c.dtype = "auto"  # compute type: bfloat16 on TPU and GPU, float32 on CPU; parameters stay float32
    c.log_every_steps = 50
    c.profile_steps = ()  # (first, last): write a profiler trace of these steps
    c.init_from = ""  # fine-tune: a run's workdir, one checkpoint folder, 'pretrained:NAME', a .npz of named arrays
    c.task = ConfigDict({"name": "classification"})  # the other fields are the task's options
    c.model = ConfigDict({"name": ""})  # the other fields are the model's options
    c.input = ConfigDict(
        {
            "dataset": "",
            "data_dir": "",  # where data sets are kept; for 'folder' the folder itself
            "fake": False,  # random examples of the right shapes: for smoke runs and speed tests
            "train_split": "train",
            "batch_size": 64,  # over all devices
            "shuffle": True,  # a new order every epoch; False: the data set's own, every epoch the same
            "train_transforms": (),  # ((name, options), ...), for instance (("flip", {}),); in this order
            "eval_transforms": (),  # these travel in the model card and are used to predict
            "mean": (),  # per channel, of images in [0, 1]; () leaves the scale as it is
            "std": (),
            "in_memory": "auto",  # 'auto': decode once when it fits in 2 GiB; 'yes', 'no'
            "buckets": (),  # sizes to pad ragged data to, such as (32, 64): batches of similar length; () is off
            "threads": 0,  # 0: chosen for the machine
            "workers": 0,  # processes; 0: threads only
        }
    )
    c.optim = ConfigDict(
        {
            "name": "sgd",  # sgd, rmsprop, adamw, lamb, lion, muon
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.0,
            "decay_mask": ".*/kernel",  # regex over parameter paths that decay
            "freeze": "",  # regex over parameter paths that never move
            "lr_multipliers": (),  # ((regex, factor), ...): first match wins, others 1
            "clip_norm": config_dict.placeholder(float),  # global norm
            "clip_adaptive": config_dict.placeholder(float),  # unit-wise, relative to the weights (AGC)
            "accumulate_steps": 1,  # micro-batches per step
            "ema_decay": 0.0,  # moving average of parameters and BatchNorm statistics; 0 is off
        }
    )
    c.schedule = ConfigDict(
        {
            "name": "cosine",  # constant, step, cosine, linear, one_cycle
            "warmup_epochs": config_dict.placeholder(float),
            "warmup_steps": config_dict.placeholder(int),
            "final_fraction": 0.0,  # of the peak, at the end
            "boundaries": (),  # 'step': fractions of the run at which lr is multiplied by `factor`
            "factor": 0.1,
            "peak_fraction": 0.3,  # 'one_cycle': where the peak is
        }
    )
    c.eval = ConfigDict(
        {
            "split": "validation",  # scored during training; picks the best checkpoint; '' for none
            "test_split": "test",  # scored once, at the end; '' for none
            # More evaluations: {name: {split, dataset, data_dir, batch_size, every_epochs, every_steps}}, what is left
            # out as above; `metric` may be 'NAME/metric' of one of them.
            "also": ConfigDict(),
            "batch_size": 256,
            "every_epochs": config_dict.placeholder(float),
            "every_steps": config_dict.placeholder(int),
            "metric": "accuracy",
            "mode": "max",
            "patience": 0,  # evaluations without improvement before stopping early; 0 is off
            "use": "last",  # which weights the final test scores: last, best
            "baselines": True,
            "recalibrate_batches": 0,  # > 0: exact BatchNorm statistics over so many batches at the end
        }
    )
    c.checkpoint = ConfigDict(
        {
            "every_epochs": config_dict.placeholder(float),
            "every_steps": config_dict.placeholder(int),
            "keep_last": 2,
            "keep_best": 1,
        }
    )
    c.mesh = ConfigDict(
        {
            "devices": 0,  # 0: all of them
            "space": 1,  # parts of every image or volume, along its first spatial axis
            "num_slices": 1,  # TPU slices, which a slower network connects
            "virtual_shards": 8,  # of deterministic='invariant': a multiple of the devices, divides the batch
            "fsdp": "",  # regex over parameter paths to shard over `data`; '' replicates all
        }
    )
    return c


def steps(group: Any, what: str, steps_per_epoch: float, unset: int) -> int:
    """`{what}_epochs` or `{what}_steps` of a config group, in steps; `unset` where neither is given.

    Raises:
      UserError: both units are given, or the value is negative.
    """
    given = [unit for unit in UNITS if group.get(f"{what}_{unit}") is not None]
    if len(given) > 1:
        raise UserError(f"set one of {what}_epochs and {what}_steps, not both")
    if not given:
        return unset
    value = group[f"{what}_{given[0]}"]
    if not 0 <= value < math.inf:
        raise UserError(f"{what}_{given[0]} must be a number of at least 0, got {value}")
    return round(value * steps_per_epoch) if given[0] == "epochs" else int(value)


def finish(c: ConfigDict, arg: str) -> ConfigDict:
    """What every `get_config` ends with: '' leaves the config, 'smoke' shrinks it to a few seconds.

    A smoke run is four small steps on fake data, one evaluation and no baselines.

    Raises:
      UserError: another `arg`.
    """
    if arg not in ("", "smoke"):
        raise UserError(f"the config takes no argument '{arg}'. Valid: smoke")
    if arg == "smoke":
        c.total_epochs, c.total_steps = None, 4
        c.schedule.warmup_epochs, c.schedule.warmup_steps = None, 1
        c.eval.every_epochs, c.eval.every_steps = None, 4
        c.checkpoint.every_epochs, c.checkpoint.every_steps = None, 4
        c.log_every_steps = 2
        c.input.fake = True
        c.input.batch_size = 8
        c.eval.batch_size = 8
        c.eval.baselines = False
    return c


def check(c: ConfigDict) -> None:
    """Refuses values that nothing else would refuse.

    Raises:
      UserError: the first of them, with what it may be.
    """
    choices = (("eval.mode", ("max", "min")), ("eval.use", ("last", "best")), ("deterministic", ("", "invariant")))
    for field, valid in choices:
        if _at(c, field) not in valid:
            raise unknown(field, _at(c, field), valid)
    for field, low, high in RANGES:
        value = _at(c, field)
        if value is not None and not low <= value <= high:
            least = "above 0" if low == ABOVE_0 else f"at least {low:g}"
            most = {math.inf: "", BELOW_1: " and below 1"}.get(high, f" and at most {high:g}")
            raise UserError(f"{field} is {value}, it must be {least}{most}")
    for field in ("input.mean", "input.std", "schedule.boundaries"):
        if not all(type(value) in (int, float) for value in _at(c, field)):
            raise UserError(f"{field} is {_at(c, field)}, it must be a tuple of numbers")
    for pair in c.optim.lr_multipliers:
        if not (isinstance(pair, tuple) and [type(part) for part in pair] in ([str, float], [str, int])):
            raise UserError(f"optim.lr_multipliers must hold pairs ('regex', factor), not {pair!r}")
    span = c.profile_steps
    if span and not (len(span) == 2 and all(type(s) is int for s in span) and 0 <= span[0] <= span[1]):
        raise UserError(f"profile_steps is {span}, it must be two steps (first, last)")
    if c.eval.use == "best" and not (c.eval.split and c.checkpoint.keep_best):
        raise UserError("eval.use is 'best', which needs eval.split and checkpoint.keep_best of at least 1")
    if c.eval.patience and not c.eval.split:
        raise UserError("eval.patience needs eval.split: without evaluations there is nothing to wait for")
    if c.eval.metric == "loss" and c.eval.mode == "max":
        raise UserError("eval.metric is 'loss', of which less is better: set eval.mode to min")
    if not c.model.name:
        raise UserError("set model.name; see: cnn list models")
    if not c.input.dataset:
        raise UserError("set input.dataset; see: cnn list datasets")


def _at(c: ConfigDict, field: str) -> Any:
    return functools.reduce(lambda node, name: node[name], field.split("."), c)


def to_json(c: ConfigDict) -> str:
    """The whole tree as JSON text, keys sorted; tuples become lists."""
    return json.dumps(c.to_dict(), indent=2, sort_keys=True)


def for_this_machine(saved: dict[str, Any]) -> ConfigDict:
    """A checkpoint's config without the mesh that it was trained on."""
    c = from_json(json.dumps(saved))
    c.mesh = default().mesh
    return c


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`: lists become tuples again, and the tree is locked."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(child) for key, child in value.items()}
        return tuple(tuples(child) for child in value) if isinstance(value, list) else value

    return ConfigDict(tuples(json.loads(text))).lock()
