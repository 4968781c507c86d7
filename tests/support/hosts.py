"""Runs of `launch local` for tests: processes that stand for hosts, and what can happen to them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "support" / "hosts_config.py"
LONGEST_S = 150.0
QUICK = (sys.executable, "-m", "tests.support.quick")


class Hosts:
    """A launch that goes on in the background.

    Args:
      folder: of the test; the run's is `folder/run`.
      options: of `launch local`.
      training: flags of `cnn train`.
      program: what is run in place of `cnn train`, with its first words; QUICK is the same without pictures.
    """

    def __init__(self, folder: Path, processes: int, devices: int = 1, options=(), training=(), program=QUICK):
        self.folder, self.workdir = folder, folder / "run"
        words = [f"--config={CONFIG}", f"--workdir={self.workdir}", *training]
        start = [sys.executable, "-m", "experiments.launch", "local", "--name=r", f"--root={folder / 'launches'}"]
        options = ["--max-restarts=1", *options, f"--processes={processes}", f"--devices={devices}", "--yes"]
        self._log = open(folder / "launch.log", "a")  # noqa: SIM115 (closed in close)
        self.process = subprocess.Popen(
            [*start, *options, "--", *program, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def said(self) -> str:
        """All that was printed so far."""
        return (self.folder / "launch.log").read_text()

    def pids(self) -> list[int]:
        """The processes that run now."""
        return json.loads((self.folder / "launches" / "r" / "launch.json").read_text())["known"]["processes"]

    def steps(self) -> list[int]:
        """Saved steps that are complete."""
        there = (self.workdir / "checkpoints").glob("*")
        return sorted(int(path.name) for path in there if path.name.isdigit())

    def until(self, happens: Callable[[], object]) -> None:
        """Waits for something; fails with all that was said where the launch ends before, or it takes too long."""
        end = time.monotonic() + LONGEST_S
        while not happens():
            assert self.process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.02)

    def ended(self) -> int:
        """The exit code, at the end."""
        try:
            return self.process.wait(LONGEST_S)
        finally:
            self.close()

    def close(self) -> None:
        """Ends what still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def logged(self) -> list[dict]:
        """Lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]
