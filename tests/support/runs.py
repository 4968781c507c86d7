"""Small training runs for tests: a config of seconds, and processes that may be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnn import config

ROOT = Path(__file__).resolve().parent.parent.parent


def tiny(**changes: Any) -> ConfigDict:
    """A network with BatchNorm and dropout on 64 made-up digits, all state that a run can have.

    Args:
      changes: fields by dotted name with '__' for '.': `optim__lr=0.1`.
    """
    c = config.default()
    c.seed = 3
    c.total_steps = 20
    c.log_every_steps = 25  # too few laps for the bare step to be timed, which takes seconds
    c.model = ConfigDict({"name": "resnet_small", "stage_sizes": (1,), "width": 8, "dropout": 0.2})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1, "mixup_alpha": 0.2})
    c.input.dataset = "digits"
    c.input.fake = True
    c.input.batch_size = 16
    c.input.train_transforms = (("pad_crop", {"padding": 1}),)
    c.input.mean, c.input.std = (0.5,), (0.25,)
    c.optim.lr = 0.05
    c.optim.weight_decay = 5e-4
    c.optim.ema_decay = 0.9
    c.schedule.warmup_steps = 2
    c.eval.split, c.eval.test_split = "test", ""
    c.eval.every_steps = 5
    c.eval.batch_size = 40
    c.eval.baselines = False
    c.checkpoint.every_steps = 3
    c.mesh.devices = 1
    for name, value in changes.items():
        *groups, field = name.split("__")
        group = c
        for part in groups:
            group = group[part]
        group[field] = value
    return c.lock()


class Killable:
    """Runs configs in processes of their own, forked from one that has everything imported.

    Args:
      folder: for logs and journals.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # One thread per BLAS: threads do not survive a fork.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def run(
        self,
        settings: ConfigDict,
        workdir: Path,
        kill: dict[str, Any] | None = None,
        devices: int = 1,
        stale: bool = False,
    ) -> int:
        """Trains in a new process; its exit code, or minus the number of the signal that ended it.

        Args:
          kill, stale: see tests/support/killable.py.
        """
        job = {
            "config": config.to_json(settings),
            "workdir": str(workdir),
            "log": str(self._file(workdir, "log")),
            "journal": str(self._file(workdir, "journal")),
            "final": str(self._file(workdir, "final.json")),
            "devices": devices,
            "kill": kill,
            "stale": stale,
        }
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the server of killable runs died with {self._server.wait(10)}"
        return json.loads(answer)["status"]

    def log(self, workdir: Path) -> str:
        """All output of the runs in a workdir."""
        return self._file(workdir, "log").read_text()

    def journal(self, workdir: Path) -> list[dict[str, Any]]:
        """[{step, rows, digest}] of all the runs in a workdir, in the order in which they happened."""
        return [json.loads(line) for line in self._file(workdir, "journal").read_text().splitlines()]

    def final(self, workdir: Path) -> dict[str, Any]:
        """{arrays: {name: sha256}, loop, position} of the last checkpoint of a finished run."""
        return json.loads(self._file(workdir, "final.json").read_text())

    def arrays(self, workdir: Path) -> dict[str, np.ndarray]:
        """The arrays of the last checkpoint of a finished run, by name."""
        with np.load(self._file(workdir, "final.npz")) as file:
            return dict(file)

    def _file(self, workdir: Path, kind: str) -> Path:
        return self._folder / f"{workdir.name}.{kind}"

    def close(self) -> None:
        """Ends the server."""
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()
