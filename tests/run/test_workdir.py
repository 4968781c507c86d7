"""A run's folder: the lock, the config it holds, files that are whole or absent."""

import json
import multiprocessing
import os

import pytest

from cnn import config as configs
from cnn.errors import UserError
from cnn.run.workdir import Workdir, to_json, write_text
from tests.support.runs import tiny


def hold(path, ready, leave):
    with Workdir(path).lock():
        ready.set()
        leave.wait(30)


def test_the_lock_holds_against_another_process_and_names_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    child = context.Process(target=hold, args=(str(tmp_path), ready, leave))
    child.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=rf"in use by another run \(process {child.pid}\)"):
        with Workdir(str(tmp_path)).lock():
            pass
    child.kill()  # however the process ends, the lock goes with it
    child.join()
    with Workdir(str(tmp_path)).lock():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    with Workdir(str(tmp_path)).lock():
        pass


def adopted(path, **changes):
    folder = Workdir(str(path))
    folder.adopt(tiny(**changes))
    return folder


def test_the_config_is_written_and_may_change_until_something_is_saved(tmp_path):
    adopted(tmp_path)
    assert configs.from_json((tmp_path / "config.json").read_text()).to_dict() == tiny().to_dict()
    adopted(tmp_path, optim__lr=0.5)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"another config \(optim.lr: 0.5 -> 0.05\); use another --workdir"):
        adopted(tmp_path)
    adopted(tmp_path, optim__lr=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every_steps": 7},
        {"max_minutes": 1.0},
        {"checkpoint__keep_last": 9},
        {"mesh__devices": 8},
        {"input__threads": 2},
        {"eval__batch_size": 3},
    ],
)
def test_what_does_not_change_the_result_may_differ(tmp_path, changes):
    adopted(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    adopted(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_config_is_named(tmp_path, text):
    adopted(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is damaged"):
        adopted(tmp_path)


def test_paths_that_cannot_be_a_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing/here", "s3://bucket/run"):
        with pytest.raises(UserError, match="workdir '"):
            Workdir(str(path))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands for all buckets of gs://."""
    import fsspec
    from etils.epath import backend
    from fsspec.implementations.local import LocalFileSystem

    class Buckets(LocalFileSystem):
        protocol = ("gcs", "gs")
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            path = str(path)
            inside = path.startswith("gs://")
            return LocalFileSystem._strip_protocol(f"{tmp_path}/buckets/{path[5:]}" if inside else path)

    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: fsspec.filesystem("file"))
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Buckets(auto_mkdir=True))
    return tmp_path / "buckets"


def test_a_run_in_a_bucket_is_copied_there_and_found_again(bucket):
    folder = Workdir("gs://bucket/run")
    assert str(folder.checkpoints) == "gs://bucket/run/checkpoints"
    folder.adopt(tiny())
    folder.figures.mkdir()
    (folder.figures / "curves.png").write_bytes(b"picture")
    folder.metrics.write_text("1\n")
    folder.copy()
    folder.metrics.write_text("1\n22\n")
    Workdir("gs://bucket/run", main=False).copy()  # another process of the run copies nothing
    folder.copy()
    there = bucket / "bucket" / "run"
    assert (there / "metrics.jsonl").read_text() == "1\n22\n"
    assert (there / "figures" / "curves.png").read_bytes() == b"picture"
    again = Workdir("gs://bucket/run")
    assert again.path != folder.path and again.metrics.read_text() == "1\n22\n"
    again.adopt(tiny())


def test_a_bucket_that_cannot_be_written_is_one_line(bucket):
    bucket.mkdir()
    (bucket / "bucket").write_text("a file")
    with pytest.raises(UserError, match="workdir 'gs://bucket/run' cannot be written") as error:
        Workdir("gs://bucket/run")
    assert "\n" not in str(error.value)


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(UserError, match="cannot write .*nowhere"):
        write_text(tmp_path / "nowhere" / "x.json", "")


def test_json_that_every_reader_takes():
    text = to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": ("x", None), "d": True})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": ["x", None], "d": True}
