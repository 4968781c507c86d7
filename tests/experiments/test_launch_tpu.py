"""`launch tpu` against a `gcloud` that keeps its machines in a folder: the plan, the commands, what is left."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiments.launch import remote
from tests.support import fake_cloud
from tests.support.pods import FLAGS, ROOT, TRAIN, Place

GOLDEN = Path(__file__).parent / "golden"


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
        "--quiet --force" in line
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


def test_nobody_is_asked_without_a_terminal(place):
    here = place()
    words = here.words("tpu", "--name=run1", *FLAGS, "--", *TRAIN)
    for answer, said in (("", "nobody to ask"), ("n\n", "not launched")):
        done = subprocess.run(words, cwd=ROOT, env=here.environment, input=answer, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and here.calls() == []
