"""What a run says: metrics.jsonl, TensorBoard, the progress lines and bar."""

import json

from cnn.run import writers
from cnn.run.writers import Progress, Writer, read_metrics


def test_scalars_are_lines_and_events(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(1, {"loss": 2.5, "lr": 0.1})
    writer.scalars(2, {"eval/accuracy": 0.5})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 2.5, "lr": 0.1},
        {"step": 2, "eval/accuracy": 0.5},
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writer = Writer(tmp_path)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1 and not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (2, 4, 6)] + ['{"step": 8, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    writer = Writer(tmp_path, resume_step=4)
    writer.scalars(6, {"loss": 0.5})
    writer.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [(2, 1.0), (4, 1.0), (6, 0.5)]


def test_other_processes_write_nothing(tmp_path, capsys):
    writer = Writer(tmp_path, active=False)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    progress = Progress(10, 0, active=False, every_seconds=-1.0)
    progress.update(5, {"loss": 1.0})
    progress.say("hello")
    progress.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")


def test_metrics_of_a_run_that_wrote_none(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys):
    progress = Progress(100, 0, every_seconds=-1.0)
    progress.update(25, {"loss": 0.51234, "lr": 0.1})
    progress.say("a line")
    progress.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 25/100: loss 0.5123, lr 0.1, ") and first.endswith("s left")
    assert second == "a line"
    quiet = Progress(100, 0, every_seconds=60.0)
    quiet.update(25, {"loss": 1.0})
    assert capsys.readouterr().out == ""


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(writers.sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(100, 40)
    progress.update(60, {"loss": 0.5})
    progress.say("a line above")
    progress.update(100, {"loss": 0.25})
    progress.close()
    out, err = capsys.readouterr()
    assert "a line above" in out + err
    assert "100/100" in err and "loss 0.25" in err
