"""`cnn report` and the page that every run leaves: whole, self-contained, and never the end of a run."""

import json
import re
import shutil

import numpy as np
import pytest

from cnn import cli, report
from cnn.run import finished
from cnn.scoring.sums import mean_interval, wilson_interval
from tests.inspect.test_verb import sound


@pytest.fixture(scope="module")
def runs(trained):
    """Two finished runs that differ in their seed, and one with another learning rate."""
    folder = trained("digits_again")
    (folder / "seed").rename(folder / "b")
    (folder / "rate").rename(folder / "c")
    (trained("digits") / "run").rename(folder / "a")
    return folder


def test_a_run_leaves_its_page(runs):
    page, text = sound(runs / "a" / "report.html"), (runs / "a" / "report.html").read_text()
    assert page.headings == [
        "Result",
        "Curves",
        "Data",
        "Pictures",
        "Time",
        "Config",
        "Environment",
    ]
    summary = json.loads((runs / "a" / "summary.json").read_text())
    assert page.pictures == len(summary["figures"]) >= 3
    for word in (
        f"{summary['test']['accuracy']:.4f}",
        "fake examples",
        "optim.lr",
        "waiting for input",
        "jaxlib",
    ):
        assert word in text
    hits = round(summary["test"]["accuracy"] * summary["test"]["examples"])
    interval = wilson_interval(hits, summary["test"]["examples"])
    assert f"{interval.low:.4f} to {interval.high:.4f}" in text


def test_the_parts_of_a_run_s_time_add_up(runs):
    timing = json.loads((runs / "a" / "summary.json").read_text())["timing"]
    text = "".join(report._timing(timing))
    shares = [float(part.split("%")[0]) for part in text.split("width:")[1:]]
    assert len(shares) == 6 and sum(shares) == pytest.approx(100, abs=0.1)


def test_fields_that_are_not_the_default_are_marked(runs):
    text = (runs / "a" / "report.html").read_text()
    marked = [row for row in text.split("<tr class='mark'>")[1:]]
    names = {row.split("<td>")[1].split("<")[0] for row in marked}
    assert {"optim.lr", "model.name", "input.fake"} <= names and "optim.momentum" not in names


def test_seeds_of_one_config_become_one_curve_with_an_interval(runs):
    done = [finished.read(runs / name) for name in "abc"]
    groups = finished.groups(done)
    assert [[run.folder.name for run in group] for group in groups.values()] == [["a", "b"], ["c"]]
    assert all("lr=" in name for name in groups)
    steps, found = finished.curve(done[:2], "loss")
    logged = [{row["step"]: row["loss"] for row in run.rows if "loss" in row} for run in done[:2]]
    values = [[one[step] for step in steps] for one in logged]
    assert steps == sorted(logged[0]) == sorted(logged[1]) and len(steps) > 1
    for interval, pair in zip(found, zip(*values, strict=True), strict=True):
        assert interval == mean_interval(pair)


@pytest.mark.drawn
def test_the_command(runs, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (runs / "a" / "report.html").unlink()
    assert cli.main(["report", str(runs / "a")]) == 0
    assert cli.main(["report", *(str(runs / name) for name in "abc")]) == 0
    assert capfd.readouterr().out.split() == [str(runs / "a" / "report.html"), "report.html"]
    sound(runs / "a" / "report.html")
    page = sound(tmp_path / "report.html")
    assert page.headings[:3] == ["Results", "Curves", "Runs"] and page.pictures == 1


def test_what_is_missing_or_not_finite_is_said_and_not_drawn(runs, tmp_path):
    copy = shutil.copytree(runs / "a", tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    summary["test"]["loss"] = None
    summary["baselines"] = {"odd": {}, "strong <one>": {"accuracy": 1.0}, "lost": {"accuracy": None}}
    del summary["timing"], summary["data"], summary["environment"]
    (copy / "summary.json").write_text(json.dumps(summary))
    (copy / "figures" / "curves.png").unlink()
    report.leave(copy)
    sound(copy / "report.html")
    text = (copy / "report.html").read_text()
    assert "strong &lt;one&gt; is better than this run" in text and "curves.png: not there" in text
    assert "Without a finite accuracy: odd, lost." in text and ">not finite</td>" in text


def test_a_baseline_without_the_metric_is_not_better(runs, tmp_path):
    copy = shutil.copytree(runs / "a", tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    summary["test"]["macro_f1"], summary["config"]["eval"]["metric"] = 0.98, "macro_f1"
    summary["baselines"] = {"majority": {"accuracy": 0.99}, "weak": {"macro_f1": 0.2}}
    (copy / "summary.json").write_text(json.dumps(summary))
    report.leave(copy)
    text = (copy / "report.html").read_text()
    assert "This run is better than weak. Without a finite macro_f1: majority." in text
    assert text.index("(this run)") < text.index("<td>weak") < text.index("<td>majority")


def test_a_report_that_cannot_be_made_is_one_line(runs, tmp_path, capfd):
    copy = shutil.copytree(runs / "a", tmp_path / "copy")
    (copy / "summary.json").write_text("{}")
    report.leave(copy)
    out = capfd.readouterr()
    assert (
        out.out.startswith("no report: UserError")
        and len(out.out.splitlines()) == 1
        and out.err == ""
    )


MISTAKES = [
    ("report {here}/none", "holds no finished run"),
    ("report {here}/broken", "is damaged"),
    ("report {here}/odd", "'baselines' is no group"),
    ("report {runs}/a --out={here}", "is a folder; give a file"),
    ("report {runs}/a --out={here}/no/where.html", "cannot write"),
    ("report", "the following arguments are required"),
]


@pytest.mark.parametrize(("argv", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_one_line(runs, tmp_path, argv, said, capfd):
    for name, text in (("broken", "{"), ("odd", '{"config": {}, "test": {}, "baselines": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    assert cli.main(argv.format(here=tmp_path, runs=runs).split()) == 2
    err = capfd.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_only_shares_of_the_examples_get_an_interval(runs):
    """ECE, AURC, macro-F1 and losses are no proportions, even where the number could be k of n."""
    done = finished.read(runs / "a")
    assert done.summary["proportions"] == ["accuracy", "top5"]
    done.summary["test"]["ece"] = done.summary["test"]["macro_f1"] = 0.5  # 20 of 40

    def intervals():
        rows = "".join(report._metrics(done)).split("<tr><td>")[1:]
        return {row.partition("<")[0]: re.search(r"\d to \d", row) is not None for row in rows}

    assert {name for name, has in intervals().items() if has} == {"accuracy", "top5"}
    assert {"ece", "macro_f1", "aurc", "loss", "balanced_accuracy"} <= intervals().keys()
    del done.summary["proportions"]  # of a release that did not write it
    assert not any(intervals().values())
    assert report._proportion(0.5, 10) and not report._proportion(1.5, 10) and not report._proportion(0.5, 0)
    assert np.isnan(mean_interval([1.0]).low)
