"""A launcher in front of a fake cloud: starts `launch tpu` as a process, and tells what was called and what is left."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support import fake_cloud

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ("--config=configs/classification/digits_resnet.py", "--config.optim.lr=0.2")
FLAGS = (
    "--type=v4-8",
    "--zone=us-central1-a",
    "--project=my-project",
    "--bucket=bucket",
    "--spot",
    "--poll=0.1",
    "--commit=HEAD~0",
)
SCRIPTS = (  # a word of each script for the workers
    ("pip install", "install"),
    ("queued-resources delete", "guard"),
    ("trap : TERM", "start"),
    ("kill -TERM", "stop"),
    ("tail -n +", "follow"),
)


class Place:
    """A cloud, a folder of launches, and the command line in front of them."""

    def __init__(self, folder: Path, **scenario):
        self.cloud, self.root = folder / "cloud", folder / "launches"
        tools = fake_cloud.make(self.cloud, **({"hosts": 1} | scenario))
        self.environment = tools | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def words(self, verb: str, *flags: str) -> list[str]:
        return [sys.executable, "-m", "experiments.launch", verb, f"--root={self.root}", *flags]

    def start(self, *flags: str, train: tuple[str, ...] = TRAIN) -> subprocess.Popen:
        words = self.words("tpu", "--name=run1", *FLAGS, *flags, "--yes", "--", *train)
        return subprocess.Popen(
            words, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def launch(self, *flags: str, train: tuple[str, ...] = TRAIN) -> tuple[int, str]:
        """Exit code and output of a launch that ends by itself."""
        process = self.start(*flags, train=train)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def verb(self, verb: str, *flags: str) -> tuple[int, str]:
        words = self.words(verb, *flags)
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.cloud / "calls.jsonl").read_text().splitlines()]

    def stream(self) -> list[str]:
        """What was called, in order; a row of equal calls counts once, and so does all of the watching."""
        names: list[str] = []
        for argv in self.calls():
            name = label(argv)
            watching = name == "follow" or name == "describe" and names[-1:] == ["watch"]
            names.append("watch" if watching else name)
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before]

    def state(self) -> dict:
        return json.loads((self.cloud / "state.json").read_text())

    def left(self) -> list[str]:
        """Queued resources and machines that still cost, and processes on them."""
        machines = self.cloud / "machines"
        return [*self.state()["queued"], *(path.name for path in machines.glob("*"))]

    def record(self) -> dict:
        return json.loads((self.root / "run1" / "launch.json").read_text())


def label(argv: list[str]) -> str:
    if "ssh" in argv:
        script = fake_cloud.value(argv, "command")
        return next(name for word, name in SCRIPTS if word in script)
    return next(word for word in ("buckets", "create", "describe", "delete", "scp") if word in argv)
