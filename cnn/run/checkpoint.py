"""Checkpoints: one format for training, prediction and fine-tuning.

A checkpoint is a folder `checkpoints/STEP` written by Orbax (asynchronously, to a temporary name that is
renamed when complete). It holds the state's arrays and, as JSON metadata: the data position, the loop's
counters, the resolved config, versions, the model card (task, classes, preprocessing), and the shape,
type and checksum of every array, because Orbax loads a flipped byte without complaint.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

import cnn
from cnn import distributed, tree
from cnn.card import FORMAT
from cnn.errors import UserError
from cnn.run.checksums import describe
from cnn.run.formats import upgraded
from cnn.state import TrainState

FOLDER = "checkpoints"
ASIDE = "damaged-"  # begins the new name of a checkpoint that Orbax cannot even list
Meta = dict[str, Any]


class Corrupt(Exception):
    """A checkpoint that cannot be trusted; the message says which tensor or file."""


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"cnn": cnn.__version__} | {name: importlib.metadata.version(name) for name in packages}


def verify(arrays: Any, described: dict[str, list]) -> None:
    """Raises Corrupt, naming the first array that is not what was saved."""
    for name, found in describe(arrays).items():
        if found != described.get(name):
            raise Corrupt(f"the checksum of '{name}' is wrong: its file was damaged after it was written")


def _as_tree(state: TrainState) -> dict[str, Any]:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


class Checkpoints:
    """The checkpoints of one run: saves, keeps the best and the last ones, restores.

    Args:
      directory: the run's `checkpoints` folder; created when it is written to.
      keep_last, keep_best: how many of each stay.
      mode: 'max' or 'min': which values of the metric are better.
    """

    def __init__(self, directory: Any, *, keep_last: int = 2, keep_best: int = 1, mode: str = "max"):
        self.directory = epath.Path(directory)
        self._sign = 1.0 if mode == "max" else -1.0
        self._keep = max(keep_last, 1), keep_best
        try:
            self._orbax = self._open()
        except ValueError:  # it reads the metadata of all steps and gives up at one that it cannot read
            self._set_aside()
            self._orbax = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        last, best = self._keep
        return ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(last),
                    policies.BestN(
                        get_metric_fn=self._rank, n=best, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def _set_aside(self) -> None:
        """Renames checkpoints without readable metadata, so that the others can be used."""
        for step in _steps_in(self.directory):
            try:
                read_meta(self.directory / str(step))
            except Corrupt as error:
                self._rename(step)
                _warn(f"checkpoint {step}: {error}; it is set aside as {ASIDE}{step}")

    def _rank(self, metrics: dict[str, float]) -> tuple[float, int]:
        return self._sign * metrics["value"], -metrics["step"]  # of equals, the earlier one

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(c.step for c in self._orbax.checkpoints)

    @property
    def best(self) -> int | None:
        """The step with the best metric; None when none was scored."""
        scored = [c for c in self._orbax.checkpoints if c.metrics]
        return max(scored, key=lambda c: self._rank(c.metrics)).step if scored else None

    def save(self, state: TrainState, meta: Meta, metric: float | None = None) -> None:
        """Starts writing `state` as step `state.step`; returns when the arrays may be donated again.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        step = int(state.step)
        try:
            self._orbax.wait()
            if step in self.steps:
                return
            # CPU arrays can be saved in place while a later step writes into the donated buffer: copy.
            # device_put copies without compiling a program for each shape, as jnp.copy would.
            arrays = jax.tree.map(
                lambda x: jax.device_put(x, x.sharding, may_alias=False), _as_tree(state)
            )
            meta = {"format": FORMAT, "versions": versions(), **meta, "arrays": describe(arrays)}
            meta["checksum"] = _checksum(meta)
            scored = metric is not None and math.isfinite(metric)
            metrics = {"value": float(metric), "step": step} if scored else None
            self._orbax.save_checkpointables_async(
                step, {"state": arrays}, force=True, metrics=metrics, custom_metadata=meta
            )
        except OSError as error:
            raise _cannot_write(self.directory, error) from error

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          UserError: writing failed (full disk, no permission).
        """
        try:
            self._orbax.wait()
        except Exception as error:  # tensorstore reports a full disk as ValueError with the system's text
            raise _cannot_write(self.directory, error) from error

    def close(self) -> None:
        """Waits for the last save and lets go of the folder."""
        self.wait()
        self._orbax.close()

    def restore(self, abstract: TrainState, which: int | str = "last") -> tuple[TrainState, Meta] | None:
        """The state and metadata of the last (or best, or given) sound checkpoint, placed as `abstract` says.

        A damaged checkpoint is named on standard error and the one before it is used.

        Returns:
          None when there is no checkpoint at all.

        Raises:
          UserError: no checkpoint is sound, `which` does not exist, or the arrays have other shapes.
        """
        problems = [f"{path.name}: set aside" for path in self.directory.glob(f"{ASIDE}*")]
        if not self.steps and not problems:
            return None
        for step in self._candidates(which):
            try:
                meta = read_meta(self.directory / str(step))
                _same_arrays(_as_tree(abstract), meta["arrays"], self.directory / str(step))
                arrays = _loaded(self.directory / str(step), _as_tree(abstract))
                verify(arrays, meta["arrays"])
            except Corrupt as error:
                problems.append(f"checkpoint {step}: {error}")
                _warn(f"{problems[-1]}; trying the one before it")
                continue
            return TrainState(**arrays), meta
        raise UserError(
            f"no sound checkpoint in {self.directory}: {'; '.join(problems)}. Restore the folder from a "
            "copy, or start again with another --workdir"
        )

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints newer than `step`: damaged ones that a resumed run will write again."""
        for newer in [s for s in self.steps if s > step]:
            self._rename(newer)
        distributed.wait_for_all("set aside")
        self._orbax.reload()

    def _rename(self, step: int) -> None:
        if distributed.is_main():
            (self.directory / str(step)).rename(self.directory / f"{ASIDE}{step}")

    def _candidates(self, which: int | str) -> list[int]:
        """Steps to try, in this order."""
        newest = self.steps[::-1]
        if which == "last":
            return newest
        if which == "best" and self.best is not None:
            scored = [c for c in self._orbax.checkpoints if c.metrics]
            ranked = [c.step for c in sorted(scored, key=lambda c: self._rank(c.metrics), reverse=True)]
            return ranked + [step for step in newest if step not in ranked]
        if which not in newest:
            known = ", ".join(map(str, newest[::-1]))
            raise UserError(f"no checkpoint '{which}' in {self.directory}; there are: last, best, {known}")
        return [which]


def _steps_in(folder: epath.Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _warn(text: str) -> None:
    if distributed.is_main():
        print(f"warning: {text}", file=sys.stderr, flush=True)


def find(path: str, which: int | str = "") -> epath.Path:
    """The folder of one checkpoint, from a run's workdir, its `checkpoints` folder or the folder itself.

    Args:
      which: 'last', 'best', a step, or '' for the one that the run itself scores (`eval.use`).

    Raises:
      UserError: nothing is there.
    """
    folder = epath.Path(path if "://" in path else os.path.abspath(path))  # Orbax takes no relative path
    if not folder.exists():
        raise UserError(f"'{path}' does not exist; give a run's workdir or one of its checkpoint folders")
    if not folder.is_dir():
        raise UserError(f"'{path}' is a file; give a run's workdir or one of its checkpoint folders")
    if (folder / "_CHECKPOINT_METADATA").exists():
        return folder
    root = folder / FOLDER if (folder / FOLDER).exists() else folder
    steps = _steps_in(root)[::-1]
    if not steps:
        raise UserError(f"'{path}' holds no checkpoint; give a run's workdir or a checkpoint folder")
    if which in ("", "last", "best"):
        return root / str(_step_of(root, steps, str(which)))
    if not str(which).isdigit() or int(which) not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"no checkpoint '{which}' in {root}; there are: last, best, {known}")
    return root / str(which)


def _step_of(root: epath.Path, steps: list[int], which: str) -> int:
    """By the newest readable checkpoint's account; the newest step where no evaluation chose one."""
    for step in steps:
        try:
            meta = read_meta(root / str(step))
        except Corrupt:
            continue
        best = meta["loop"]["best_step"]
        use = which or meta["config"]["eval"]["use"]
        return best if use == "best" and best in steps else steps[0]
    return steps[0]


def _checksum(meta: Meta) -> str:
    text = json.dumps({k: v for k, v in meta.items() if k != "checksum"}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_meta(folder: epath.Path) -> Meta:
    """The JSON metadata of one checkpoint, in today's format whichever it was written in.

    Raises:
      Corrupt: it cannot be read, or it is not ours.
      UserError: it was written by a newer version, or describes what this one does not have.
    """
    try:
        meta = ocp.checkpointables_metadata(folder).custom_metadata
    except Exception as error:  # Orbax raises many types here, with texts that mislead
        raise Corrupt(f"its metadata cannot be read ({type(error).__name__})") from error
    if not meta or "arrays" not in meta:
        raise Corrupt("its metadata are missing")
    if meta.get("checksum") != _checksum(meta):
        raise Corrupt("the checksum of its metadata is wrong: they were changed after they were written")
    try:
        return upgraded(meta)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def load_variables(folder: epath.Path) -> tuple[dict[str, Any], Meta]:
    """What to predict with ({'params', 'batch_stats'}, averaged when the run averaged) and the metadata.

    Raises:
      UserError: the checkpoint is damaged.
    """
    try:
        meta = read_meta(folder)
        names = meta["arrays"]
        root = "ema/" if any(n.startswith("ema/") for n in names) else ""
        wanted = [n for n in names if n.startswith((f"{root}params/", f"{root}batch_stats/"))]
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = _unflatten(
            (n, jax.ShapeDtypeStruct(names[n][0], names[n][1], sharding=place)) for n in wanted
        )
        arrays = _load(folder, abstract, partial=True)
        verify(arrays, names)
    except Corrupt as error:
        raise UserError(f"checkpoint {folder}: {error}; use another (--checkpoint=STEP)") from error
    variables = arrays["ema"] if root else arrays
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}, meta


def load_arrays(folder: epath.Path) -> dict[str, Any]:
    """{name: NumPy array} of everything in a checkpoint, whatever it was saved on; no array goes to a device.

    Raises:
      UserError: the checkpoint is damaged.
    """
    try:
        names = read_meta(folder)["arrays"]
        saved = ocp.checkpointables_metadata(folder).metadata["state"]
        arrays = _load(folder, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved))
        verify(arrays, names)
    except Corrupt as error:
        raise UserError(f"checkpoint {folder}: {error}; use another") from error
    return tree.flatten(arrays)


def _load(folder: epath.Path, abstract: Any, partial: bool = False) -> Any:
    loading = ocp.options.PyTreeOptions.Loading(partial_load=partial)
    try:
        with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
            return ocp.load_checkpointables(folder, {"state": abstract})["state"]
    except Exception as error:  # a missing or truncated file surfaces as half a dozen unrelated types
        raise Corrupt(f"it cannot be read ({type(error).__name__}): a file is missing or cut") from error


def _loaded(folder: epath.Path, abstract: Any) -> Any:
    """`_load` on every process or, where one of them cannot read its part, on none."""
    try:
        arrays, problem = _load(folder, abstract), None
    except Corrupt as error:
        arrays, problem = None, error
    if not distributed.agree(problem is None):
        raise problem or Corrupt("another process cannot read its part of it")
    return arrays


def _unflatten(items: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, value in items:
        *parents, leaf = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return root


def _same_arrays(abstract: Any, saved: dict[str, list], folder: Any) -> None:
    """Raises UserError at the first array that the checkpoint does not have, or has in another shape."""
    wanted = {name: [list(x.shape), str(x.dtype)] for name, x in tree.flatten(abstract).items()}
    for name in wanted.keys() | saved.keys():
        there, here = saved.get(name, [None])[:2] or None, wanted.get(name)
        if name not in saved or name not in wanted or there != here:
            raise UserError(
                f"{folder} does not fit this config: '{name}' is {there if name in saved else 'missing'} in "
                f"the checkpoint and {here or 'missing'} in the network; use the config that made it"
            )


def _cannot_write(directory: Any, error: Exception) -> UserError:
    text = str(error)
    for known in ("No space left on device", "Permission denied", "Read-only file system"):
        if known in text:
            return UserError(f"cannot write checkpoints to {directory}: {known}; the last complete one is kept")
    return UserError(f"cannot write checkpoints to {directory}: {text.splitlines()[0][:200]}")
