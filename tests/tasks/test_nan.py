"""A network that says NaN is never right: `argmax` takes NaN for the largest, and would predict the first class."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnn.features import LABEL, DatasetInfo, Feature
from cnn.tasks import build_task
from cnn.tasks.base import predicted_class
from tests.support.scoring import scored

CLASSES = ("a", "b", "c")
SERIES, IMAGE = {"series": Feature.series(4, 1)}, {"image": Feature.image(4, 5, 1)}
TASKS = {
    "classification": (DatasetInfo("x", SERIES, {"label": LABEL}, CLASSES), ()),
    "sequence_labelling": (DatasetInfo("x", SERIES, {"labels": Feature.labels(4)}, CLASSES), (4,)),
    "segmentation": (DatasetInfo("x", IMAGE, {"mask": Feature.mask(4, 5)}, CLASSES), (4, 5)),
}
SHARES = ("accuracy", "exact_accuracy", "balanced_accuracy", "macro_f1", "mean_accuracy", "miou", "dice", "image_dice")


def test_the_predicted_class():
    logits = jnp.array([[0.0, 2.0, 1.0], [jnp.nan, 2.0, 1.0], [0.0, 2.0, jnp.nan], [jnp.inf, 0.0, 1.0]])
    assert predicted_class(logits).tolist() == [1, -1, -1, 0]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_nan_is_right_nowhere(name, full):
    info, space = TASKS[name]
    task, target = build_task(name, info), info.target_key
    first = np.zeros((6, *space), info.targets[target].dtype)  # all of the first class
    batch = {target: jnp.asarray(first), "valid": jnp.ones(6, bool)}
    found = scored(task, [({"logits": jnp.full((6, *space, 3), jnp.nan)}, batch)], full)
    assert np.isnan(found["loss"]) and "accuracy" in found
    assert {key: found[key] for key in SHARES if key in found and found[key] != 0} == {}
    assert found.get("risk_at_80", 1.0) == 1.0
