"""`launch sweep`: many runs of one config, what they scored in one table, and an early end for those that have lost.

Each run is a trial with a folder of its own under the workdir. What a trial came to is read from its folder, so a sweep
that was interrupted goes on with `resume`, and a finished trial is never run again.
"""

import csv
import io
import math
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn import flags as cli
from cnn.errors import UserError
from cnn.flags import Parser
from cnn.run.workdir import write_text
from cnn.run.writers import parse_metrics
from cnn.stopping import Interrupts
from experiments.launch import command as commands
from experiments.launch import local, outcome, rules, slurm, streams, tpu
from experiments.launch.executors import Array, Children, Executor, array_files, child_words
from experiments.launch.gcloud import Runner, found
from experiments.launch.plan import Command, Plan
from experiments.launch.record import NAME, Launch
from experiments.launch.trials import Trial, trials
from experiments.launch.watch import Ended, Watch

TARGETS = {"local": local, "slurm": slurm, "tpu": tpu}
DONE, LOST, FAILED, OPEN = "done", "stopped early", "failed", "open"


def flags(parser: Parser) -> None:
    """The flags of this target."""
    parser.add_argument("--on", choices=TARGETS, default="local", help="where the runs run")
    parser.add_argument(
        "--with", dest="with_", default="", metavar="FLAGS", help="of that target, in one word: '--nodes 2'"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--grid", action="append", default=[], metavar="FIELD=V,V", help="every combination is run")
    parser.add_argument(
        "--random", action="append", default=[], metavar="FIELD=RANGE", help="log:LOW:HIGH, lin:, int:, or V,V"
    )
    parser.add_argument("--trials", type=int, default=10, help="how many are drawn, with --random")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--metric", default="eval/accuracy", help="of metrics.jsonl, that runs are compared by")
    parser.add_argument("--mode", choices=("max", "min"), default="max")
    parser.add_argument("--rule", choices=rules.RULES, default="none", help="ends runs that have lost")
    parser.add_argument(
        "--start", type=int, default=100, help="step from which the rule looks; halving: the first rung"
    )
    parser.add_argument(
        "--eta", type=int, default=3, help="halving: one in so many goes on, and each rung is so much later"
    )
    parser.add_argument("--best", type=int, default=5, help="lines of the table that are printed")
    parser.add_argument("--poll", type=float, default=10.0, help="seconds between two looks at the metrics")


def target_options(launch: Launch) -> dict[str, Any]:
    """The flags of --with, as the target reads them."""
    on = launch.options["on"]
    parser = Parser("", "")
    parser.prog = f"--with, of launch {on}"
    TARGETS[on].flags(parser)
    return vars(parser.parse(shlex.split(launch.options["with_"]))[0])


def workdir(launch: Launch) -> str:
    """Where the runs' folders are, unless the command says."""
    inner = Launch(launch.name, launch.options["on"], target_options(launch), [], launch.root)
    return TARGETS[launch.options["on"]].workdir(inner)


def all_trials(launch: Launch) -> list[Trial]:
    """The trials, the same for the same flags.

    Raises:
      UserError: a range that cannot be read, a field that the config does not have.
    """
    options = launch.options
    for name, least in (("jobs", 1), ("start", 1), ("eta", 2), ("best", 1)):
        if options[name] < least:
            raise UserError(f"--{name} {options[name]}: at least {least}")
    if not NAME.fullmatch(f"{launch.name}-000"):
        raise UserError(f"name '{launch.name}' is too long for a sweep, whose runs are called {launch.name}-000, ...")
    if not commands.is_training(launch.command):
        raise UserError("a sweep changes fields of a config: give flags of cnn train after '--'")
    return trials(options["grid"], options["random"], options["trials"], options["seed"])


def trial_command(launch: Launch, trial: Trial) -> list[str]:
    """Flags of `cnn train` for one trial: the sweep's, its overrides, its own workdir."""
    parser = cli.Parser("train", "")
    parser.add_argument("--workdir")
    args, rest = parser.parse_known_args(launch.command)
    return [*rest, *trial.flags(), f"--workdir={args.workdir}/{trial.id}"]


def plan(launch: Launch) -> Plan:
    """One command per trial, or the files of a Slurm array.

    Raises:
      UserError: what a trial, its target or its config would not take.
    """
    todo = all_trials(launch)
    options, inner = launch.options, target_options(launch)
    lines = [trial_command(launch, trial) for trial in todo]
    for line in lines:
        commands.checked(line, str)
    rule = (
        options["rule"]
        if options["rule"] == "none"
        else f"{options['rule']} by {options['metric']}, from step {options['start']} on"
    )
    facts = [("runs", f"{len(todo)}, {options['jobs']} at once"), ("early end", rule)]
    facts += [("workdir", commands.workdir(launch.command)), ("table", str(launch.folder / "results.csv"))]
    title = f"{launch.name}: a sweep over {', '.join(todo[0].overrides)} on {options['on']}"
    if options["on"] == "slurm":
        array = (
            "sbatch",
            "--parsable",
            f"--array=0-{len(todo) - 1}%{options['jobs']}",
            str(launch.folder / "array.sbatch"),
        )
        cancel = Command("cancel", ("scancel", str(launch.known.get("job", "JOB"))), "for `stop`")
        submit = Command("submit", array, "puts the array into the queue; `resume` submits what is left", "cancel")
        return Plan(title, tuple(facts), array_files(launch, inner, lines), (submit, cancel))
    if options["on"] == "tpu":
        first = Launch(f"{launch.name}-{todo[0].id}", "tpu", inner, lines[0], launch.folder)
        tpu.prepare(first)
        facts += [(f"{what}, each", value) for what, value in tpu.plan(first).facts if what in ("cost", "deadline")]
    words = [
        child_words(launch, trial, line, shlex.split(options["with_"]))
        for trial, line in zip(todo, lines, strict=True)
    ]
    return Plan(
        title, tuple(facts), (), tuple(Command("trial", tuple(w), "a launch of its own", "Ctrl-C") for w in words)
    )


def read(place: str) -> str:
    """The text of a file on this machine or in a bucket; '' where there is none."""
    if not place.startswith(commands.CLOUD):
        path = Path(place)
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    done = subprocess.run([found("gcloud"), "storage", "cat", place], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def finished(launch: Launch, trial: Trial) -> bool:
    """Whether the trial's run is complete."""
    return bool(read(f"{commands.workdir(launch.command)}/{trial.id}/summary.json"))


def curves(launch: Launch, todo: Sequence[Trial]) -> dict[str, list[tuple[int, float]]]:
    """What each trial scored, by step; larger is better."""
    above, options = commands.workdir(launch.command), launch.options
    lines = {trial.id: parse_metrics(read(f"{above}/{trial.id}/metrics.jsonl")) for trial in todo}
    return {name: rules.curve(rows, options["metric"], options["mode"]) for name, rows in lines.items()}


def results(launch: Launch, todo: Sequence[Trial]) -> list[dict[str, Any]]:
    """One line per trial, the best first; trials without a value come last."""
    sign = 1.0 if launch.options["mode"] == "max" else -1.0
    lines = []
    for name, points in curves(launch, todo).items():
        overrides = next(trial.overrides for trial in todo if trial.id == name)
        scored = [point for point in points if math.isfinite(point[1])]
        step, value = max(scored, key=lambda point: point[1]) if scored else (None, None)
        state = launch.known.get("trials", {}).get(name, [OPEN, ""])
        lines.append(
            {"trial": name, "state": state[0], "why": state[1], **overrides}
            | {"best": None if value is None else sign * value, "at step": step}
            | {"last step": points[-1][0] if points else None}
        )
    return sorted(lines, key=lambda line: (line["best"] is None, 0 if line["best"] is None else -sign * line["best"]))


def write(launch: Launch, lines: Sequence[Mapping[str, Any]]) -> None:
    """results.csv."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    write_text(launch.folder / "results.csv", text.getvalue())


def table(launch: Launch, lines: Sequence[Mapping[str, Any]]) -> str:
    """The best lines as Markdown. The best of many is flattered: its test score is the one to report."""
    shown = lines[: launch.options["best"]]
    columns = [column for column in lines[0] if column != "why"]

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

    head = [
        f"best {len(shown)} of {len(lines)} by the best step's {launch.options['metric']} ({launch.options['mode']}):"
    ]
    unscored = sum(line["best"] is None for line in lines)
    if unscored:
        head[0] += f" ({unscored} without a finite value)"
    rows = [columns, ["---"] * len(columns), *([cell(line[column]) for column in columns] for line in shown)]
    return "\n".join([*head, "", *(f"| {' | '.join(row)} |" for row in rows)])


def executor(launch: Launch, todo: Sequence[Trial]) -> Executor:
    """Of the sweep's target."""
    if launch.options["on"] == "slurm":
        return Array(launch, todo, lambda trial: finished(launch, trial))
    extra = shlex.split(launch.options["with_"])
    return Children(
        lambda trial: child_words(launch, trial, trial_command(launch, trial), extra),
        launch.folder,
        launch.options["jobs"],
    )


def run(launch: Launch) -> int:
    """Runs what is open of the sweep; returns 1 where a trial failed."""
    todo = all_trials(launch)
    known = launch.known.setdefault("trials", {})
    for trial in todo:
        if known.get(trial.id, [OPEN])[0] not in (DONE, LOST):
            known[trial.id] = [DONE, ""] if finished(launch, trial) else [OPEN, ""]
    runs = executor(launch, todo)
    is_open = [trial for trial in todo if known[trial.id][0] == OPEN]
    launch.move("training", f"{len(is_open)} of {len(todo)} runs to do")
    with Interrupts() as interrupts:
        watch = Watch(launch, interrupts)
        try:
            runs.start(is_open)
            while any(known[trial.id][0] == OPEN for trial in todo):
                streams.wait(watch, lambda: False, launch.options["poll"])
                look(launch, todo, runs)
        except Ended as end:
            launch.move(end.phase, f"{end}; resume {launch.name} goes on")
            return outcome.EXIT_INTERRUPTED
        finally:
            runs.close()
            lines = results(launch, todo)
            write(launch, lines)
            print(table(launch, lines), flush=True)
    failed = [trial.id for trial in todo if known[trial.id][0] == FAILED]
    launch.move("failed" if failed else "done", f"failed: {', '.join(failed)}" if failed else "")
    return outcome.EXIT_BUG if failed else outcome.EXIT_DONE


def look(launch: Launch, todo: Sequence[Trial], runs: Executor) -> None:
    """Takes note of the trials that ended, and ends those that have lost."""
    known = launch.known["trials"]
    for name, code in runs.ended().items():
        if known[name][0] != LOST:
            known[name] = [DONE, ""] if code == 0 else [FAILED, f"exit code {code}"]
            print(f"trial {name}: {known[name][0]} {known[name][1]}".rstrip(), flush=True)
    found_curves = curves(launch, todo) if launch.options["rule"] != "none" else {}
    for name, points in found_curves.items():
        if known[name][0] != OPEN or not points:
            continue
        why = rules.RULES[launch.options["rule"]](name, found_curves, launch.options["start"], launch.options["eta"])
        if why:
            known[name] = [LOST, why]
            print(f"trial {name}: {LOST}: {why}", flush=True)
            runs.kill(name)
    write(launch, results(launch, todo))
    launch.save()


def status(launch: Launch) -> str:
    """The table."""
    return table(launch, results(launch, all_trials(launch)))


def stop(launch: Launch) -> None:
    """Cancels what a Slurm array still has; the other targets end with their controller."""
    if "job" in launch.known:
        Runner(launch.folder).run(plan(launch).one("cancel"), attempts=1)
    launch.move("stopped")


def logs(launch: Launch, lines: int, follow: bool) -> int:
    """Prints what the trials said."""
    streams.tail(launch.folder, lines, lambda: follow and bool(launch.controller()))
    return 0
