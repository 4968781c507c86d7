"""Failure drills: whatever happens, a run goes on or ends with one line that names the cause, and loses nothing saved.

The preempted TPU that is made again and resumed is in tests/experiments/test_launch_tpu.py; kill -9 at every point of a
save in tests/test_resume.py.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cnn import train
from cnn.errors import UserError
from experiments.launch.local import free_port
from tests.support.hosts import CONFIG, ROOT, Hosts
from tests.support.runs import tiny

pytestmark = pytest.mark.slow
STEPS, EVERY = 40, 5
SHORT = (f"--config.total_steps={STEPS}", f"--config.checkpoint.every_steps={EVERY}", "--config.eval.split=")
INTERRUPTED = 75


def two(folder, *training, restarts=1):
    """Two processes that train together; `SHORT` unless `training` says otherwise."""
    flags = (*SHORT, "--heartbeat_seconds=10", *training)
    return Hosts(folder, 2, options=(f"--max-restarts={restarts}", "--grace=20"), training=flags)


def goes_on(run):
    """The run ended well, after one start more, from the last save that was there."""
    assert run.ended() == 0, run.said
    assert "restarting: " in run.said and "done" in run.said and run.steps()[-1] == STEPS
    return int(re.search(r"resume at step (\d+)", run.said)[1])


@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_one_process(tmp_path, victim):
    run = two(tmp_path)
    run.until(run.steps)
    saved = run.steps()[-1]
    os.kill(run.pids()[victim], signal.SIGKILL)
    assert goes_on(run) >= saved and "restarting: lost a process" in run.said
    assert "this is a bug" not in run.said


def test_sigterm_to_one_process_saves_the_same_step_on_all(tmp_path):
    long = ("--config.total_steps=5000", "--config.checkpoint.every_steps=4000", "--config.log_every_steps=1")
    run = two(tmp_path, *long, restarts=0)
    run.until(lambda: (run.workdir / "metrics.jsonl").exists() and len(run.logged()) > 2)
    os.kill(run.pids()[1], signal.SIGTERM)
    assert run.ended() == INTERRUPTED, run.said
    step = int(re.search(r"received SIGTERM: saved step (\d+) of 5000; the same command goes on", run.said)[1])
    assert run.steps() == [step] and "saved and stopped" in run.said


def test_a_host_that_hangs_is_found_by_its_heartbeat(tmp_path):
    run = two(tmp_path)
    run.until(run.steps)
    saved, (_, hung) = run.steps()[-1], run.pids()
    os.kill(hung, signal.SIGSTOP)
    assert goes_on(run) >= saved and "restarting: lost a process" in run.said


def test_a_full_disk_on_the_host_that_writes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        run = two(tmp_path, f"--workdir={disk}/run", "--config.model.width=64", restarts=0)
        assert run.ended() == 2, run.said
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert "No space left on device" in run.said and "a mistake: its log names it" in run.said
    assert "Traceback" not in run.said and "this is a bug" not in run.said


def largest(folder):
    """The biggest file of arrays in a checkpoint."""
    return max((p for p in folder.rglob("*") if p.is_file() and "/d/" in str(p)), key=lambda p: p.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, cut])
def test_two_processes_use_the_save_before_a_damaged_one(tmp_path, damage):
    run = two(tmp_path, "--config.total_steps=10")
    assert run.ended() == 0 and run.steps() == [5, 10], run.said
    damage(largest(run.workdir / "checkpoints" / "10"))
    shutil.rmtree(tmp_path / "launches")
    again = two(tmp_path, "--config.total_steps=10")
    assert again.ended() == 0, again.said
    assert again.said.count("warning: checkpoint 10: ") == 1 and "resume at step 5 of 10" in again.said
    assert again.steps() == [5, 10] and (again.workdir / "checkpoints" / "damaged-10").exists()


def alone(*words, timeout=90):
    """(exit code, standard error) of one `cnn train`."""
    start = [sys.executable, "-m", "cnn.train", f"--config={CONFIG}", *words]
    done = subprocess.run(
        start, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_whose_peer_never_comes_says_so(tmp_path, process):
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", f"--process={process}", "--connect_seconds=3")
    code, error = alone(*where, f"--workdir={tmp_path / 'run'}")
    last = error.strip().splitlines()[-1]
    assert code == 2 and "did not bring all processes together in 3 s" in last and "Traceback" not in error, error


def settings(**changes):
    return tiny(total_steps=12, eval__split="", checkpoint__every_steps=4, **changes)


def test_a_batch_of_nan_is_named_and_the_state_before_it_kept(tmp_path, monkeypatch):
    place = train.Plan.place

    def spoiled(self, batch, calls=[]):  # noqa: B006 (counts)
        calls.append(1)
        wrong = len(calls) == 7 or len(calls) > 12
        image = np.full_like(batch["image"], np.nan, np.float32) if wrong else batch["image"]
        return place(self, {**batch, "image": image})

    monkeypatch.setattr(train.Plan, "place", spoiled)
    with pytest.raises(UserError, match=r"step 6: not finite: .*The state before that step is saved") as error:
        train.train(settings(), str(tmp_path))
    assert "\n" not in str(error.value) and (tmp_path / "checkpoints" / "6").exists()


WORKER = """
import os, signal, threading, time
import numpy as np
from cnn import cli
from cnn.data.pipeline import TrainBatches, iterate
from cnn.data.sources import ArraySource

def main():
    import multiprocessing
    source = ArraySource({"image": np.zeros((64, 8, 8, 1), np.uint8)}, "train")
    data = iter(iterate(TrainBatches(source, (), 8, 0), workers=1))
    next(data)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    for _ in range(1000):
        next(data)

if __name__ == "__main__":
    raise SystemExit(cli._guarded("cnn train", main))
"""


def test_a_loader_worker_that_dies_is_one_line(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "worker.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 2, done.stderr
    assert "cnn train: error: a process that prepares batches died" in done.stderr


@pytest.mark.parametrize("hours", [-48, 48])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, hours):
    """Saves are ordered by their step, never by a time."""
    assert train.train(settings(max_minutes=1e6), str(tmp_path)) == 0
    shutil.rmtree(tmp_path / "checkpoints" / "12")
    (tmp_path / "summary.json").unlink()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    assert train.train(settings(max_minutes=1e6), str(tmp_path)) == 0
    found = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert found[-1] == 12 and (tmp_path / "summary.json").exists()


def test_a_save_without_metadata_is_set_aside(tmp_path, capfd):
    assert train.train(settings(), str(tmp_path)) == 0
    for path in (tmp_path / "checkpoints" / "12").glob("*METADATA*"):
        path.write_text("{")
    (tmp_path / "summary.json").unlink()
    assert train.train(settings(), str(tmp_path)) == 0
    out, err = capfd.readouterr()
    assert "warning: checkpoint 12: its metadata are missing; trying the one before it" in err
    assert "resume at step 8 of 12" in out and (tmp_path / "checkpoints" / "damaged-12").exists()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    from cnn.run.workdir import Workdir

    with Workdir(str(tmp_path)).lock(), pytest.raises(UserError, match="in use by another run"):
        train.train(settings(), str(tmp_path))
