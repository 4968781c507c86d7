"""`launch slurm`: an sbatch script, one process per node, that puts itself back into the queue after a save."""

import re
import shlex
from pathlib import Path

from cnn.errors import UserError
from cnn.flags import Parser
from cnn.stopping import EXIT_INTERRUPTED
from experiments.launch import command as commands
from experiments.launch import streams
from experiments.launch.gcloud import Runner
from experiments.launch.plan import Command, Plan, flag
from experiments.launch.record import Launch

WORD = re.compile(r"[A-Za-z0-9][\w.:@,+=-]{0,127}")
TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
SAVE_S = 300  # before the time limit: SIGTERM, so that the run saves
STOPPED = "stopped"  # a file of this name: `stop` wants the job to end, and not to be queued again


def flags(parser: Parser) -> None:
    """The flags of this target."""
    parser.add_argument("--nodes", type=int, default=1, help="one process on each")
    parser.add_argument(
        "--time", default="24:00:00", help="limit of one job, as sbatch takes it; the run goes on in the next"
    )
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--gpus-per-node", default="", help="for instance 8, or a100:4")
    parser.add_argument(
        "--setup", default="", help="a line of shell before training, for instance 'module load cuda'"
    )
    parser.add_argument("--python", default=".venv/bin/python", help="interpreter, from the checkout's root on")


def workdir(launch: Launch) -> str:
    """Where the run's folder is, unless the command says: the file system that all nodes share."""
    return f"runs/{launch.name}"


def checked(options: dict, folder: Path) -> None:
    """Raises UserError for a value that sbatch, or the lines of its script, would not take."""
    for name in ("partition", "account", "gpus_per_node"):
        if options[name] and not WORD.fullmatch(options[name]):
            raise UserError(f"--{name.replace('_', '-')} {options[name]!r}: letters, digits and ._:@,+=- only")
    if not TIME.fullmatch(options["time"]):
        raise UserError(f"--time {options['time']!r}: minutes, or [DAYS-]HH:MM:SS")
    if options["nodes"] < 1:
        raise UserError(f"--nodes {options['nodes']}: at least 1")
    if re.search(r"\s", str(folder)):
        raise UserError(f"--root {str(folder.parent)!r}: the lines of an sbatch script take no blanks in paths")
    if "\n" in options["setup"]:
        raise UserError("--setup is one line; put more into a script of your own and source it")


def header(launch: Launch, extra: tuple[str, ...]) -> list[str]:
    """The script's first lines: what sbatch reads."""
    options = launch.options
    wanted = [
        flag("job-name", launch.name),
        flag("nodes", options["nodes"]),
        flag("ntasks-per-node", 1),
        flag("time", options["time"]),
        *(flag(name, options[key]) for name, key in NAMED if options[key]),
        "--requeue",
        flag("open-mode", "append"),
        flag("signal", f"TERM@{SAVE_S}"),
        *extra,
    ]
    return ["#!/bin/bash", *(f"#SBATCH {line}" for line in wanted)]


NAMED = (("partition", "partition"), ("account", "account"), ("gpus-per-node", "gpus_per_node"))


def batch_script(launch: Launch) -> str:
    """The job: training on every node; a run that saved itself is put back into the queue."""
    words = commands.words(launch.command, launch.options["python"])
    lines = [
        *header(launch, (flag("output", f"{launch.folder}/slurm.log"),)),
        "set -u",
        *([launch.options["setup"]] if launch.options["setup"] else []),
        "export CNN_DISTRIBUTED=1  # jax.distributed finds its place from Slurm's variables",
        f"srun --label --kill-on-bad-exit=0 {shlex.join(words)}",
        "code=$?  # the highest of all processes",
        f'if [ "$code" -eq {EXIT_INTERRUPTED} ] && ! [ -e {shlex.quote(str(launch.folder / STOPPED))} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def plan(launch: Launch) -> Plan:
    """The script, and how it is submitted, looked at and cancelled.

    Raises:
      UserError: a value that Slurm would not take.
    """
    checked(launch.options, launch.folder)
    path = launch.folder / "job.sbatch"
    job = launch.known.get("job", "JOB")
    limit = f"{launch.options['time']} per job; it queues itself again while the run saves and stops"
    facts = (("workdir", commands.workdir(launch.command)), ("time", limit))
    return Plan(
        f"{launch.name}: {launch.options['nodes']} node(s) of a Slurm cluster, one process on each",
        tuple((what, value) for what, value in facts if value),
        ((str(path), batch_script(launch)),),
        (
            Command("submit", ("sbatch", "--parsable", str(path)), "puts the job into the queue", "cancel"),
            Command("ask", ("squeue", "--noheader", "--format=%T %M %R", flag("jobs", job)), "for `status`"),
            Command("cancel", ("scancel", str(job)), "for `stop`; the run saves first"),
        ),
    )


def run(launch: Launch) -> int:
    """Submits the job; returns as soon as it is in the queue."""
    (launch.folder / STOPPED).unlink(missing_ok=True)
    job = Runner(launch.folder).run(plan(launch).one("submit"), attempts=1).strip().partition(";")[0]
    launch.known["job"] = job
    launch.move("queued", f"job {job}; see: status {launch.name}")
    return 0


def status(launch: Launch) -> str:
    """What Slurm says about the job."""
    if "job" not in launch.known:
        return "not submitted"
    said = Runner(launch.folder).run(plan(launch).one("ask"), attempts=1, fine=("other", "argument")).strip()
    return f"job {launch.known['job']}: {said or 'no longer in the queue'}"


def stop(launch: Launch) -> None:
    """Cancels the job."""
    if "job" in launch.known:
        (launch.folder / STOPPED).touch()
        Runner(launch.folder).run(plan(launch).one("cancel"), attempts=1)
    launch.move("stopped")


def logs(launch: Launch, lines: int, follow: bool) -> int:
    """Prints the job's output."""
    streams.tail(launch.folder, lines, lambda: follow)
    return 0
