"""A run's folder: its lock, its config, and where things lie in it.

    config.json        the resolved config           checkpoints/   best and last states
    metrics.jsonl      one line per logged value      figures/       PNG
    summary.json       the result                     tensorboard/   events, when tensorboardX is there
    report.html        the same to look at

In a bucket (gs://BUCKET/RUN) checkpoints are written by Orbax where they belong; all else is made in a folder of this
machine, because a bucket appends nothing, and copied after every save.
"""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn import config as configs
from cnn.errors import UserError
from cnn.paths import output_folder
from cnn.run.formats import upgraded_config

# Fields that may differ when a run is taken up again: they do not change what is learned.
FREE = ("log_every_steps", "max_minutes", "profile_steps", "checkpoint.",
        "mesh.devices", "mesh.fsdp", "mesh.space", "mesh.num_slices", "input.threads",
        "input.workers", "input.in_memory", "input.data_dir", "eval.batch_size", "eval.baselines")  # fmt: skip

KEPT = ("config.json", "metrics.jsonl", "summary.json")  # read by a run that goes on
LOCK = ".lock"


class Workdir:
    """The folder of one run.

    Args:
      path: created when absent; a folder, or gs://BUCKET/RUN.
      main: whether this process writes; the others of the run only read.

    Attributes:
      name: as it was given; `path`: the folder on this machine.

    Raises:
      UserError: the path is a file, or cannot be written.
    """

    def __init__(self, path: str, main: bool = True):
        self.name, self._main, self._bucket = path, main, None
        self._copied: dict[str, tuple[int, int]] = {}
        if "://" in path:
            self._bucket = _in_bucket(path)
            self.path = Path(tempfile.mkdtemp(prefix="cnn-run-"))
            self._fetch()
        else:
            self.path = output_folder(path, "--workdir")
        self.checkpoints = (self._bucket or self.path.absolute()) / "checkpoints"  # Orbax takes no relative path
        self.figures = self.path / "figures"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self._config = self.path / "config.json"

    def _fetch(self) -> None:
        """Brings what a run that goes on reads."""
        for name in KEPT:
            if (self._bucket / name).exists():
                (self.path / name).write_bytes((self._bucket / name).read_bytes())

    def copy(self) -> None:
        """Copies what is new or changed to the bucket; nothing where the folder is none.

        Raises:
          UserError: it cannot be written.
        """
        if self._bucket is None or not self._main:
            return
        for file in sorted(path for path in self.path.rglob("*") if path.is_file() and path.name != LOCK):
            name, stat = str(file.relative_to(self.path)), file.stat()
            if self._copied.get(name) != (stat.st_mtime_ns, stat.st_size):
                try:
                    (self._bucket / name).parent.mkdir(parents=True, exist_ok=True)
                    (self._bucket / name).write_bytes(file.read_bytes())
                except OSError as error:
                    raise UserError(f"cannot write {self._bucket / name}: {error}") from error
                self._copied[name] = (stat.st_mtime_ns, stat.st_size)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder against a second run; the lock goes with the process, however it ends.

        Raises:
          UserError: another process holds it.
        """
        if not self._main or self._bucket:  # the first process holds it for all; a bucket has no locks
            yield
            return
        with open(self.path / LOCK, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"workdir '{self.name}' is in use by another run (process {holder}); "
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
                old = configs.from_json(json.dumps(upgraded_config(json.loads(self._config.read_text())))).to_dict()
            except (ValueError, AttributeError, KeyError, TypeError) as error:
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
                    f"workdir '{self.name}' holds a run with another config ({'; '.join(changed[:5])}); "
                    "use another --workdir, or delete this one"
                )
        if self._main:
            write_text(self._config, configs.to_json(config) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, whole or not at all."""
        if self._main:
            write_text(self.summary, to_json(summary, indent=2) + "\n")


def _in_bucket(path: str) -> Any:
    """The folder there, after a look at whether it can be written.

    Raises:
      UserError: no such kind of address, nothing that can read it is installed, or no permission.
    """
    from etils import epath

    if not path.startswith("gs://"):
        raise UserError(f"workdir '{path}': give a folder, or gs://BUCKET/RUN")
    try:
        folder = epath.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").write_text("")
    except ImportError as error:
        raise UserError(f"workdir '{path}': {error}; install gcsfs (pip install gcsfs)") from error
    except Exception as error:  # each client of a bucket has its own types
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"workdir '{path}' cannot be written: {reason}; see that the bucket is there") from error
    return folder


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
