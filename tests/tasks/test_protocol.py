"""What every task of the table keeps to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.card import spec_of
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.scoring import sums
from cnn.tasks import TASKS, build_task

K = 10

PROBLEMS = {  # (what a data set says, shape of the logits) of each task
    "classification": (DatasetInfo(
        "test", {"image": Feature.image(8, 6, 1)}, {"label": LABEL}, tuple(map(str, range(K)))
    ), (1, K)),
    "regression": (DatasetInfo("test", {"series": Feature.series(12, 2)}, {"target": Feature.numbers(3)}), (1, 3)),
    "segmentation": (DatasetInfo(
        "test", {"image": Feature.image(8, 6, 1)}, {"mask": Feature.mask(8, 6)}, tuple("abc")
    ), (1, 8, 6, 3)),
    "sequence_labelling": (DatasetInfo(
        "test", {"series": Feature.series(12, 2)}, {"labels": Feature.labels(12)}, tuple("abc")
    ), (1, 12, 3)),
}


def zeros(data):
    """A batch of one zero example."""
    batch = {key: jnp.zeros((1, *shape), dtype) for key, (shape, dtype) in spec_of(data).items()}
    return {**batch, "valid": jnp.ones(1, bool)}


@pytest.mark.parametrize("name", TASKS)
def test_protocol(name):
    data, shape = PROBLEMS[name]
    made = build_task(name, data)
    assert made.num_outputs == shape[-1]
    first = zeros(data)
    x = made.inputs(made.augment(first, jax.random.key(0)))
    assert x.dtype == jnp.float32
    out = {"logits": jnp.zeros(shape), "pre_logits": jnp.zeros((1, 3))}
    terms = made.losses(out, first)
    assert terms and all(total.shape == count.shape == () for total, count in terms.values())
    assert all(total.dtype == count.dtype == jnp.float32 for total, count in terms.values())
    assert set(made.loss_weights) <= {*terms, "aux"}
    counted = sums.add({}, made.metrics(out, first))
    predictions = made.predictions(out, first, lambda *_, **__: out)
    assert all(len(rows) == 1 for rows in predictions.values())
    host = {key: np.asarray(value) for key, value in predictions.items()}
    light = made.scorer(full=False)
    for scorer in (light, made.scorer()):
        assert {*light.names, *scorer.proportions} <= set(scorer.names)
        wanted = {key: host[key] for key in scorer.predictions if key in host}
        scorer.add(counted, wanted, {key: np.asarray(first[key]) for key in scorer.batch})
        result = scorer.result()
        assert set(scorer.names) <= set(result) and json.dumps(result)
        assert all(isinstance(result[key], float) for key in scorer.names)
    assert not (light.predictions or light.batch)  # cheap enough for every evaluation
    assert json.dumps(made.describe({key: value[0] for key, value in host.items()}))
    assert isinstance(made.baselines_read(data.input_shape), bool)
    for other, (problem, _) in PROBLEMS.items():
        if other != name:
            with pytest.raises(UserError, match="this task needs .* data set 'test' provides '.*cnn list tasks"):
                build_task(name, problem)


@pytest.mark.parametrize("name", TASKS)
def test_padding_never_counts(name):
    """Rows that are not valid change neither losses nor metrics, even where they are NaN."""
    data, shape = PROBLEMS[name]
    made, rng = build_task(name, data), np.random.default_rng(0)
    batch = {key: jnp.concatenate([value] * 3) for key, value in zeros(data).items()}
    logits = rng.normal(size=(3, *shape[1:])).astype(np.float32)
    padded = {"logits": jnp.asarray(logits).at[2].set(jnp.nan)}, batch | {"valid": jnp.array([True, True, False])}
    part = {"logits": jnp.asarray(logits[:2])}, {key: value[:2] for key, value in batch.items()}
    for method in (made.losses, made.metrics):
        found, wanted = method(*padded), method(*part)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, wanted)


def test_every_task_is_tested():
    assert set(PROBLEMS) == set(TASKS)
