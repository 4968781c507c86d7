"""What every task of the table keeps to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize("name", TASKS)
def test_protocol(name):
    data, shape = PROBLEMS[name]
    made = build_task(name, data)
    assert made.num_outputs == shape[-1]
    first = {key: jnp.asarray(value) for key, value in made.init_batch().items()}
    assert {"valid"} < set(first)
    x = made.inputs(made.augment(first, jax.random.key(0)))
    assert x.dtype == jnp.float32
    out = {"logits": jnp.zeros(shape), "pre_logits": jnp.zeros((1, 3))}
    value = made.loss(out, first)
    assert value.shape == (1,)
    assert value.dtype == jnp.float32
    total = sums.add({}, made.metrics(out, first))
    assert made.finalize(total)
    predictions = made.predictions(out)
    assert all(len(rows) == 1 for rows in predictions.values())
    host = {key: np.asarray(value) for key, value in predictions.items()}
    assert isinstance(made.report(host, np.asarray(first[data.target_key])), dict)
    assert json.dumps(made.describe({key: value[0] for key, value in host.items()}))
    assert isinstance(made.baselines_read(data.input_shape), bool)
    for other, (problem, _) in PROBLEMS.items():
        if other != name:
            with pytest.raises(UserError, match="its task is another one"):
                build_task(name, problem)


def test_every_task_is_tested():
    assert set(PROBLEMS) == set(TASKS)
