"""Where the runs of a sweep run: as launches of their own (on this machine, on TPUs), or as a Slurm array."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cnn.stopping import EXIT_INTERRUPTED
from experiments.launch import command as commands
from experiments.launch import slurm
from experiments.launch.gcloud import Runner
from experiments.launch.plan import Command, flag
from experiments.launch.record import Launch
from experiments.launch.trials import Trial


class Executor(Protocol):
    """Runs trials."""

    def start(self, todo: Sequence[Trial]) -> None:
        """Takes all of them; `--jobs` run at once."""

    def ended(self) -> dict[str, int]:
        """Ids of those that ended since the last call, with their exit codes."""

    def kill(self, trial: str) -> None:
        """Ends one that has lost; it saves first."""

    def close(self) -> None:
        """The sweep ends here; what still runs saves first."""


class Children:
    """Each trial is `launch local` or `launch tpu` in a process of its own.

    Args:
      words: of a trial's launch.
      outputs: folder for what they print.
      jobs: at once.
    """

    def __init__(self, words: Callable[[Trial], Sequence[str]], outputs: Path, jobs: int):
        self._words, self._outputs, self._jobs = words, outputs, jobs
        self._waiting: list[Trial] = []
        self._running: dict[str, subprocess.Popen] = {}

    def start(self, todo: Sequence[Trial]) -> None:
        """Takes all of them; `--jobs` run at once."""
        self._waiting = list(todo)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._jobs:
            trial = self._waiting.pop(0)
            with open(self._outputs / f"trial_{trial.id}.log", "ab") as log:
                self._running[trial.id] = subprocess.Popen(
                    self._words(trial), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

    def ended(self) -> dict[str, int]:
        """Ids of those that ended since the last call, with their exit codes."""
        codes = {name: code for name, child in self._running.items() if (code := child.poll()) is not None}
        for name in codes:
            del self._running[name]
        self._fill()
        return codes

    def kill(self, trial: str) -> None:
        """Ends one that has lost; it saves first."""
        if trial in self._running:
            self._running[trial].send_signal(signal.SIGTERM)
        self._waiting = [other for other in self._waiting if other.id != trial]

    def close(self) -> None:
        """The sweep ends here; what still runs saves first."""
        self._waiting = []
        for child in self._running.values():
            child.send_signal(signal.SIGTERM)
        for child in self._running.values():
            child.wait()


class Array:
    """All trials are one Slurm array; it goes on when the launcher ends.

    Args:
      launch: the sweep's.
      trials: all of it, those that are done too: a task's number is a trial's.
      finished: whether a trial's run is complete.
    """

    def __init__(self, launch: Launch, trials: Sequence[Trial], finished: Callable[[Trial], bool]):
        self._launch, self._trials, self._finished = launch, {trial.id: trial for trial in trials}, finished
        self._runner = Runner(launch.folder)
        self._open: set[str] = set()

    def start(self, todo: Sequence[Trial]) -> None:
        """Submits all of them, unless they are in the queue already."""
        self._open = {trial.id for trial in todo}
        if not (self._queued() & self._open):
            tasks = ",".join(str(int(trial.id)) for trial in todo)
            jobs = self._launch.options["jobs"]
            words = (
                "sbatch",
                "--parsable",
                flag("array", f"{tasks}%{jobs}"),
                str(self._launch.folder / "array.sbatch"),
            )
            said = self._runner.run(Command("submit", words, ""), attempts=1)
            self._launch.known["job"] = said.strip().partition(";")[0]
            self._launch.save()

    def _queued(self) -> set[str]:
        job = self._launch.known.get("job")
        if not job:
            return set()
        words = ("squeue", "--noheader", "--array", "--format=%K", flag("jobs", job))
        said = self._runner.run(
            Command("ask", words, ""), attempts=1, fine=("other",)
        )  # an old job is no longer known
        return {f"{int(line):03d}" for line in said.split() if line.isdigit()}

    def ended(self) -> dict[str, int]:
        """Ids of those that left the queue since the last call; 0 for those whose run is complete."""
        gone = self._open - self._queued()
        self._open -= gone
        return {name: 0 if self._finished(self._trials[name]) else EXIT_INTERRUPTED for name in sorted(gone)}

    def kill(self, trial: str) -> None:
        """Cancels one that has lost."""
        (self._launch.folder / f"killed_{int(trial)}").touch()  # so that its script does not queue it again
        self._runner.run(Command("kill", ("scancel", f"{self._launch.known['job']}_{int(trial)}"), ""), attempts=1)

    def close(self) -> None:
        """Nothing: the array stays in the queue, and `resume` looks at it again."""


def array_files(launch: Launch, options: dict, lines: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """The array's script, and the file whose lines are its commands.

    Args:
      options: of `launch slurm`.
      lines: flags of `cnn train`, or a program, by trial.
    """
    slurm.checked(options, launch.folder)
    listed = launch.folder / "commands.txt"
    settings = Launch(launch.name, "slurm", options, [], launch.root)
    head = slurm.header(settings, (flag("output", f"{launch.folder}/trial_%a.log"),))
    body = [
        "set -u",
        *([options["setup"]] if options["setup"] else []),
        "export CNN_DISTRIBUTED=1",
        f'line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(listed))})',
        'srun --label --kill-on-bad-exit=0 bash -c "$line"',
        "code=$?",
        f'killed={shlex.quote(str(launch.folder))}/killed_"$SLURM_ARRAY_TASK_ID"',
        f'if [ "$code" -eq {EXIT_INTERRUPTED} ] && ! [ -e "$killed" ]; then',
        '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
        "fi",
        'exit "$code"',
    ]
    text = "".join(f"{shlex.join(commands.words(line, options['python']))}\n" for line in lines)
    return (str(launch.folder / "array.sbatch"), "\n".join([*head, *body]) + "\n"), (str(listed), text)


def child_words(launch: Launch, trial: Trial, command: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words that launch one trial."""
    start = [sys.executable, "-m", "experiments.launch", launch.options["on"], f"--root={launch.folder}"]
    return [*start, f"--name={launch.name}-{trial.id}", "--yes", *options, "--", *command]
