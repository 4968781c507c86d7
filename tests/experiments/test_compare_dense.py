"""The comparison with dense networks: fair counterparts, exact distortions, verdicts that follow from the numbers."""

import dataclasses
import json

import numpy as np
import pytest

from cnn.errors import UserError
from experiments.compare_dense import __main__ as verb
from experiments.compare_dense import cases, claims, measure


@pytest.mark.parametrize("name", cases.CASES)
def test_counterparts_match(name):
    case = cases.CASES[name]
    shape = {"mnist1d": (40, 1), "digits": (8, 8, 1), "fashion_mnist": (28, 28, 1), "breast_cancer": (30, 1)}[name]
    cnn, same_size, same_work = cases.networks(case, shape, 10)
    unit = (np.prod(shape) + 12) / 2  # half of what one more hidden unit adds
    assert abs(same_size.facts.params - cnn.facts.params) <= unit
    assert abs(same_work.facts.macs - cnn.facts.macs) <= unit
    assert cnn.sharing > 3 and same_size.sharing < 1


def test_a_shift_moves_and_a_permutation_keeps():
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4, 1)
    arrays = {"image": x, "label": np.zeros(2, np.int32)}
    moved = measure.shifted(arrays, "image", 2)["image"]
    assert (moved[:, :, 2:] == x[:, :, :2]).all() and (moved[:, :, :2] == x[:, :, :1]).all()
    mixed = measure.shuffled(arrays, "image")["image"]
    assert not (mixed == x).all() and (np.sort(mixed.reshape(2, -1)) == x.reshape(2, -1)).all()
    assert (mixed[1] - mixed[0] == 12).all()  # the same permutation for all


def test_larger_subsets_hold_the_smaller_ones():
    arrays = {"series": np.arange(100.0)[:, None], "label": np.arange(100)}
    small, large = (set(measure.subset(arrays, f, 3)["label"]) for f in (0.2, 0.5))
    assert len(small) == 20 and small < large
    assert set(measure.subset(arrays, 0.2, 4)["label"]) != small


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [
        ([90, 91, 90], [80, 81, 81], claims.HOLDS),
        ([80, 81, 81], [90, 91, 90], claims.FAILS),
        ([90, 70, 80], [80, 81, 81], claims.UNCLEAR),
    ],
)
def test_a_difference_must_be_significant(first, second, want):
    assert claims.compared(first, second)[0] == want


@pytest.mark.parametrize(
    ("second", "want"),
    [([80.1, 79.9, 80.0], claims.HOLDS), ([70, 71, 70], claims.FAILS), ([85, 75, 80], claims.UNCLEAR)],
)
def test_unchanged_means_within_two_points(second, want):
    assert claims.unchanged([80.0, 80.1, 79.9], second)[0] == want


def test_numbers_of_other_code_are_not_used(tmp_path):
    notes = measure.Notes(tmp_path / "n.jsonl")
    assert notes.get(("a", 1), lambda: 5) == 5
    assert measure.Notes(tmp_path / "n.jsonl").get(("a", 1), lambda: 6) == 5
    row = json.loads((tmp_path / "n.jsonl").read_text()) | {"code": "older"}
    (tmp_path / "n.jsonl").write_text(json.dumps(row) + "\n")
    assert measure.Notes(tmp_path / "n.jsonl").get(("a", 1), lambda: 6) == 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cases", "mnist"], "Did you mean 'mnist1d'"),
        (["--seeds", "1"], "at least 2"),
        (["--cases", "breast_cancer"], "not tabular"),
        (["--out", "/proc/x"], "--out '/proc/x' cannot be written"),
    ],
)
def test_mistakes_are_named(argv, message):
    with pytest.raises(UserError, match=message):
        verb.main(argv)


def test_the_costs_alone_are_printed_and_nothing_is_written(tmp_path, capsys):
    assert verb.main(["--costs", "--cases", "breast_cancer", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("| breast_cancer |") == 3 and "**Verdict:**" in said and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_report_is_whole(tmp_path, monkeypatch, capsys):
    short = {
        name: dataclasses.replace(cases.CASES[name], steps=4, fractions=(0.5,)) for name in ("mnist1d", "breast_cancer")
    }
    monkeypatch.setattr(verb, "CASES", short)
    monkeypatch.setattr(measure, "RATES", (1e-3,))
    argv = ["--cases", *short, "--seeds", "2", "--out", str(tmp_path)]
    assert verb.main(argv) == 0
    first = capsys.readouterr().out
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    for title in ("Parameter sharing", "Accuracy", "Translation", "Spatial structure", "Tabular data"):
        assert f"## {title}" in text and f"<h2>{title}</h2>" in page and f"{title}: " in first
    assert page.count("data:image/png") == 3 and "http" not in page
    before = (tmp_path / "numbers.jsonl").read_text()
    assert verb.main(argv) == 0 and (tmp_path / "numbers.jsonl").read_text() == before  # nothing is run again
