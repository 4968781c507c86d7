"""Files of predictions: appending, what a kill leaves behind, retried errors, Parquet equal to JSON lines."""

import json
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest

from cnn.errors import UserError
from cnn.inference import prediction_files
from cnn.inference.prediction_files import PredictionFile

ROWS = [
    {"path": "a.png", "class": "x", "top": [{"class": "x", "probability": 0.75}]},
    {"path": "b.png", "error": "not an image"},
    {"path": "ä\u202f\n.png", "areas": {"sky": 1.0}, "ml": {}},
    {"path": "c.png", "areas": {"sky": 0.25, "sea": 0.75}, "shape": [3, 4]},
    {"path": "d.png", "class": "y", "numbers": [1, 2.5]},
]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path, rows=ROWS, finish=True, network="n1"):
    """Opens, appends and closes; without `finish` as a process that was killed leaves it. Returns what was there."""
    with PredictionFile(str(path), network) as file:
        for row in rows:
            file.add(row)
        if finish:
            file.finish()
    return file.done


def test_rows_are_appended_and_errors_tried_again(tmp_path):
    path = tmp_path / "a.jsonl"
    written(path, ROWS[:3])
    assert lines(path) == [row | {"network": "n1"} for row in ROWS[:3]]
    assert written(path, ROWS[3:]) == {"a.png", ROWS[2]["path"]}
    assert [row["path"] for row in lines(path)] == ["a.png", ROWS[2]["path"], "c.png", "d.png"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("cut", [1, 20, 10_000])
def test_a_cut_last_line_is_dropped(tmp_path, name, cut):
    path = tmp_path / name
    written(path, ROWS[:1], finish=False)
    journal = tmp_path / (name + ".jsonl" if name.endswith("t") else name)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.replace(b"a.png", b"z.png")[:-1][:cut])
    assert written(path, [], finish=False) == {"a.png"} and journal.read_bytes() == whole


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
def test_parquet_holds_the_same(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(prediction_files, "CHUNK", chunk)
    path = tmp_path / "a.parquet"
    written(path, ROWS[:2])
    assert not (tmp_path / "a.parquet.jsonl").exists()
    assert written(path, [], finish=False) == {"a.png"}
    assert (tmp_path / "a.parquet.jsonl").exists()
    written(path, ROWS[2:])
    found = [prediction_files._without_null(row) for row in pyarrow.parquet.read_table(path).to_pylist()]
    wanted = [{k: v for k, v in row.items() if v != {}} | {"network": "n1"} for row in ROWS if "error" not in row]
    assert found == wanted and [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    written(path, [])
    assert [prediction_files._without_null(row) for row in pyarrow.parquet.read_table(path).to_pylist()] == wanted


def test_no_rows_at_all(tmp_path):
    written(tmp_path / "a.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column_names == ["path"]


KILLED = """
import os, signal
from cnn.inference.prediction_files import PredictionFile
file = PredictionFile({path!r}, "n1")
file.add({row!r})
file._file.write(b'{{"path": "half')
file._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_every_prediction_is_there(tmp_path):
    path = tmp_path / "a.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED.format(path=str(path), row=ROWS[0])])
    assert done.returncode == -signal.SIGKILL and path.read_text().endswith('"half')
    assert written(path, ROWS[3:]) == {"a.png"}
    assert [row["path"] for row in lines(path)] == ["a.png", "c.png", "d.png"]


def other(path):
    path.write_text('{"path": "a", "network": "n2"}\n')


@pytest.mark.parametrize(
    ("name", "before", "said"),
    [
        ("a.csv", None, "predictions are written as .jsonl or .parquet"),
        ("a.jsonl", other, "holds predictions of another network"),
        ("a.jsonl", lambda path: path.write_text("name,value\n1,2\n"), "a.jsonl, line 1: not a prediction of cnn"),
        ("a.jsonl", lambda path: path.write_text('{"a": 1}\n'), "line 1: not a prediction"),
        ("a.jsonl", lambda path: path.mkdir(), "cannot be written: Is a directory"),
        ("no/a.jsonl", None, "cannot be written: No such file or directory"),
        ("a.parquet", lambda path: path.write_text("nothing"), "is no Parquet file"),
    ],
)
def test_what_is_refused_is_one_line(tmp_path, name, before, said):
    if before:
        before(tmp_path / name)
    with pytest.raises(UserError, match=said) as caught:
        PredictionFile(str(tmp_path / name), "n1")
    assert len(str(caught.value).splitlines()) == 1


def test_two_processes_do_not_share_a_file(tmp_path):
    with PredictionFile(str(tmp_path / "a.jsonl"), "n1"):  # the lock is of the open file, so one process will do
        with pytest.raises(UserError, match="is being written by another process"):
            PredictionFile(str(tmp_path / "a.jsonl"), "n1")
    assert written(tmp_path / "a.jsonl", []) == set()


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'cnn\[parquet\]'"):
        prediction_files.check_name("x.parquet")
