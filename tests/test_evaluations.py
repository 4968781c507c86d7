"""Several evaluations in one run, each with its split, data set and schedule; any may choose the best checkpoint."""

import json

import pytest
from ml_collections import ConfigDict

from cnn import train
from cnn.errors import UserError
from cnn.plan import make_plan
from tests.support.runs import tiny

ALSO = {"seen": {"split": "train[:20]", "every_steps": 8}, "other": {"dataset": "digits", "split": "validation"}}


def settings(**changes):
    return tiny(**{"total_steps": 12, "eval__also": ConfigDict(ALSO), "checkpoint__every_steps": 12} | changes)


def test_each_has_its_split_and_schedule_and_one_chooses(tmp_path):
    assert train.train(settings(eval__metric="seen/loss", eval__mode="min"), str(tmp_path)) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {
        name: [row["step"] for row in rows if name in row]
        for name in ("eval/accuracy", "eval/seen/accuracy", "eval/other/macro_f1")
    }
    assert steps == {
        "eval/accuracy": [5, 10, 12], "eval/seen/accuracy": [8, 12], "eval/other/macro_f1": [5, 10, 12]
    }  # fmt: skip
    losses = {row["step"]: row["eval/seen/loss"] for row in rows if "eval/seen/loss" in row}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"]["best_value"] == min(losses.values())
    assert losses[summary["best"]["best_step"]] == min(losses.values())


def test_metrics_that_need_every_row_can_choose():
    plan = make_plan(settings(eval__metric="other/auroc"))
    assert [(one.name, one.metric, one.full) for one in plan.evaluations] == [
        ("", "", False), ("other", "auroc", True), ("seen", "", False)
    ]  # fmt: skip
    assert [one.batches.size for one in plan.evaluations] == [40, 40, 20]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval__metric": "accuracu"}, "unknown eval.metric 'accuracu'. Did you mean 'accuracy'"),
        ({"eval__metric": "seen/acuracy"}, "unknown eval.metric 'acuracy'"),
        ({"eval__metric": "nowhere/accuracy"}, "unknown eval.metric 'nowhere/accuracy'"),
        ({"eval__also": ConfigDict({"seen": {"splits": "train"}})}, "unknown field of eval.also.seen 'splits'"),
        ({"eval__also": ConfigDict({"seen": {"split": "tran"}})}, "unknown split 'tran'"),
        ({"eval__also": ConfigDict({"x": {"dataset": "mnist1d"}})}, "eval.also.x: data set 'mnist1d' has other feat"),
    ],
)
def test_mistakes_are_one_line(changes, said):
    with pytest.raises(UserError, match=said) as caught:
        make_plan(settings(**changes))
    assert "\n" not in str(caught.value)
