"""A task from outside: two inputs, ragged targets, a host metric that steers, decoding that calls the network."""

import ast
import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import load
from cnn.build import eval_batches
from cnn.errors import UserError
from cnn.evaluate import Evaluator, evaluate
from cnn.plan import make_plan
from tests.support.runs import ROOT, Killable, tiny

MODULE = "tests.support.captions"
AFTER_7 = {"at": "after_step", "n": 7, "signal": signal.SIGTERM}


def settings(**changes):
    given = {
        "task": ConfigDict({"name": f"{MODULE}:Captioning"}),
        "model": ConfigDict({"name": f"{MODULE}:Captioner"}),
        "input__dataset": f"{MODULE}:Captions",
        "input__fake": False,
        "input__train_transforms": tiny().input.eval_transforms,
        "total_steps": 120,
        "optim__name": "adamw",
        "optim__lr": 0.02,
        "eval__metric": "word_error",
        "eval__mode": "min",
        "eval__test_split": "test",
        "eval__use": "best",
        "eval__every_steps": 30,
        "checkpoint__every_steps": 20,
    }
    return tiny(**given | changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    server = Killable(tmp_path_factory.mktemp("runs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("captions")
    assert runs.run(settings(), workdir) == 0, runs.log(workdir)
    return workdir


def test_it_trains_and_its_own_metric_chooses(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    errors = {row["step"]: row["eval/word_error"] for row in rows if "eval/word_error" in row}
    assert errors[120] < 0.6 * errors[30]
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["best"]["best_value"] == min(errors.values()) and "loss/end" in summary["test"]


@pytest.mark.parametrize("buckets", [(), (1, 3)])
def test_it_resumes_bit_exactly(runs, trained, tmp_path, buckets):
    wanted = trained
    if buckets:
        wanted = tmp_path / "whole"
        assert runs.run(settings(input__buckets=buckets, total_steps=20), wanted) == 0, runs.log(wanted)
    changes = {"input__buckets": buckets, "total_steps": 20} if buckets else {}
    for kill, status in ((AFTER_7, 75), (None, 0)):
        assert runs.run(settings(**changes), tmp_path / "parts", kill) == status, runs.log(tmp_path / "parts")
    assert runs.final(tmp_path / "parts") == runs.final(wanted)


def test_it_is_evaluated_alike_on_any_number_of_devices(trained):
    found = {}
    for devices in (1, 2, 8):
        plan = make_plan(settings(mesh__devices=devices))
        variables = jax.device_get(plan.new_state().variables())
        batches = eval_batches(plan.built, plan.test, 16)  # 21 examples: the second batch is padded
        found[devices] = Evaluator(plan.built).score(variables, batches, full=True).metrics
    for other in (2, 8):
        assert found[other]["word_error"] == found[1]["word_error"]
        assert found[other]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)
    assert evaluate(str(trained))["metrics"]["word_error"] == min(
        json.loads(line).get("eval/word_error", 9) for line in (trained / "metrics.jsonl").read_text().splitlines()
    )


def test_it_predicts_without_targets(trained):
    source = make_plan(settings()).test
    examples = [{key: source[i][key] for key in ("image", "hint")} for i in range(len(source))]
    found = [row["caption"] for row in load(str(trained)).predict(examples)]
    words = [" ".join(make_plan(settings()).built.info.vocabulary[t] for t in source[i]["tokens"]) for i in range(21)]
    assert np.mean([one == other for one, other in zip(found, words, strict=True)]) == pytest.approx(
        evaluate(str(trained))["metrics"]["exact"]
    )


def test_the_library_knows_nothing_of_it():
    names = {"tokens", "caption", "hint", "vocabulary", "captions"}
    for file in ("train", "evaluate", "plan", "step", "data/pipeline", "predict"):
        tree = ast.parse(Path(ROOT, "cnn", f"{file}.py").read_text())
        assert not names & {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}, file


def test_examples_longer_than_the_padding_are_named(monkeypatch):
    from tests.support import captions

    monkeypatch.setattr(captions, "LONGEST", 2)
    with pytest.raises(UserError, match="example . of captions 'train' has 3 tokens, a batch holds at most 2"):
        plan = make_plan(settings())
        [plan.batches[step] for step in range(3)]
