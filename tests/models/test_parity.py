"""Our networks answer what PyTorch's answer: full size, the same weights, made by a formula from their names.

The references in parity/*.npz come from `python -m experiments.parity.torch_logits`; nothing here needs PyTorch.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.convert.variables import abstract_variables, convert_detecting, convert_state, dropped
from cnn.models import MODELS, build_model
from experiments.parity import formula
from experiments.parity.rows import ROWS

FOLDER = Path(__file__).with_name("parity")
FAST = ("resnet18",)
# One of each way to build a network; `make test-all` compares them all.
USUAL = (
    "alexnet", "inception_v3", "squeezenet1_1", "tf_efficientnet_lite0", "mobilenetv1_100", "mnasnet_050",
    "convnext_atto", "regnety_008_tv", "resnetv2_50", "repvgg_a0", "lraspp_mobilenet_v3_large",
)  # fmt: skip
TOLERANCE = 1e-4  # of the largest logit


def network(name: str):
    """(stored reference, model, variables, picture) of one comparison."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        stored = dict(file)
    layout = json.loads(str(stored["layout"]))
    image = formula.picture((int(stored["size"]), int(stored["size"]), 3))
    options = {"num_classes": stored["logits"].shape[-1]} | layout.get("options", {})
    model = build_model(layout["model"], options)
    like = abstract_variables(model, lambda: jnp.asarray(image))
    damp = layout.get("damp", 1.0)
    state = {key: formula.tensor(key, shape, damp) for key, shape in layout["state"]}
    variables = convert_state(layout["model"], "", state, like)  # finds the layout by itself
    return stored, layout, model, variables, image


def marked(name):
    """By how often it runs."""
    marks = () if name in FAST else pytest.mark.slow if name in USUAL else pytest.mark.exhaustive
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in ROWS])
def test_logits(name):
    stored, layout, model, variables, image = network(name)
    if "aux" in stored:  # which are made while training only; without dropout and batch statistics it is the same
        run = functools.partial(model.clone(bn="frozen", dropout=0.0).apply, train=True)
    else:
        run = functools.partial(model.apply, train=False)
    found = jax.jit(run)(variables, image)
    for key in {"logits", "aux"} & stored.keys():
        want, every = stored[key], int(stored.get("every", 1))
        part = np.asarray(found[key])[0][(slice(None, None, every),) * (want.ndim - 1)]
        assert np.abs(part - want).max() <= TOLERANCE * np.abs(want).max(), key
    after = {key: value for key, value in stored.items() if key.startswith("after/")}
    if after:
        _statistics(after, layout, model, variables, image)


def _statistics(after, layout, model, variables, image):
    """The running statistics after one pass in training mode; PyTorch's momentum is 0.1 too."""
    batch = np.concatenate([image, image[:, :, ::-1], -image, image[:, ::-1]])
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    moved = run(variables, batch, rngs={"dropout": jax.random.key(0)})[1]["batch_stats"]
    # Converting a state of numbered tensors says which of our statistics is which of PyTorch's.
    numbered = {key: np.full(shape, i, np.float32) for i, (key, shape) in enumerate(layout["state"])}
    places = convert_state(layout["model"], layout["library"], numbered, variables)["batch_stats"]
    ours = {
        layout["state"][int(number.flat[0])][0]: np.asarray(value)
        for number, value in zip(jax.tree.leaves(places), jax.tree.leaves(moved), strict=True)
    }
    for key, want in after.items():
        name = key.removeprefix("after/")
        found, old = ours[name][::16], formula.tensor(name, ours[name].shape)[::16]
        # PyTorch keeps n / (n - 1) of the variance. n is not known here, but it is at least the batch's.
        slack = np.abs(want - 0.9 * old) / (len(batch) - 1) if name.endswith("var") else 0
        assert (np.abs(found - want) <= TOLERANCE * np.abs(want).max() + slack).all(), name


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_an_auxiliary_head_may_be_left_away(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        layout = json.loads(str(file["layout"]))
    model = build_model(layout["model"], {"num_classes": 21})
    like = abstract_variables(model, lambda: jnp.zeros((1, 64, 64, 3)))
    state = {key: np.zeros(shape, np.float32) for key, shape in layout["state"]}
    _, found = convert_detecting(layout["model"], "", state, like)
    assert found.endswith("_without_aux")
    assert all(key.startswith("aux_classifier.") for key in dropped(layout["model"], found, state, like))


def test_every_row_has_its_file_and_model():
    assert {file.stem for file in FOLDER.glob("*.npz")} == set(ROWS)
    assert not {row.model for row in ROWS.values()} - set(MODELS)
    assert sum(file.stat().st_size for file in FOLDER.glob("*.npz")) < 1_000_000


NO_COUNTERPART = (  # in timm or torchvision
    *("lenet", "mlp", "mnist1d", "series", "small_cnn", "tcn", "wide_resnet"),
    *("semantic_fpn", "residual_unet", "unet"),
)


def test_enough_is_compared():
    families = {entry.target.split(":")[0] for entry in MODELS.values()}
    compared = {MODELS[row.model].target.split(":")[0] for row in ROWS.values()}
    assert len(ROWS) >= 30 and sum(row.train for row in ROWS.values()) >= 5
    assert families - compared == {f"cnn.models.{name}" for name in NO_COUNTERPART}
