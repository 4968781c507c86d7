"""Networks for series: parameters by their papers, causality, weight normalisation; the GRU and LSTM of the studies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.models import build_model
from cnn.models.tcn import CausalConv
from experiments.recurrent import Recurrent


def parameters(name, shape, **options):
    model = build_model(name, options)
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(made["params"]))


@pytest.mark.parametrize(
    ("name", "shape", "options", "count"),
    [
        # Wang et al. 2017 for one channel and two classes, without the biases that BatchNorm makes idle (512, 960).
        ("series_fcn", (150, 1), {"num_classes": 2}, 264_962 - 512),
        ("series_mlp", (150, 1), {"num_classes": 2}, 151 * 500 + 2 * 501 * 500 + 501 * 2),
        ("experiments.recurrent:bigru", (40, 1), {"num_classes": 10}, 5_134),  # data of MNIST-1D's authors
        ("experiments.fashion_mnist.two_conv:two_conv", (28, 28, 1), {"num_classes": 10}, 86_282),
        ("mlp", (28, 28, 1), {"num_classes": 10, "widths": (256, 128, 100)}, 247_766),
    ],
)
def test_parameter_counts(name, shape, options, count):
    assert parameters(name, shape, **options) == count


def test_a_tcn_is_causal_and_sees_what_it_says():
    model = build_model("tcn", {"num_classes": 1, "width": 8, "levels": 3, "window": 3, "per_step": True})
    x = jax.random.normal(jax.random.key(0), (1, 40, 2))
    variables = model.init(jax.random.key(1), x, train=False)
    reach = model.receptive_field
    assert reach == 1 + 2 * 2 * 7
    slopes = jax.jacobian(lambda x: model.apply(variables, x, train=False)["stage3"][0, 35].sum())(x)
    seen = np.flatnonzero(np.abs(slopes[0]).sum(axis=-1))
    assert seen.max() == 35 and seen.min() >= 35 - reach + 1
    last = build_model("tcn", {"num_classes": 1, "width": 8, "levels": 3, "window": 3})
    wanted = model.apply(variables, x, train=False)["logits"][:, -1]
    np.testing.assert_allclose(last.apply(variables, x, train=False)["logits"], wanted, rtol=1e-6)
    with pytest.raises(UserError, match="must be positive"):
        build_model("tcn", {"levels": 0})


def test_weight_normalisation_keeps_the_direction_alone():
    layer, x = CausalConv(5, 3, 2), jax.random.normal(jax.random.key(0), (2, 9, 4))
    params = layer.init(jax.random.key(1), x)["params"]
    np.testing.assert_allclose(params["g"], np.sqrt((np.asarray(params["v"]) ** 2).sum((0, 1))), rtol=1e-6)
    scaled = params | {"v": 7.0 * params["v"]}
    np.testing.assert_allclose(layer.apply({"params": scaled}, x), layer.apply({"params": params}, x), atol=1e-5)


def by_hand(cell, x, p):
    """PyTorch's formulas, step by step in float64."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    h = c = np.zeros((len(x), p["kernel_state"].shape[0]))
    for step in range(x.shape[1]):
        a, b = x[:, step] @ p["kernel_in"] + p["bias_in"], h @ p["kernel_state"] + p["bias_state"]
        if cell == "gru":
            (ar, az, an), (br, bz, bn) = np.split(a, 3, 1), np.split(b, 3, 1)
            r, z = sigmoid(ar + br), sigmoid(az + bz)
            h = (1 - z) * np.tanh(an + r * bn) + z * h
        else:
            i, f, g, o = np.split(a + b, 4, 1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
    return h


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_cells_against_the_formulas(cell):
    x = np.random.default_rng(0).normal(size=(3, 11, 2))
    model = Recurrent(num_classes=4, width=5, cell=cell, bidirectional=True)
    params = model.init(jax.random.key(0), jnp.asarray(x, jnp.float32), train=False)["params"]
    out = model.apply({"params": params}, jnp.asarray(x, jnp.float32), train=False)
    y = out["stage1"]
    for side, values, found in (("forward", x, y[:, -1, :5]), ("backward", x[:, ::-1], y[:, 0, 5:])):
        own = {key.removeprefix(f"{side}_"): np.float64(v) for key, v in params.items() if key.startswith(side)}
        np.testing.assert_allclose(found, by_hand(cell, values, own), atol=1e-5)
    shapes = {"all": (3, 110), "last": (3, 10), "each": (3, 11, 10)}
    for head, shape in shapes.items():
        made = Recurrent(num_classes=4, width=5, cell=cell, bidirectional=True, head=head)
        assert jax.eval_shape(
            lambda made=made: made.init_with_output(jax.random.key(0), jnp.asarray(x), train=False)[0]
        )["pre_logits"].shape == shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("experiments.recurent:gru", "cannot be imported"),
        ("experiments.recurrent:grru", "Did you mean 'gru'"),
        ("experiments.recurrent:GATES", "is a dict, it must be a class or function"),
        ("experiments.recurrent:", "Valid: .*Recurrent"),
    ],
)
def test_models_of_your_own_that_are_not_there(name, said):
    with pytest.raises(UserError, match=said):
        build_model(name, {})
