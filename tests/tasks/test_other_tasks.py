"""Regression and sequence labelling: numbers against NumPy, padding, baselines, plots, and their data sets."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.data import open_provider
from cnn.errors import UserError
from cnn.features import DatasetInfo, Feature
from cnn.tasks import build_task
from tests.support.scoring import each, scored

NUMBERS = DatasetInfo("numbers", {"series": Feature.series(6, 2)}, {"target": Feature.numbers(2)})
STEPS = DatasetInfo("steps", {"series": Feature.series(6, 2)}, {"labels": Feature.labels(6)}, ("a", "b", "c"))
RNG = np.random.default_rng(0)


def test_regression_is_the_mean_over_valid_rows():
    said, target = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2))
    valid = np.array([True, True, False, True, True])
    said[2] = np.nan  # padding
    batch = {"target": jnp.asarray(target, jnp.float32), "valid": jnp.asarray(valid)}
    task = build_task("regression", NUMBERS)
    out = {"logits": jnp.asarray(said, jnp.float32)}
    found = scored(task, [(out, batch)])
    away = (said - target)[valid]
    wanted = {"mse": np.mean(away**2), "mae": np.abs(away).mean(), "loss": np.mean(away**2)}
    wanted["rmse"] = np.sqrt(wanted["mse"])
    assert found == pytest.approx(wanted, rel=1e-5)
    parts = [jax.tree.map(lambda x, part=part: x[part], (out, batch)) for part in (slice(0, 2), slice(2, 5))]
    r2 = scored(task, parts, full=True)["r2"]
    centre = target[valid].mean(axis=0, keepdims=True)
    assert r2 == pytest.approx(1 - np.sum(away**2) / np.sum((target[valid] - centre) ** 2))


@pytest.mark.parametrize(("loss", "far", "near"), [("mse", 9.0, 0.25), ("mae", 3.0, 0.5), ("huber", 2.5, 0.125)])
def test_regression_losses(loss, far, near):
    task = build_task("regression", DatasetInfo(
        "x", {"series": Feature.series(6, 2)}, {"target": Feature.numbers(1)}
    ), loss=loss)
    batch = {"target": jnp.zeros((2, 1)), "valid": jnp.ones(2, bool)}
    np.testing.assert_allclose(each(task, {"logits": jnp.array([[3.0], [-0.5]])}, batch), [far, near])


def test_regression_baselines():
    x = RNG.normal(size=(400, 6, 2)).astype(np.float32)
    y = (x.reshape(400, -1) @ RNG.normal(size=(12, 2)) + 3).astype(np.float32)
    task = build_task("regression", NUMBERS)
    assert task.baselines_read((6, 2)) and not task.baselines_read((4000, 2))
    found = task.baselines({"series": x[:300], "target": y[:300]}, {"series": x[300:], "target": y[300:]}, 0)
    assert found["ridge"]["mse"] < 1e-3 * found["mean"]["mse"]
    alone = task.baselines({"target": y[:300]}, {"target": y[300:]}, 0)
    assert set(alone) == {"mean"} and alone["mean"]["rmse"] == pytest.approx(np.sqrt(alone["mean"]["mse"]))


def test_labelling_against_numpy():
    logits, labels = RNG.normal(size=(4, 6, 3)), RNG.integers(0, 3, (4, 6))
    valid = np.array([True, True, True, False])
    logits[3] = np.nan
    batch = {"labels": jnp.asarray(labels), "valid": jnp.asarray(valid)}
    task = build_task("sequence_labelling", STEPS)
    out = {"logits": jnp.asarray(logits, jnp.float32)}
    found = scored(task, [(out, batch)], full=True)
    x, y = logits[:3], labels[:3]
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    right = x.argmax(-1) == y
    assert found["loss"] == pytest.approx(-np.take_along_axis(log_p, y[..., None], -1).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["exact_accuracy"] == pytest.approx(right.all(-1).mean())
    recall = [right[y == k].mean() for k in range(3)]
    assert found["per_class_recall"] == pytest.approx(recall)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert found["accuracy_by_step"] == pytest.approx(right.mean(axis=0), abs=1e-4)


def test_a_model_that_answers_once_is_named():
    task = build_task("sequence_labelling", STEPS)
    batch = {"labels": jnp.zeros((4, 6), jnp.int32), "valid": jnp.ones(4, bool)}
    with pytest.raises(UserError, match="6 steps need a class each.*per_step"):
        task.losses({"logits": jnp.zeros((4, 3))}, batch)
    with pytest.raises(UserError, match="predicts .3,. per example, the target is .2,."):
        build_task("regression", NUMBERS).losses({"logits": jnp.zeros((4, 3))}, {"target": jnp.zeros((4, 2))})
    for name, options in (("sequence_labelling", {"label_smoothing": 1.0}), ("regression", {"loss": "mle"})):
        with pytest.raises(UserError):
            build_task(name, STEPS if name == "sequence_labelling" else NUMBERS, **options)


@pytest.mark.drawn
@pytest.mark.parametrize("name", ["regression", "sequence_labelling"])
def test_pictures(name, tmp_path):
    info = {"regression": NUMBERS, "sequence_labelling": STEPS}[name]
    predictions = {"prediction": RNG.normal(size=(20, 2)), "labels": RNG.integers(0, 3, (20, 6))}
    examples = {"target": RNG.normal(size=(20, 2)), "labels": RNG.integers(0, 3, (20, 6))}
    (path,) = build_task(name, info).plot(predictions, examples, str(tmp_path / "new"))
    assert os.path.getsize(path) > 5000


@pytest.mark.parametrize("length", [100, 200])
def test_the_memory_tasks_are_what_the_paper_says(length, monkeypatch):
    from cnn.data.datasets import memory_tasks

    if length == 200:
        provider = open_provider("adding_t200")
        monkeypatch.setattr(memory_tasks.Adding, "make", lambda self: {"train": self._split("train", 500)})
        provider.prepare()
        x, y = provider.arrays("train")["series"], provider.arrays("train")["target"]
        assert (x[..., 1].sum(axis=1) == 2).all() and set(np.unique(x[..., 1])) == {0, 1}
        np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(axis=1), y[:, 0], rtol=1e-6)
        assert 0.14 < np.mean((y - 1) ** 2) < 0.19  # 1/6
        return
    provider = open_provider("copy_memory_t100")
    monkeypatch.setattr(memory_tasks.CopyMemory, "make", lambda self: {"train": self._split("train", 500)})
    provider.prepare()
    x, y = provider.arrays("train")["series"][..., 0], provider.arrays("train")["labels"]
    assert x.shape == y.shape == (500, 120)
    np.testing.assert_array_equal(x[:, :10], y[:, -10:])
    assert (x[:, 10:109] == 0).all() and (x[:, 109:] == 9).all() and (y[:, :110] == 0).all()
    found = build_task("sequence_labelling", provider.info).baselines({"labels": y}, {"labels": y}, 0)
    assert found["frequency_by_step"]["loss"] == pytest.approx(10 * np.log(8) / 120, rel=0.05)
