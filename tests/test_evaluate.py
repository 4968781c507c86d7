"""Evaluation is exact: every example once, whatever the batch and the devices."""

import json

import jax
import numpy as np
import pytest

from cnn import evaluate, train
from cnn.build import build, eval_batches
from cnn.data import open_dataset
from cnn.data.pipeline import EvalBatches
from cnn.data.sources import ArraySource
from cnn.errors import UserError
from cnn.evaluate import Evaluator
from cnn.mesh import replicated
from cnn.run.checkpoint import find, load_variables
from tests.support.runs import tiny

BATCHES, DEVICES = (1, 7, 64, 1000), (1, 2, 8)
TEST_DIGITS = 899


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """The workdir of a short run on real digits, good enough for its answers to differ."""
    workdir = tmp_path_factory.mktemp("digits")
    config = tiny(
        total_steps=120,
        model={"name": "resnet_small", "stage_sizes": (1, 1), "width": 16},
        input__fake=False,
        input__data_dir=str(data_dir),
        eval__split="train[90%:]",
        eval__every_steps=60,
        checkpoint__every_steps=60,
        task={"name": "classification"},
        optim__lr=0.1,
    )
    assert train.train(config, str(workdir)) == 0
    return workdir


@pytest.fixture(scope="module")
def score(run):
    """`score(batch, devices)`: all metrics of the test digits."""
    variables, meta = load_variables(find(str(run)))

    def scores(batch, devices, keep=False):
        settings = tiny(input__fake=False, mesh__devices=devices).unlock()
        settings.update(meta["config"])
        settings.mesh.devices = devices
        dataset = open_dataset(settings.input)
        built = build(settings, dataset.info)
        batches = eval_batches(built, dataset.source("test"), batch)
        return Evaluator(built).score(
            jax.device_put(variables, replicated(built.mesh)), batches, keep=keep
        )

    return scores


def flat(metrics):
    return {name: np.asarray(value, np.float64) for name, value in metrics.items()}


@pytest.mark.parametrize("devices", DEVICES)
def test_metrics_do_not_depend_on_batch_and_devices(score, devices):
    wanted = flat(score(64, 1).metrics)
    assert wanted["confusion"].sum() == TEST_DIGITS
    assert wanted["accuracy"] == np.trace(wanted["confusion"]) / TEST_DIGITS > 0.2
    for batch in BATCHES:
        found = flat(score(batch, devices).metrics)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            exact = name != "loss"  # a sum of floats in another order; all others count examples
            np.testing.assert_allclose(
                found[name], value, rtol=0 if exact else 1e-6, err_msg=f"{name}, batch {batch}, {devices} devices"
            )


def test_predictions_are_one_per_example_in_order(score):
    small, large = score(7, 1, keep=True).predictions, score(1000, 8, keep=True).predictions
    for name, rows in large.items():
        assert len(rows) == len(small[name]) == TEST_DIGITS
        np.testing.assert_allclose(small[name], rows, atol=1e-5, err_msg=name)


class Short(EvalBatches):
    """Says that it has one batch less than its examples fill."""

    def __len__(self):
        return super().__len__() - 1


class Boastful(ArraySource):
    """Says that it has more examples than it has."""

    def __len__(self):
        return super().__len__() + 3


def small():
    config = tiny()
    dataset = open_dataset(config.input)
    return build(config, dataset.info), dataset.source("test")


def test_examples_that_were_not_seen_are_noticed():
    built, source = small()
    batches = Short(source, (), 16)
    with pytest.raises(RuntimeError, match="evaluation saw 32 examples of 40"):
        Evaluator(built).score(jax.jit(built.init)(), batches)


def test_a_source_that_promises_too_much_is_noticed():
    built, source = small()
    boastful = Boastful(source.arrays, "boastful")
    with pytest.raises((UserError, IndexError)):
        Evaluator(built).score(jax.jit(built.init)(), EvalBatches(boastful, (), 16))


def test_the_verb_scores_any_split_of_any_checkpoint(run, capsys):
    summary = json.loads((run / "summary.json").read_text())
    arguments = [f"--workdir={run}", "--json", "--split=train[90%:]"]
    found = {}
    for which in ("best", "last", "60"):
        assert evaluate.main([*arguments, f"--checkpoint={which}"]) == 0
        found[which] = json.loads(capsys.readouterr().out)
    assert found["best"]["step"] == summary["best"]["best_step"]
    assert (found["last"]["step"], found["60"]["step"]) == (120, 60)
    assert found["best"]["metrics"]["accuracy"] == summary["best"]["best_value"]
    assert {result["examples"] for result in found.values()} == {90}


def test_the_verb_says_what_is_wrong(run, tmp_path):
    for arguments, message in (
        ([f"--workdir={tmp_path / 'nowhere'}"], "does not exist"),
        ([f"--workdir={tmp_path}"], "holds no checkpoint"),
        ([f"--workdir={run}", "--checkpoint=31"], "no checkpoint '31' in "),
        ([f"--workdir={run}", "--split=tset"], "tset"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(arguments)
