"""What keeps signals at their size without normalisation."""

import functools
import math

import jax
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.blocks import ACTIVATIONS
from cnn.layers.std_conv import ScaledStdConv, StdConv
from cnn.models import build_model
from cnn.models.nfnet import GAMMA, NFNet


@pytest.mark.parametrize("name", GAMMA)
def test_gamma_gives_unit_variance(name):
    z = np.linspace(-12, 12, 24001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    y = np.asarray(ACTIVATIONS[name](z), np.float64)
    mean = (density * y).sum()
    assert GAMMA[name] == pytest.approx(((density * y**2).sum() - mean**2) ** -0.5, rel=1e-3)  # theirs are of samples


@pytest.mark.parametrize("layer", [StdConv, ScaledStdConv])
def test_standardised_kernels_forget_mean_and_scale(layer):
    conv = layer(6, 3, groups=2, epsilon=0.0)
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 4))
    variables = conv.init(jax.random.key(1), x)
    shifted = jax.tree.map(lambda leaf: 3 * leaf + 2 if leaf.ndim > 1 else leaf, variables)
    np.testing.assert_allclose(conv.apply(variables, x), conv.apply(shifted, x), rtol=1e-3, atol=1e-3)


def test_scaled_standardisation_keeps_the_variance():
    conv = ScaledStdConv(256, 3)
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 64))
    y = conv.apply(conv.init(jax.random.key(1), x), x)[:, 1:-1, 1:-1]
    assert float(y.var()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma_in_act": True, "same_padding": True},
        {"stem": "imagenet", "extra_conv": False, "group_size": 0, "last_width": 0, "attention": "eca"},
    ],
)
def test_blocks_start_as_the_identity(options):
    """With either form of the zero gain; and the parameters are those of the other forms."""
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    model = NFNet(**{**NFNet.TINY, "stage_sizes": (3, 1, 1), **options}, activation="silu")
    for skip_gain in (True, False):
        network = model.clone(skip_gain=skip_gain)
        variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(1), x)
        assert set(variables) == {"params"}
        one = network.clone(stage_sizes=(1, 1, 1))
        kept = dict(variables["params"], stage1={"block1": variables["params"]["stage1"]["block1"]})
        np.testing.assert_array_equal(
            network.apply(variables, x, train=False)["stage1"],
            one.apply({"params": kept}, x, train=False)["stage1"],
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu6"}, "unknown activation 'relu6'"),
        ({"stem": "deep"}, "unknown stem 'deep'"),
        ({"channels": (8, 16)}, "are not for 4 stages"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_model("nfnet_f0", options)
