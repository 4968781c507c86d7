"""`launch local`: processes that stand for hosts; what ends them and what starts them again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn.errors import UserError
from experiments.launch import outcome, record
from experiments.launch.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

# Stands for training: one script per process and start, in a folder of its own.
PROGRAM = """
import os, pathlib, signal, sys, time
folder, me = pathlib.Path(sys.argv[1]), os.environ.get("CNN_PROCESS", "0")
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
mine = folder / f"starts_{me}"
starts = len(mine.read_text()) if mine.exists() else 0
print("begin", me, os.environ.get("CNN_PROCESSES"), os.environ["XLA_FLAGS"], os.environ["JAX_PLATFORMS"], flush=True)
mine.write_text("x" * (starts + 1))
all_of_them = [folder / f"starts_{i}" for i in range(int(os.environ.get("CNN_PROCESSES", "1")))]
until = time.monotonic() + 60
while not all(other.exists() and len(other.read_text()) > starts for other in all_of_them):  # as training does
    if ended or time.monotonic() > until:
        break
    time.sleep(0.01)
words = sys.argv[2].split(";")[min(starts, sys.argv[2].count(";"))].split(",")
word = words[int(me) % len(words)]
while word in ("wait", "hang") and time.monotonic() < until and not (ended and word == "wait"):
    time.sleep(0.01)
if word == "kill":
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
print("end", flush=True)
sys.exit(75 if ended else int(word) if word.isdigit() else 0)
"""


def words(tmp_path: Path, script: str, *flags: str) -> list[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    start = [sys.executable, "-m", "experiments.launch", "local", "--name=run1", f"--root={tmp_path / 'launches'}"]
    return [
        *start,
        "--processes=2",
        "--devices=3",
        "--grace=5",
        *flags,
        "--",
        sys.executable,
        str(program),
        str(tmp_path),
        script,
    ]


def launch(tmp_path: Path, script: str, *flags: str) -> tuple[int, str]:
    done = subprocess.run(
        words(tmp_path, script, *flags), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def phase(tmp_path: Path) -> str:
    return json.loads((tmp_path / "launches" / "run1" / "launch.json").read_text())["phase"]


# what the processes do at each start (';' between starts, ',' between processes): code, phase, starts of each, words
CASES = {
    "0": (0, "done", 1, ""),
    "75;0": (0, "done", 2, "restarting: saved and stopped"),
    "kill,wait;0": (0, "done", 2, "restarting: lost a process"),
    "wait,kill;0": (0, "done", 2, "restarting: lost a process"),
    "75,wait;0": (0, "done", 2, "restarting: saved and stopped"),
    "2,wait": (2, "failed", 1, "a mistake"),
    "1,wait": (1, "failed", 1, "the run failed"),
    "75": (75, "failed", 3, "--max-restarts=2 is used up"),
}
SLOW = ("75,wait;0", "2,wait", "wait,kill;0")  # the grace is waited for


@pytest.mark.parametrize("script", [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in CASES])
def test_what_ends_and_what_starts_again(tmp_path, script):
    code, ends, starts, said = CASES[script]
    ended, output = launch(tmp_path, script, "--max-restarts=2")
    assert (ended, phase(tmp_path)) == (code, ends), output
    for process in "01":
        assert len((tmp_path / f"starts_{process}").read_text()) == starts, output
        line = f"[{process}] begin {process} 2 --xla_force_host_platform_device_count=3 cpu"
        assert line in output
    assert said in output
    log = (tmp_path / "launches" / "run1" / "worker_1.log").read_text()
    assert log.startswith("begin 1 2")


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_after_the_grace(tmp_path):
    code, output = launch(tmp_path, "kill,hang;0", "--grace=1")
    assert (code, phase(tmp_path)) == (0, "done"), output


def test_ctrl_c_lets_all_save_and_the_same_command_goes_on(tmp_path):
    process = subprocess.Popen(
        words(tmp_path, "wait;0"), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    begun = 0
    while begun < 2:
        begun += "begin" in process.stdout.readline().split("]")[-1][:7]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and phase(tmp_path) == "stopped", output
    assert output.count("end") >= 2
    code, output = launch(tmp_path, "wait;0")
    assert code == 0 and phase(tmp_path) == "done", output
    with pytest.raises(UserError, match="exists with other flags"):
        main(["local", "--name=run1", f"--root={tmp_path / 'launches'}", "--dry-run", "--", "other"])


def test_one_process_has_no_coordinator(tmp_path, capsys):
    main(["local", "--name=run1", f"--root={tmp_path}", "--devices=4", "--dry-run", "--", "true"])
    assert "env JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 true" in capsys.readouterr().out


def test_the_plan_of_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = "--config=configs/classification/digits_resnet.py"
    main(["local", "--name=run1", f"--root={tmp_path}", "--processes=2", "--devices=4", "--dry-run", "--", config])
    text = capsys.readouterr().out
    wanted = f"CNN_COORDINATOR=127.0.0.1:PORT CNN_PROCESSES=2 CNN_PROCESS=0 {sys.executable} -m cnn.train {config}"
    assert f"{wanted} --workdir=runs/run1\n    and with: CNN_PROCESS=1\n" in text
    assert not list(tmp_path.iterdir())


def test_stop_ends_what_a_dead_controller_left(tmp_path):
    process = subprocess.Popen(words(tmp_path, "wait"), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    while "begin" not in process.stdout.readline():
        pass
    time.sleep(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    root = f"--root={tmp_path / 'launches'}"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch", "stop", "run1", root],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert phase(tmp_path) == "stopped"


@pytest.mark.parametrize(
    "codes, wanted",
    [
        ([0, 0], outcome.DONE),
        ([], outcome.DONE),
        ([75, 75], outcome.AGAIN),
        ([-9, 75], outcome.LOST),
        ([-9, 1], outcome.LOST),
        ([134, 1], outcome.LOST),
        ([255], outcome.LOST),
        ([1, -9], outcome.BUG),
        ([0, 1], outcome.BUG),
        ([75, 2], outcome.MISTAKE),
        ([-9, 2], outcome.MISTAKE),
    ],
)
def test_outcomes(codes, wanted):
    assert outcome.judge(codes) == wanted


@pytest.mark.parametrize(
    "flags", [("--processes=0",), ("--devices=0",), ("--processes=65",), ("--grace=0",), ("--max-restarts=-1",)]
)
def test_wrong_numbers(tmp_path, flags):
    with pytest.raises(UserError, match=re.escape(flags[0].split("=")[0])):
        main(["local", "--name=run1", f"--root={tmp_path}", *flags, "--dry-run", "--", "true"])


def test_a_root_that_cannot_be_written():
    with pytest.raises(UserError, match="--root: the folder '/proc/x/run1' cannot be written"):
        main(["local", "--name=run1", "--root=/proc/x", "--yes", "--", "true"])


def test_unknown_verbs_and_launches(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'status'"):
        main(["statsu", "run1"])
    record.Launch("run1", "local", {}, ["true"], tmp_path).save()
    with pytest.raises(UserError, match="unknown launch 'run2'. Did you mean 'run1'"):
        main(["status", "run2", f"--root={tmp_path}"])
    (tmp_path / "run1" / "launch.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        main(["status", "run1", f"--root={tmp_path}"])


def test_help_names_every_verb(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for verb in ("local", "tpu", "slurm", "gke", "sweep", "status", "logs", "stop", "resume", "list"):
        assert f"\n  {verb} " in text
