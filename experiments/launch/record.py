"""What is known about a launch: runs/launch/NAME/launch.json, so that another shell can ask, stop and resume.

launch.json     target, options, command, phase and history
commands.jsonl  every command that was run for it, with its exit code and seconds
*.log           what the workers said
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnn.errors import UserError, unknown
from cnn.paths import output_folder
from cnn.run.workdir import write_text

ROOT = Path("runs/launch")
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # what Google Cloud, Slurm and Kubernetes all take
ENDED = ("done", "failed", "stopped", "deadline")


@dataclasses.dataclass
class Launch:
    """One launch, as its file tells it.

    Attributes:
      name: of the launch, of its cloud resources and of its folder.
      target: a key of PROVIDERS, or 'sweep'.
      options: the flags of its target by name.
      command: what stood after '--'.
      phase: where it is; of ENDED when nothing of it runs any more.
      restarts: how often training was started again.
      deadline: seconds since the epoch at which all of it is taken down; 0 for none.
      known: what only the run itself learns: job ids, process ids.
      history: [seconds since the epoch, phase, note], oldest first.
    """

    name: str
    target: str
    options: dict[str, Any]
    command: list[str]
    root: Path = ROOT
    phase: str = "planned"
    restarts: int = 0
    deadline: float = 0.0
    known: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[list[Any]] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / self.name

    def save(self) -> None:
        """Writes launch.json, whole or not at all.

        Raises:
          UserError: the folder cannot be written.
        """
        output_folder(self.folder, "--root: the folder")
        fields = {key: value for key, value in dataclasses.asdict(self).items() if key != "root"}
        write_text(self.folder / "launch.json", json.dumps(fields, indent=2) + "\n")

    def move(self, phase: str, note: str = "") -> None:
        """Enters a phase, says so, and keeps it for other shells."""
        if (phase, note) == (self.phase, self.history[-1][2] if self.history else ""):
            return
        self.phase = phase
        self.history.append([time.time(), phase, note])
        self.save()
        print(f"{self.name}: {phase}{': ' if note else ''}{note}", flush=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the launch against a second controller; the hold goes with the process, however it ends.

        Raises:
          UserError: another process runs it, or the folder cannot be written.
        """
        output_folder(self.folder, "--root: the folder")
        with open(self.folder / ".lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"launch '{self.name}' is already run by process {self.controller()}; see: status {self.name}"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def controller(self) -> int:
        """The process that runs it on this machine; 0 when none does."""
        try:
            with open(self.folder / ".lock", "a+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return 0
                except OSError:
                    file.seek(0)
                    return int(file.read().strip() or 0)
        except FileNotFoundError:
            return 0


def check_name(name: str) -> str:
    """The name itself.

    Raises:
      UserError: it would not do as a name of a cloud resource and of a folder.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"name {name!r}: use 1 to 40 lower-case letters, digits and '-', from a letter on and with no '-' "
            "at the end, for instance run1"
        )
    return name


def names(root: Path = ROOT) -> list[str]:
    """Of all launches, sorted."""
    return sorted(path.parent.name for path in root.glob("*/launch.json"))


def load(name: str, root: Path = ROOT) -> Launch:
    """A launch by its name.

    Raises:
      UserError: there is none, or its file is damaged.
    """
    path = root / check_name(name) / "launch.json"
    if not path.is_file():
        raise unknown("launch", name, names(root))
    try:
        return Launch(root=root, **json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete that folder to use the name again") from error
