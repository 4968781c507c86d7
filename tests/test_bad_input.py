"""Whatever a user gets wrong ends in exactly one line on standard error and exit code 2."""

import errno
import fcntl
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cnn import cli
from tests.support.mistakes import CASES, CONFIG, Place


@pytest.fixture(scope="module")
def base(trained):
    """A config and a finished run of it."""
    return trained("mistaken")


@pytest.fixture
def place(base, tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    return Place(base, tmp_path / "here")


PROGRESS = r"^(warning: |imagenet2012: preparing in ).*\n"  # what is said before, while all is well


def one_line(err: str, verb: str, said: str) -> None:
    err = re.sub(PROGRESS, "", err, flags=re.MULTILINE)
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert re.match(rf"cnn( {verb})?: error: ", err), err
    assert re.search(said, err), err


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_one_line_and_exit_code_2(case, place, capfd):
    if case.setup is not None:
        case.setup(place)
    argv = [part.format(**place.names) if "{}" not in part else part for part in case.argv.split()]
    capfd.readouterr()
    code = cli.main(argv)
    out, err = capfd.readouterr()
    assert code == 2, (code, out, err)
    one_line(err, argv[0], case.said)


def test_there_are_enough_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 45


def test_images_of_different_sizes(place, capfd):
    place.pictures(sizes=(9, 12))
    place.config(CONFIG.replace('{"name": "mlp", "width": 8, "depth": 1}', '{"name": "resnet_small"}'))
    argv = ["train", f"--config={place.here}/mine.py", f"--workdir={place.here}/w", "--config.input.fake=false"]
    argv += ["--config.input.dataset=folder", f"--config.input.data_dir={place.here}/images"]
    assert cli.main(argv) == 2
    one_line(capfd.readouterr().err, "train", "images of different shapes cannot form a batch .*resize")


def test_two_runs_in_one_workdir(place, capfd):
    workdir = place.here / "w"
    workdir.mkdir()
    with open(workdir / ".lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["train", f"--config={place.names['config']}", f"--workdir={workdir}"]) == 2
    one_line(capfd.readouterr().err, "train", r"is in use by another run \(process 4711\)")


@pytest.mark.parametrize("what", ["config", "summary", "checkpoint", "asynchronous"])
def test_a_disk_that_is_full(what, place, capfd, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.here))
    if what in ("config", "summary"):
        from cnn.run import workdir

        real = workdir.Path.write_text

        def write_text(path: Path, *args, **kwargs):
            if path.name == f"{what}.json.part":
                raise full
            return real(path, *args, **kwargs)

        monkeypatch.setattr(workdir.Path, "write_text", write_text)
    else:
        from cnn.run.checkpoint import ocp

        method = {"checkpoint": "save_checkpointables_async", "asynchronous": "wait"}[what]
        real = getattr(ocp.training.Checkpointer, method)
        calls = []

        def fail(self, *args, **kwargs):
            calls.append(method)
            if len(calls) > 1:
                raise full
            return real(self, *args, **kwargs)

        monkeypatch.setattr(ocp.training.Checkpointer, method, fail)
    code = cli.main(["train", f"--config={place.names['config']}", f"--workdir={place.here}/w"])
    err = capfd.readouterr().err
    assert code == 2, err
    one_line(err, "train", "No space left on device")


def test_a_disk_that_is_really_full(place, cnn_command):
    disk = place.here / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    try:
        argv = [f"--config={place.names['config']}", f"--workdir={disk}/w", "--config.model.width=256"]
        done = cnn_command("train", *argv)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode == 2, done.stderr
    one_line(done.stderr, "train", "No space left on device")


def test_a_bad_file_to_predict_is_named_and_the_others_are_predicted(place, capfd):
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place.here / "good.png")
    (place.here / "text.png").write_bytes(b"no image")
    (place.here / "empty.jpg").write_bytes(b"")
    np.save(place.here / "array.npy", np.zeros((3, 3)))
    names = ["good.png", "text.png", "empty.jpg", "array.npy"]
    code = cli.main(["predict", "--workdir", place.names["run"], *(str(place.here / n) for n in names)])
    out, err = capfd.readouterr()
    assert code == 1 and err == "3 of 4 inputs could not be predicted\n"
    for name, said in zip(names[1:], ("not an image", "empty file", "not an image"), strict=True):
        assert re.search(rf"{name}: .*{said}", out)
    assert re.search(r"good.png  \d \d\.\d{3}", out)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --config={config} --workdir={here}/w --config.model.name=mpl", "Did you mean 'mlp'"),
        ("evaluate --workdir={here}", "holds no checkpoint"),
        ("predict --workdir={run} {here}/no.png", "does not exist; give files, folders or quoted globs"),
    ],
)
def test_in_a_process_of_its_own(argv, said, place, cnn_command):
    verb, *rest = [part.format(**place.names) for part in argv.split()]
    done = cnn_command(verb, *rest)
    assert done.returncode == 2, done.stderr
    one_line(done.stderr, verb, said)
