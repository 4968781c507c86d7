"""Starts runs where they are to run, watches them, and takes everything down again.

    python -m experiments.launch local --name try --processes 2 --devices 4 -- --config=configs/....py
    python -m experiments.launch tpu --name run1 --type v5litepod-16 --zone us-central1-a --project P --bucket B -- ...
    python -m experiments.launch sweep --name lr --grid optim.lr=0.1,0.3 --jobs 2 -- --config=configs/....py
    python -m experiments.launch status run1

After '--' stand the flags of `cnn train` (or a program of your own). The plan is printed first, and `--dry-run` stops
there. A launch is kept in runs/launch/NAME: `status`, `logs`, `stop` and `resume` work from any shell.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cnn.errors import UserError, unknown
from cnn.flags import Parser
from cnn.run.workdir import write_text
from cnn.run.writers import read_metrics
from experiments.launch import command as commands
from experiments.launch import record
from experiments.launch.outcome import EXIT_MISTAKE
from experiments.launch.providers import PROVIDERS, Provider
from experiments.launch.record import Launch
from experiments.launch.watch import hours

PROG = "python -m experiments.launch"
COMMON = ("name", "root", "dry_run", "yes")  # flags that are no options of a target


def start(target: str, argv: list[str]) -> int:
    """`launch TARGET`: the plan and, after a yes, what it says."""
    provider = PROVIDERS[target]
    cut = argv.index("--") if "--" in argv else len(argv)
    about = f"{provider.about}\n\nAfter '--': flags of `cnn train`, or a program of your own."
    parser = Parser(target, about, PROG)
    parser.add_argument("--name", required=True, help="of the launch; the same again resumes it")
    parser.add_argument("--root", default=str(record.ROOT), help="folder of all launches")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    provider.flags(parser)
    args, _ = parser.parse(argv[:cut])
    options = {key: value for key, value in vars(args).items() if key not in COMMON}
    launch = Launch(record.check_name(args.name), target, options, [], Path(args.root))
    launch.command = commands.checked(argv[cut + 1 :], lambda: provider.workdir(launch))
    launch = known(launch)
    if "commit" not in launch.known:
        provider.prepare(launch)
    plan = provider.plan(launch)
    print(plan.text(), flush=True)
    if args.dry_run:
        return 0
    if provider.asks and not args.yes:
        agreed()
    return begin(launch, provider)


def known(launch: Launch) -> Launch:
    """The launch as it was left, where it was launched before with the same words.

    Raises:
      UserError: it was launched with others.
    """
    if launch.name not in record.names(launch.root):
        return launch
    old = record.load(launch.name, launch.root)
    if (old.target, old.options, old.command) != (launch.target, launch.options, launch.command):
        raise UserError(
            f"launch '{launch.name}' exists with other flags; use another --name, or go on: resume {launch.name}"
        )
    return old


def agreed() -> None:
    """Asks.

    Raises:
      UserError: the answer is not yes, or nobody can be asked.
    """
    print("\nGo on? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer:
        raise UserError("nobody to ask: look at the plan with --dry-run, then say --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("not launched")


def begin(launch: Launch, provider: Provider) -> int:
    """Runs a launch that was planned, from its start or from where it is."""
    with launch.held():
        launch.deadline = time.time() + 3600 * launch.options["hours"] if "hours" in launch.options else 0.0
        launch.save()
        for path, content in provider.plan(launch).files:
            write_text(Path(path), content)
        return provider.run(launch)


def named(verb: str, argv: list[str], more: Callable[[Parser], None] = lambda parser: None) -> tuple:
    """The launch that `verb NAME` is about, its provider, and the flags."""
    parser = Parser(verb, VERBS[verb][1], PROG)
    parser.add_argument("launch", metavar="NAME")
    parser.add_argument("--root", default=str(record.ROOT), help="folder of all launches")
    more(parser)
    args, _ = parser.parse(argv)
    launch = record.load(args.launch, Path(args.root))
    return launch, PROVIDERS[launch.target], args


def status(argv: list[str]) -> int:
    """`launch status NAME`."""
    launch, provider, _ = named("status", argv)
    controller = launch.controller()
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(launch.history[-1][0])) if launch.history else "never"
    note = f" ({launch.history[-1][2]})" if launch.history and launch.history[-1][2] else ""
    print(f"{launch.name} ({launch.target}): {launch.phase}{note} since {since}, {launch.restarts} restart(s)")
    if controller:
        print(f"run by process {controller} here")
    elif launch.target in ("tpu", "local", "sweep") and launch.phase not in (*record.ENDED, "planned"):
        print(f"its controller is gone: go on with `resume {launch.name}`, or end it with `stop {launch.name}`")
    if launch.deadline and launch.phase not in record.ENDED:
        print(f"deadline {time.strftime('%Y-%m-%d %H:%M', time.localtime(launch.deadline))}")
    place = commands.workdir(launch.command)
    rows = read_metrics(Path(place) / "metrics.jsonl") if place and not place.startswith(commands.CLOUD) else []
    if rows:
        print(
            "last metrics: " + ", ".join(f"{key} {value:.5g}" for key, value in rows[-1].items() if value is not None)
        )
    if said := provider.status(launch):
        print(said)
    return 0


def logs(argv: list[str]) -> int:
    """`launch logs NAME`."""

    def more(parser: Parser) -> None:
        parser.add_argument("--lines", type=int, default=20, help="the last so many of each worker")
        parser.add_argument("--follow", action="store_true", help="and what comes, until the launch ends")

    launch, provider, args = named("logs", argv, more)
    return provider.logs(launch, max(args.lines, 0), args.follow)


def stop(argv: list[str]) -> int:
    """`launch stop NAME`."""
    launch, provider, _ = named("stop", argv)
    controller = launch.controller()
    if not controller:
        with launch.held():
            provider.stop(launch)
        return 0 if record.load(launch.name, launch.root).phase == "stopped" else 1
    os.kill(controller, signal.SIGTERM)
    print(f"asked process {controller}, which runs it, to save and end", flush=True)
    while launch.controller() == controller:
        time.sleep(0.2)
    ended = record.load(launch.name, launch.root)
    print(f"{ended.name}: {ended.phase}")
    return 0 if ended.phase in ("stopped", "done") else 1


def resume(argv: list[str]) -> int:
    """`launch resume NAME`."""
    launch, provider, args = named(
        "resume", argv, lambda parser: parser.add_argument("--hours", type=hours, help="a new deadline, from now on")
    )
    if launch.phase == "done":
        print(f"{launch.name} is complete")
        return 0
    if args.hours is not None:
        if "hours" not in launch.options:
            raise UserError(f"--hours: a launch on {launch.target} has no deadline")
        launch.options["hours"] = args.hours
    return begin(launch, provider)


def listing(argv: list[str]) -> int:
    """`launch list`."""
    parser = Parser("list", VERBS["list"][1], PROG)
    parser.add_argument("--root", default=str(record.ROOT), help="folder of all launches")
    args, _ = parser.parse(argv)
    root = Path(args.root)
    for name in record.names(root):
        launch = record.load(name, root)
        held = f", run by process {pid}" if (pid := launch.controller()) else ""
        print(f"{name:<24} {launch.target:<6} {launch.phase:<10} {launch.restarts} restart(s){held}")
    return 0


VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "status": (status, "where a launch is"),
    "logs": (logs, "what its workers said"),
    "stop": (stop, "let it save, then take everything down"),
    "resume": (resume, "go on with a launch that was stopped, or whose controller is gone"),
    "list": (listing, "all launches"),
}


def usage() -> str:
    """The verbs."""
    about = {name: provider.about for name, provider in PROVIDERS.items()} | {
        name: verb[1] for name, verb in VERBS.items()
    }
    return "\n".join(
        [__doc__, "verbs:", *(f"  {name:<7} {text}" for name, text in about.items()), "", "Each takes --help."]
    )


def main(argv: list[str]) -> int:
    """The command line."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, rest = argv[0], argv[1:]
    if verb in PROVIDERS:
        return start(verb, rest)
    if verb not in VERBS:
        raise unknown("verb", verb, [*PROVIDERS, *VERBS])
    return VERBS[verb][0](rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"launch: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        print("launch: interrupted", file=sys.stderr)
        sys.exit(130)
