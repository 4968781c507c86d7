"""Scores that are missing or not finite win nothing, wherever scores are ranked."""

import math

import numpy as np
import pytest

from cnn.report import _interval
from cnn.result import score_text
from cnn.scoring.comparing import best_first, is_better, standing, without_score
from cnn.stopping import Best
from experiments import seeds

NAN, INF = math.nan, math.inf
NOTHING = (None, NAN, INF, -INF, "0.9", True)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_no_score_never_wins_and_loses_to_every_score(mode):
    for nothing in NOTHING:
        assert not is_better(nothing, 0.5, mode) and not is_better(nothing, None, mode)
        assert is_better(0.5, nothing, mode)
    assert not is_better(0.5, 0.5, mode)
    assert is_better(np.float32(2), 1, mode) == (mode == "max")


@pytest.mark.parametrize("place", range(5))
def test_the_order_does_not_depend_on_where_a_nan_stands(place):
    items = [("a", 0.2), ("b", 0.98), ("c", 0.5), ("d", 0.5)]
    items.insert(place, ("lost", NAN))
    assert [name for name, _ in best_first(dict(items), "max")] == ["b", "c", "d", "a"]
    assert [name for name, _ in best_first(dict(items), "min")] == ["a", "c", "d", "b"]
    assert without_score(dict(items)) == ["lost"]


@pytest.mark.parametrize(
    ("score", "others", "mode", "best", "said"),
    [
        (0.98, {"majority": NAN, "svm": 0.9}, "max", True, "better than svm. Without a finite f1: majority."),
        (0.98, {"majority": None}, "max", False, "No baseline has a finite f1"),
        (0.98, {}, "max", False, "No baseline has a finite f1"),
        (NAN, {"svm": 0.9}, "max", False, "This run has no finite f1"),
        (None, {"svm": 0.9}, "min", False, "This run has no finite f1"),
        (0.5, {"svm": 0.5}, "max", False, "svm is as good as this run"),
        (0.2, {"svm": 0.5, "majority": 0.3}, "min", True, "better than every baseline"),
        (0.2, {"svm": 0.5, "majority": 0.3}, "max", False, "svm is better than this run"),
    ],
)
def test_how_a_run_stands(score, others, mode, best, said):
    found, words = standing(score, others, "f1", mode)
    assert found == best and said in words


def summary(score, baselines, mode="max"):
    config = {"model": {"name": "net"}, "eval": {"metric": "macro_f1", "mode": mode}}
    found = {name: {} if value is None else {"macro_f1": value} for name, value in baselines.items()}
    return {"test": {"macro_f1": score, "split": "test", "examples": 10}, "baselines": found, "config": config}


def test_the_end_of_a_run_ranks_what_has_a_score():
    text = score_text(summary(0.98, {"majority": NAN, "none": None, "svm": 0.9}))
    assert text.index("net (this run)") < text.index("svm") and "better than this run" not in text
    assert "majority" not in text
    assert "This run has no finite macro_f1" in score_text(summary(NAN, {"svm": 0.9}))
    assert "svm is better than this run" in score_text(summary(0.2, {"svm": 0.1}, "min"))
    watched = summary(0.98, {"svm": 0.9})
    watched["config"]["eval"] |= {"metric": "shifted/macro_f1", "also": {"shifted": {}}}  # of another evaluation
    assert score_text(watched).index("net (this run)") < score_text(watched).index("svm")


def test_an_evaluation_that_is_not_finite_is_never_the_best():
    best = Best("min")
    assert [best.update(value, step) for step, value in enumerate((NAN, 2.0, -INF, INF, 1.0))] == [
        False, True, False, False, True,
    ]  # fmt: skip
    assert (best.value, best.step, best.stale) == (1.0, 4, 0)


def test_a_mean_over_seeds_says_which_seeds_it_is_of():
    assert _interval([0.5, None, 0.5]) == "0.5000 +- 0.0000 (2 of 3 seeds)"
    assert _interval([0.5, NAN]) == "0.5000 (1 of 2 seeds)" and _interval([None]) == ""
    assert _interval([0.5]) == "0.5000"


def test_seeds_are_ranked_in_the_direction_of_their_metric():
    rows = {"worse": [2.0, 2.5], "lost": [NAN, 0.1], "best": [1.0, 1.5], "none": [None, None]}
    lines = seeds.table(rows, "min", 1)
    assert [line.split()[0] for line in lines] == ["best", "worse", "lost", "none"]
    assert "no mean" in lines[2] and "not finite, 0.1000" in lines[2]
    assert "90.00" in seeds.table({"net": [0.9]}, "max", 100)[0]
