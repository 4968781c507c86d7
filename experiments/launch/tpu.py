"""`launch tpu`: Cloud TPU VMs, from a queued resource to its deletion.

The plan is every gcloud command. The run looks at the state of the queued resource and does what STATES says, until the
run is done or the launch is over; so a first start, a start after a preemption and a resume from another shell are the
same. Whatever happens, the queued resource is deleted at the end: nothing that costs is left.
"""

import datetime
import json
import re
import subprocess
import time

from cnn.errors import UserError
from cnn.flags import Parser
from cnn.preflight import prices
from experiments.launch import command as commands
from experiments.launch import hardware, remote, streams
from experiments.launch.gcloud import Runner, found
from experiments.launch.plan import Command, Plan, flag
from experiments.launch.record import Launch
from experiments.launch.watch import hours

ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
PROJECT = re.compile(r"([a-z][-a-z0-9.]{0,61}[a-z0-9]:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]")
ACCOUNT = re.compile(r"[\w.+-]+@[\w.-]+")
NETWORK = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
RUNTIME = re.compile(r"[a-z0-9][-.\w]{0,62}")
QUEUED, TPU = ("gcloud", "compute", "tpus", "queued-resources"), ("gcloud", "compute", "tpus", "tpu-vm")
BUCKETS = ("gcloud", "storage", "buckets")
MOST_HOSTS = 256
ON_MACHINES = ("source", "guard", "copy", "install", "start")  # once they are there, in this order


def flags(parser: Parser) -> None:
    """The flags of this target."""
    kinds = ", ".join(f"{kind.prefix}{kind.sizes[0]}" for kind in hardware.KINDS.values() if kind.prefix)
    parser.add_argument("--type", required=True, help=f"of TPU and its size: {kinds}, ..., v5litepod-16")
    parser.add_argument("--zone", required=True, help="for instance us-central1-a")
    parser.add_argument("--project", required=True, help="id of the Google Cloud project that pays")
    parser.add_argument("--bucket", default="", help="for the run's folder: gs://BUCKET/NAME")
    parser.add_argument("--spot", action="store_true", help="cheaper machines that may be taken away at any time")
    parser.add_argument(
        "--slices", type=int, default=1, help="so many of this type, joined by the data centre's network"
    )
    parser.add_argument("--hours", type=hours, default=12.0, help="then everything is deleted, finished or not")
    parser.add_argument("--prices", default="", help="CSV of your dollars per chip and hour: chip,on_demand,spot")
    parser.add_argument("--runtime", default="", help="another software version of the VMs than Google's common one")
    parser.add_argument("--service-account", default="", help="of the VMs; default: Compute Engine's")
    parser.add_argument("--network", default="")
    parser.add_argument("--subnetwork", default="")
    parser.add_argument(
        "--internal-ips", action="store_true", help="no address that the internet sees; needs Cloud NAT"
    )
    parser.add_argument("--setup", default="", help="a line of shell for each worker after that, to fetch data")
    parser.add_argument("--commit", default="HEAD", help="of this checkout, installed on the workers")
    parser.add_argument(
        "--max-restarts", type=int, default=3, help="after failures of the run; preemptions do not count"
    )
    parser.add_argument("--poll", type=float, default=30.0, help="seconds between two looks at the state")


def workdir(launch: Launch) -> str:
    """Where the run's folder is, unless the command says."""
    bucket = launch.options["bucket"]
    if not bucket:
        raise UserError("give --bucket=BUCKET, or a --workdir=gs://BUCKET/FOLDER after '--'")
    if not BUCKET.fullmatch(bucket):
        raise UserError(
            f"--bucket {bucket!r} is no name of a bucket: lower-case letters, digits and '-', without gs://"
        )
    return f"{commands.CLOUD}{bucket}/{launch.name}"


RULES = (
    ("zone", ZONE, "a zone is like us-central1-a (see: gcloud compute tpus locations list)"),
    ("project", PROJECT, "an id like my-project-123 (see: gcloud projects list)"),
    ("service_account", ACCOUNT, "an address like NAME@PROJECT.iam.gserviceaccount.com"),
    ("network", NETWORK, "lower-case letters, digits and '-'"),
    ("subnetwork", NETWORK, "lower-case letters, digits and '-'"),
    ("runtime", RUNTIME, "a software version like v2-alpha-tpuv5-lite"),
)


def checked(options: dict) -> hardware.Slice:
    """The slice that is asked for.

    Raises:
      UserError: a value that Google Cloud would not take.
    """
    for name, rule, advice in RULES:
        if options[name] and not rule.fullmatch(options[name]):
            raise UserError(f"--{name.replace('_', '-')} {options[name]!r}: {advice}")
    part = hardware.of_type(options["type"])
    if options["slices"] < 1 or options["slices"] * part.hosts > MOST_HOSTS:
        raise UserError(f"--slices {options['slices']}: from 1 on, and at most {MOST_HOSTS} hosts in all")
    if "\n" in options["setup"]:
        raise UserError("--setup is one line; put more into a script of the project and call that")
    if options["max_restarts"] < 0 or options["poll"] <= 0:
        raise UserError("--max-restarts is at least 0, --poll more than 0")
    return part


def prepare(launch: Launch) -> None:
    """Pins what must not change over restarts: the commit that the workers install, the price.

    Raises:
      UserError: a value that Google Cloud would not take, no price, no such commit, or something that it lacks.
    """
    part, wanted = checked(launch.options), launch.options["commit"]
    if launch.options["prices"]:
        price = prices.per_chip_hour(launch.options["prices"], part.kind, launch.options["spot"])
        launch.known["usd_per_chip_hour"] = price
    if git("rev-parse", "--show-prefix") != "\n":
        raise UserError("launch from the root of a git checkout of the project: workers install a commit of it")
    commit = git("rev-parse", "--verify", "--end-of-options", f"{wanted}^{{commit}}")
    if not commit:
        raise UserError(f"--commit {wanted!r} is no commit of this checkout")
    launch.known["commit"] = commit = commit.strip()
    changed = git("status", "--porcelain", "--untracked-files=no") if wanted == "HEAD" else ""
    if changed:
        raise UserError(
            f"{len(changed.splitlines())} file(s) differ from the last commit, and workers install a commit: "
            f"commit them, or leave them out with --commit={commit[:12]}"
        )
    config = commands.config(launch.command)
    if config and git("cat-file", "-t", f"{commit}:{config}") != "blob\n":
        raise UserError(
            f"config file '{config}' is not in commit {commit[:12]}, which the workers install: commit it"
        )


def git(*words: str) -> str:
    """What git says; '' where it fails."""
    return subprocess.run([found("git"), *words], capture_output=True, text=True).stdout


def nodes(launch: Launch) -> list[str]:
    """Names of the slices: of TPU VMs, as Google Cloud calls them."""
    count = launch.options["slices"]
    return [launch.name] if count == 1 else [f"{launch.name}-{index}" for index in range(count)]


def ssh(launch: Launch, node: str, worker: str, text: str) -> tuple[str, ...]:
    """Words that run a script on one worker of a slice, or on 'all'."""
    return (*TPU, "ssh", node, *_place(launch), flag("worker", worker), flag("command", text))


def _place(launch: Launch) -> tuple[str, ...]:
    internal = ("--internal-ip",) if launch.options["internal_ips"] else ()
    return (*where(launch), *internal)


def where(launch: Launch) -> tuple[str, ...]:
    """Flags that every command has."""
    return flag("project", launch.options["project"]), flag("zone", launch.options["zone"]), "--quiet"


def seconds_left(launch: Launch) -> int:
    """Until the deadline; all of it before the start."""
    return round(max(launch.deadline - time.time(), 60) if launch.deadline else launch.options["hours"] * 3600)


def plan(launch: Launch) -> Plan:
    """Every gcloud command of a launch.

    Raises:
      UserError: a value that Google Cloud would not take.
    """
    options = launch.options
    part = checked(options)
    commands.needs_cloud(launch.command)
    count = options["slices"]
    facts = (
        ("workdir", commands.workdir(launch.command)),
        ("cost", cost(launch, part)),
        ("deadline", deadline(launch)),
        ("commit", launch.known["commit"]),
    )
    return Plan(
        f"{launch.name}: {count} x {options['type']} in {options['zone']}{', spot' * options['spot']}: "
        f"{count * part.hosts} host(s), {count * part.chips} chips",
        tuple((what, value) for what, value in facts if value),
        (),
        (*_request(launch, part), *_machines(launch), *_run(launch, part), _delete(launch)),
    )


def _request(launch: Launch, part: hardware.Slice) -> list[Command]:
    """What comes before there are machines."""
    options, place, name = launch.options, where(launch), launch.name
    count = options["slices"]
    named = (flag("node-id", name),) if count == 1 else (flag("node-count", count), flag("node-prefix", name))
    given = ("service_account", "network", "subnetwork")
    create = (
        *(*QUEUED, "create", name, *place, *named),
        flag("accelerator-type", options["type"]),
        flag("runtime-version", options["runtime"] or hardware.KINDS[part.kind].runtime),
        flag("valid-until-duration", f"{seconds_left(launch)}s"),
        *(["--spot"] if options["spot"] else []),
        *(flag(key.replace("_", "-"), options[key]) for key in given if options[key]),
        *(["--internal-ips"] if options["internal_ips"] else []),
    )
    describe = (*QUEUED, "describe", name, *place, "--format=json")
    steps = [
        Command("create", create, "asks for the machines; what is not granted by the deadline expires", "delete"),
        Command("describe", describe, f"its state, every {options['poll']:g} s"),
    ]
    bucket = commands.workdir(launch.command).removeprefix(commands.CLOUD).partition("/")[0]
    if bucket:
        look = (*BUCKETS, "describe", f"{commands.CLOUD}{bucket}", place[0], "--format=value(location)")
        steps.insert(0, Command("bucket", look, "the bucket is there, before anything costs"))
    return steps


def _machines(launch: Launch) -> list[Command]:
    """What makes machines ready and starts training on them; in the order of ON_MACHINES."""
    commit, slices = launch.known["commit"], nodes(launch)
    copied = str(launch.folder / remote.archive(commit))
    archive = ("git", "archive", "--format=tar.gz", flag("output", copied), commit)
    seconds = seconds_left(launch) + remote.GUARD_S
    guard = ssh(launch, slices[0], "0", remote.guard(commit, seconds, _delete(launch).argv))
    late = f"deletes all {remote.GUARD_S // 60} min after the deadline, even if this computer is gone by then"
    install = remote.install(commit, launch.options["setup"])
    start = remote.start(commit, launch.command)

    def on_all(name: str, text: str, why: str, undo: str = "") -> list[Command]:
        return [Command(name, ssh(launch, node, "all", text), why, undo) for node in slices]

    copies = [(*TPU, "scp", copied, f"{node}:", *_place(launch), "--worker=all") for node in slices]
    return [
        Command("source", archive, "the project as committed"),
        Command("guard", guard, late),
        *(Command("copy", copy, "the source, to the home of every worker") for copy in copies),
        *on_all("install", install, "pinned requirements and JAX for TPUs"),
        *on_all("start", start, "training, on every worker", "stop"),
    ]


def _run(launch: Launch, part: hardware.Slice) -> list[Command]:
    """What watches training and ends it."""
    text, slices = remote.stop(launch.known["commit"]), nodes(launch)
    return [
        *(follow(launch, node, worker) for node in slices for worker in range(part.hosts)),
        *(Command("stop", ssh(launch, node, "all", text), "the run saves and ends") for node in slices),
    ]


def _delete(launch: Launch) -> Command:
    argv = (*QUEUED, "delete", launch.name, *where(launch), "--force")
    return Command("delete", argv, "machines and request; also after Ctrl-C, at the deadline and after a failure")


def follow(launch: Launch, node: str, worker: int, first: int = 1) -> Command:
    """The stream of one worker's log from a line on; ends with training's exit code."""
    text = remote.follow(launch.known["commit"], first)
    return Command(
        "follow", ssh(launch, node, str(worker), text), "each worker's log, with its number before each line"
    )


def cost(launch: Launch, part: hardware.Slice) -> str:
    """Dollars per hour, and until the deadline."""
    chips = launch.options["slices"] * part.chips
    price = launch.known.get("usd_per_chip_hour")
    if price is None:
        return f"not known: {chips} chips; give --prices=FILE with yours (cloud.google.com/tpu/pricing)"
    hourly = price * chips
    left = seconds_left(launch) / 3600
    return f"${hourly:.2f} per hour ({chips} chips x ${price:g}), at most ${hourly * left:.2f} until the deadline"


def deadline(launch: Launch) -> str:
    """When everything is deleted."""
    if not launch.deadline:
        return f"{launch.options['hours']:g} h after the start: everything is deleted, finished or not"
    when = datetime.datetime.fromtimestamp(launch.deadline).astimezone()
    return f"{when:%Y-%m-%d %H:%M %Z}: everything is deleted, finished or not"


def state(describe: Command, runner: Runner) -> tuple[str, str]:
    """The state of the queued resource, '' where there is none, and what the service says about it."""
    text = runner.run(describe, fine=("gone",))
    if not text.strip():
        return "", ""
    said = json.loads(text)["state"]
    error = said.get("failedData", {}).get("error", {}).get("message", "")
    return said["state"], error


def status(launch: Launch) -> str:
    """What Google Cloud says about the request."""
    if "commit" not in launch.known:
        return ""
    now, error = state(plan(launch).one("describe"), Runner(launch.folder))
    return f"queued resource: {now or 'none, nothing costs'}{f' ({error})' if error else ''}"


def logs(launch: Launch, lines: int, follow: bool) -> int:
    """Prints what the workers said: from here where the launch is run, else from the machines."""
    if launch.controller() or state(plan(launch).one("describe"), Runner(launch.folder))[0] != "ACTIVE":
        streams.tail(launch.folder, lines, lambda: follow and bool(launch.controller()))
        return 0
    text = f'tail -n {lines} {"-f " if follow else ""}"$HOME/{remote.folder(launch.known["commit"])}/{remote.LOG}"'
    words = ssh(launch, nodes(launch)[0], "0", text)
    return subprocess.call([found(words[0]), *words[1:]])
