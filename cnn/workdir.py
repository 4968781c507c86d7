"""A run's folder: its lock, its config, and where things lie in it.

    config.json        the resolved config           checkpoints/   best and last states
    metrics.jsonl      one line per logged value      figures/       PNG
    summary.json       the result                     tensorboard/   events, when tensorboardX is there
    report.html        the same to look at
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn import config as configs
from cnn import distributed
from cnn.errors import UserError

# Fields that may differ when a run is taken up again: they do not change what is learned.
FREE = ("log_every_steps", "max_minutes", "profile_steps", "checkpoint.",
        "mesh.devices", "mesh.fsdp", "mesh.space", "mesh.num_slices", "input.threads",
        "input.workers", "input.in_memory", "input.data_dir", "eval.batch_size", "eval.baselines")  # fmt: skip


class Workdir:
    """The folder of one run.

    Args:
      path: created when absent.

    Raises:
      UserError: the path is a file, or cannot be written.
    """

    def __init__(self, path: str):
        if "://" in path:
            raise UserError(f"workdir '{path}': a run's folder is local here; give a path on this machine")
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"workdir '{path}' cannot be written: {error.strerror}; use another --workdir") from error
        self.checkpoints = self.path.absolute() / "checkpoints"  # Orbax takes no relative path
        self.figures = self.path / "figures"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self._config = self.path / "config.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder against a second run; the lock goes with the process, however it ends.

        Raises:
          UserError: another process holds it.
        """
        if not distributed.is_main():  # the first process holds it for all
            yield
            return
        with open(self.path / ".lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"workdir '{self.path}' is in use by another run (process {holder}); "
                    "wait for it, stop it, or use another --workdir"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def adopt(self, config: ConfigDict) -> None:
        """Writes the config, or checks it against the one of the run that is already here.

        Raises:
          UserError: a field that changes what is learned differs.
        """
        saved = self.checkpoints.exists() and any(p.name.isdigit() for p in self.checkpoints.iterdir())
        if self._config.exists() and saved:
            try:
                old = configs.from_json(self._config.read_text()).to_dict()
            except (ValueError, AttributeError) as error:
                raise UserError(
                    f"{self._config} is damaged ({error}); delete that file to go on with this config, "
                    "or use another --workdir"
                ) from error
            old, new = flat(old), flat(configs.from_json(configs.to_json(config)).to_dict())
            changed = [
                f"{k}: {old.get(k)} -> {new.get(k)}"
                for k in sorted(old.keys() | new.keys())
                if old.get(k) != new.get(k) and not k.startswith(FREE)
            ]
            if changed:
                raise UserError(
                    f"workdir '{self.path}' holds a run with another config ({'; '.join(changed[:5])}); "
                    "use another --workdir, or delete this one"
                )
        if distributed.is_main():
            write_text(self._config, configs.to_json(config) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, whole or not at all."""
        if distributed.is_main():
            write_text(self.summary, to_json(summary, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as every reader takes it: what is not finite becomes null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [finite(child) for child in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=indent, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Replaces a file by a rename, so that no reader and no crash sees half of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def flat(groups: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one dict with dotted names."""
    fields = {}
    for key, value in groups.items():
        if isinstance(value, dict):
            fields |= flat(value, f"{prefix}{key}.")
        else:
            fields[prefix + key] = value
    return fields
