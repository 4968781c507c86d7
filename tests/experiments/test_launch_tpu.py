"""`launch tpu` against a `gcloud` that keeps its machines in a folder: the plan, the commands, what is left."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.launch import hardware, remote
from experiments.launch.__main__ import main
from tests.support import fake_cloud

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
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


@pytest.fixture
def place(tmp_path):
    def make(**scenario) -> Place:
        made.append(Place(tmp_path, **scenario))
        return made[-1]

    made: list[Place] = []
    yield make
    for one in made:
        cloud = fake_cloud.Cloud(one.cloud)
        cloud.end_machines("run1")


BEGIN = ["buckets", "describe", "create", "describe"]
SETUP = ["guard", "scp", "install", "start", "watch"]
AGAIN = ["stop", "describe", *SETUP]
LONG = {"seconds": 60}
SETUP_LINE = 'printf "%s\\n" "a  b" > "$HOME/../../$FAKE_WORKER.txt"'

# name: (scenario, flags, stream, exit code, phase, words of the output)
CASES = {
    "create": ({"hosts": 2}, ("--type=v4-16",), [*BEGIN, *SETUP, "delete"], 0, "done", "[1] line 0"),
    "preempted": (
        {"states": [["ACTIVE"] * 3 + ["SUSPENDING", "SUSPENDED"], ["PROVISIONING", "ACTIVE"]], "train": [LONG, {}]},
        (),
        [*BEGIN, *SETUP, "delete", "describe", "create", "describe", *SETUP, "delete"],
        0,
        "done",
        "the machines were taken away",
    ),
    "quota": (
        {"errors": {"create": ["quota"]}},
        (),
        BEGIN[:3],
        2,
        "failed",
        "Limit: 0 in zone us-central1-a (ask for more",
    ),
    "permission": (
        {"errors": {"create": ["permission"]}},
        (),
        BEGIN[:3],
        2,
        "failed",
        "Permission denied on 'locations",
    ),
    "argument": ({"errors": {"create": ["argument"]}}, (), BEGIN[:3], 2, "failed", "accelerator-types list"),
    "transient": (
        {"errors": {"create": ["unavailable", "unavailable"]}},
        (),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "trying again in",
    ),
    "capacity": ({"errors": {"create": ["capacity"]}}, (), [*BEGIN, *SETUP, "delete"], 0, "done", "trying again in"),
    "lost answer": (
        {"errors": {"create": [fake_cloud.DONE_BUT]}},
        (),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "trying again in",
    ),
    "refused later": (
        {
            "states": [["WAITING_FOR_RESOURCES", "FAILED"]],
            "failure": "Quota limit 'TPUV5s' has been exceeded. Limit: 0",
        },
        (),
        [*BEGIN, "delete"],
        2,
        "failed",
        "Quota limit 'TPUV5s' has been exceeded",
    ),
    "no machines": (
        {"states": [["FAILED"], ["ACTIVE"]], "failure": "There is no more capacity in the zone"},
        (),
        [*BEGIN, "delete", "describe", "create", "describe", *SETUP, "delete"],
        0,
        "done",
        "renewing",
    ),
    "saved itself": (
        {"train": [{"code": 75}, {}]},
        (),
        [*BEGIN, *SETUP, *AGAIN, "delete"],
        0,
        "done",
        "restarting: saved and stopped",
    ),
    "lost a process": (
        {"train": [{"code": 137}, {"code": 137}], "hosts": 2},
        ("--max-restarts=1", "--type=v4-16"),
        [*BEGIN, *SETUP, *AGAIN, "delete"],
        75,
        "failed",
        "--max-restarts is used up",
    ),
    "mistake": ({"train": [{"code": 2}]}, (), [*BEGIN, *SETUP, "delete"], 2, "failed", "failed: a mistake"),
    "bug": ({"train": [{"code": 1}]}, (), [*BEGIN, *SETUP, "delete"], 1, "failed", "failed: the run failed"),
    "connection": (
        {"errors": {"ssh": ["", "", "", "ssh"]}},
        (),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "connection to worker 0 lost, connecting again",
    ),
    "guard": (
        {"errors": {"ssh": ["permission"]}},
        (),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "nothing but this process",
    ),
    "off the net": (
        {"errors": {"describe": ["", "", "", "", *["unavailable"] * 8]}, "train": [{"seconds": 2}]},
        (),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "[0] end",
    ),
    "install": (
        {"errors": {"ssh": ["", "pip"]}},
        (),
        [*BEGIN, "guard", "scp", "install", "describe", "delete"],
        2,
        "failed",
        "subprocess-exited-with-error",
    ),
    "no bucket": ({"buckets": ["other"]}, (), ["buckets"], 2, "failed", "gs://bucket not found: 404"),
    "slices": (
        {"hosts": 2},
        ("--slices=2", "--type=v4-16"),
        [*BEGIN, *SETUP, "delete"],
        0,
        "done",
        "[1.1] line 0",
    ),
}
FAST = ("create", "preempted", "quota")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_the_stream_of_commands(place, name):
    scenario, flags, stream, code, phase, words = CASES[name]
    here = place(**scenario)
    ended, output = here.launch(*flags)
    assert here.stream() == stream, output
    assert (ended, here.record()["phase"]) == (code, phase), output
    assert words in output
    assert here.left() == []
    assert "Traceback" not in output
    if code == 2:
        assert len(re.findall(r"^launch: error: ", output, re.M)) == (0 if name == "mistake" else 1)


def test_the_plan_is_what_is_printed_and_needs_no_gcloud(place):
    here = place()
    prices = here.cloud / "prices.csv"
    prices.write_text("chip,on_demand,spot\nv5e,1.2,0.5\n")
    (here.cloud / "bin" / "gcloud").unlink()
    code, output = here.verb(
        "tpu", "--name=run1", *FLAGS, "--type=v5litepod-16", f"--prices={prices}", "--dry-run", "--", *TRAIN
    )
    assert code == 0, output
    commit = re.search(r"commit +([0-9a-f]{40})", output)[1]
    text = (
        output.replace(commit, "COMMIT").replace(remote.folder(commit), "cnn-COMMIT").replace(str(here.root), "ROOT")
    )
    golden = GOLDEN / "tpu_plan.txt"
    if os.environ.get("RENEW_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert not here.root.exists() and here.calls() == []
    code, output = here.verb("tpu", "--name=run1", *FLAGS, "--yes", "--", *TRAIN)
    assert code == 2 and output.splitlines()[-1].startswith(
        "launch: error: gcloud is not on the PATH: install the Google Cloud CLI"
    )


@pytest.mark.slow
def test_what_runs_is_what_was_planned(place):
    here = place(hosts=2)
    code, output = here.launch("--hours=2", "--type=v4-16", f"--setup={SETUP_LINE}")
    assert code == 0, output
    journal = [json.loads(line) for line in (here.root / "run1" / "commands.jsonl").read_text().splitlines()]
    ran = {shlex.join(line["argv"]) for line in journal} | {shlex.join(["gcloud", *argv]) for argv in here.calls()}
    planned = output[output.index("bucket: ") : output.index("run1: creating")]
    for argv in ran:
        first = argv.splitlines()[0].split(" --valid")[0].replace("--worker=1", "--worker=0")
        assert first in planned, argv
    create = next(argv for argv in here.calls() if "create" in argv)
    assert create[3:6] == ["create", "run1", "--project=my-project"]
    for word in (
        "--node-id=run1",
        "--accelerator-type=v4-16",
        "--runtime-version=tpu-ubuntu2204-base",
        "--spot",
    ):
        assert word in create
    installs = (here.cloud / "installs.txt").read_text()
    assert installs.count("-r requirements.txt jax[tpu] gcsfs") == 2  # each worker, once
    assert (here.cloud / "run1-1.txt").read_text() == "a  b\n" and (here.cloud / "run1-0.txt").exists()
    trained = [line for line in output.splitlines() if "-m cnn.train" in line and line.startswith("[")]
    assert len(trained) == 2 and all(
        line.endswith("--config.optim.lr=0.2 --workdir=gs://bucket/run1") for line in trained
    )


def wait_for(process: subprocess.Popen, words: str) -> str:
    output = ""
    for line in process.stdout:
        output += line
        if words in line:
            return output
    raise AssertionError(f"'{words}' never came:\n{output}")


@pytest.mark.parametrize(
    "states, train, until, stream",
    [
        (["ACTIVE"], [LONG], "[0] line 0", [*BEGIN, *SETUP, "stop", "delete"]),
        (["ACTIVE"], [LONG], "run1: installing", None),
        (["WAITING_FOR_RESOURCES"], [{}], "run1: waiting", [*BEGIN, "delete"]),
    ],
)
def test_ctrl_c_saves_and_deletes(place, states, train, until, stream):
    here = place(states=[states], train=train)
    process = here.start("--poll=5")
    output = wait_for(process, until)
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert "stopped: received SIGINT; resume run1 goes on" in output and here.left() == []
    if stream:
        assert here.stream() == stream, output
    if "line" in until:
        ended = time.time()
        assert "the run saves" in output
        assert ended - here.record()["history"][-1][0] < 30


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_save_but_deletes(place):
    here = place(states=[["ACTIVE"]], train=[{"seconds": 60}])
    process = here.start("--poll=5")
    output = wait_for(process, "line 0")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    output += process.communicate(timeout=60)[0]
    assert process.returncode in (75, 130), output
    assert here.left() == [] and here.stream()[-1] == "delete"


@pytest.mark.slow
@pytest.mark.parametrize("states", [["WAITING_FOR_RESOURCES"], ["ACTIVE"]])
def test_the_deadline_deletes(place, states):
    here = place(states=[states], train=[LONG])
    code, output = here.launch("--hours=0.0015")
    assert code == 75, output
    assert here.record()["phase"] == "deadline" and here.left() == []
    assert ("stop" in here.stream()) == (states == ["ACTIVE"])


@pytest.mark.slow
def test_a_teardown_that_fails_says_so_and_can_be_done_again(place):
    here = place(errors={"delete": ["unavailable"] * 5})
    code, output = here.launch()
    assert code == 1
    assert "NOT DELETED, THE MACHINES STILL COST MONEY" in output
    line = next(line for line in output.splitlines() if "NOT DELETED" in line)
    assert (
        "Run: gcloud compute tpus queued-resources delete run1 --project=my-project --zone=us-central1-a "
        "--quiet --force"
        in line
    )
    assert here.state()["queued"]
    code, output = here.verb("stop", "run1")
    assert code == 0, output
    assert here.left() == [] and here.record()["phase"] == "stopped"


@pytest.mark.slow
def test_another_shell_asks_and_goes_on_when_the_controller_is_gone(place):
    here = place(train=[{"seconds": 12, "lines": 2}], hosts=1, states=[["ACTIVE"]])
    process = here.start()
    wait_for(process, "line 1")
    code, output = here.verb("status", "run1")
    assert f"run by process {process.pid} here" in output and "queued resource: ACTIVE" in output
    code, output = here.verb("resume", "run1")
    assert code == 2 and f"already run by process {process.pid}" in output
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    _, output = here.verb("status", "run1")
    assert "its controller is gone: go on with `resume run1`" in output
    code, output = here.verb("resume", "run1", "--hours=1")
    assert code == 0, output
    assert here.state()["starts"] == {"run1-0": 1}, "training was started twice"
    assert sum("create" in argv for argv in here.calls()) == 1
    assert "[0] end" in output and here.left() == []
    assert here.verb("resume", "run1") == (0, "run1 is complete\n")
    assert here.verb("list") == (0, "run1                     tpu    done       0 restart(s)\n")
    _, said = here.verb("logs", "run1", "--lines=1")
    assert said == "[worker_0] end\n"


@pytest.mark.slow
def test_stop_from_another_shell(place):
    here = place(train=[LONG])
    process = here.start()
    wait_for(process, "line 0")
    code, output = here.verb("stop", "run1")
    assert code == 0, output
    process.communicate(timeout=30)
    assert process.returncode == 75 and here.left() == []
    assert here.record()["phase"] == "stopped"


def test_what_others_made_is_left_alone(place):
    here = place()
    (here.cloud / "state.json").write_text(
        json.dumps(
            {"queued": {"run1": {"life": ["ACTIVE"], "nodes": ["run1"]}}, "created": 1, "calls": {}, "starts": {}}
        )
    )
    code, output = here.launch()
    assert code == 2 and "a queued resource 'run1' exists and is not of this launch: use another --name" in output
    assert here.stream() == ["buckets", "describe"] and here.state()["queued"]


def test_words_of_the_user_arrive_as_they_are(place):
    here = place()
    words = ("a  b", "it's", "$(touch pwned)", "`touch pwned`", "; touch pwned", '"', "\\", "*", "é")
    code, output = here.launch(train=(".venv/bin/python", "-c", *words))
    assert code == 0, output
    assert f"[0] run1-0: -c {' '.join(words)}" in output
    assert not list(here.cloud.rglob("pwned")) and not (ROOT / "pwned").exists()


BAD = {
    "--name=": ("run 1", "Run1", "1run", "run1;id", "$(id)", "../run1", "run1-", "a" * 41, ""),
    "--zone=": ("us-central1", "us-central1-a;id", "us_central1_a", "$(id)"),
    "--project=": ("x", "My-Project", "my-project;id"),
    "--bucket=": ("gs://bucket", "Bucket", "bu cket", "b"),
    "--type=": ("v5litepod-17", "v5e-16", "v5litepod", "tpu7x-8"),
    "--slices=": ("0", "1000", "two"),
    "--hours=": ("0", "-1", "soon"),
    "--service-account=": ("me", "me@x y"),
    "--network=": ("a/b",),
    "--runtime=": ("v2 alpha",),
    "--commit=": ("no-such-commit", "--help"),
    "--prices=": ("no/such.csv",),
    "--max-restarts=": ("-1",),
    "--setup=": ("a\nb",),
}


@pytest.mark.parametrize("flag, value", [(flag, value) for flag, values in BAD.items() for value in values])
def test_a_wrong_value_is_one_clear_line(tmp_path, monkeypatch, capsys, flag, value):
    from cnn.errors import UserError

    monkeypatch.chdir(ROOT)
    good = [word for word in ("--name=run1", *FLAGS, f"--root={tmp_path}") if not word.startswith(flag)]
    with pytest.raises(UserError) as error:
        main(["tpu", *good, f"{flag}{value}", "--dry-run", "--", *TRAIN])
    line = str(error.value)
    assert "\n" not in line and (value in line or flag.strip("-=") in line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "train, words",
    [
        ((), "say what to run after '--'"),
        (
            ("--config=configs/classification/digits_resnte.py",),
            "Did you mean 'configs/classification/digits_resnet.py'?",
        ),
        ((*TRAIN, "--config.optim.lrr=1"), "Did you mean 'lr'?"),
        ((*TRAIN, "--workdir=runs/x"), "the disks of these machines vanish with them"),
        ((*TRAIN, "--coordinator=host:1"), "unknown flag '--coordinator"),
    ],
)
def test_a_mistake_in_the_run_is_found_before_anything_costs(tmp_path, monkeypatch, train, words):
    from cnn.errors import UserError

    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        main(["tpu", "--name=run1", *FLAGS, f"--root={tmp_path}", "--dry-run", "--", *train])
    assert words in str(error.value)


def test_nobody_is_asked_without_a_terminal(place):
    here = place()
    words = here.words("tpu", "--name=run1", *FLAGS, "--", *TRAIN)
    for answer, said in (("", "nobody to ask"), ("n\n", "not launched")):
        done = subprocess.run(words, cwd=ROOT, env=here.environment, input=answer, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and here.calls() == []


@pytest.mark.parametrize(
    "name, kind, chips, hosts",
    [
        ("v5litepod-1", "v5e", 1, 1),
        ("v5litepod-8", "v5e", 8, 1),
        ("v5litepod-16", "v5e", 16, 4),
        ("v5litepod-256", "v5e", 256, 64),
        ("v4-8", "v4", 4, 1),
        ("v4-32", "v4", 16, 4),
        ("v5p-8", "v5p", 4, 1),
        ("v5p-128", "v5p", 64, 16),
        ("v6e-8", "v6e", 8, 1),
        ("v6e-64", "v6e", 64, 16),
    ],
)
def test_slices(name, kind, chips, hosts):
    assert hardware.of_type(name) == hardware.Slice(kind, chips, hosts)
