"""Layers of a network and their receptive fields, against published numbers and against gradients."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.inspect.network import Network, chosen
from cnn.layers.attention import SqueezeExcite
from cnn.layers.conv import Conv
from cnn.layers.pool import avg_pool, max_pool
from cnn.models import MODELS, build_model
from tests.support.open_nets import network, noise

# Araujo et al. 2019, table 1 (VGG-16, AlexNet, Inception v3, MobileNet). The ResNets there stride in a bottleneck's
# first 1x1, for 483; in the v1.5 of this project its 3x3 strides, for 427. ResNet-18: by hand.
KNOWN = {
    "resnet18": 435,
    "resnet50": 427,
    "vgg16": 212,
    "alexnet": 195,
    "inception_v3": 1311,
    "mobilenet_v1": 315,
}


def traced(name):
    model, shape = build_model(name, {"num_classes": 10}), (1, *MODELS[name].input)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))
    return Network(model, variables).trace(shape)


@pytest.mark.parametrize("name", [name for name in KNOWN if name in MODELS])
def test_published_receptive_fields(name):
    assert traced(name).stages[-1].field == (KNOWN[name],) * 2


@pytest.mark.parametrize("name", ["resnet_small", "mnist1d_cnn", "resnet18", "fashion_cnn", "mlp"])
def test_strides_and_channels_are_those_that_the_model_declares(name):
    trace, model = traced(name), build_model(name, {})
    assert tuple(stage.channels for stage in trace.stages) == model.feature_channels
    spatial = [stage for stage in trace.stages if stage.spatial]
    declared = [stride for stride in model.feature_strides if stride]
    assert [set(stage.strides) for stage in spatial] == [{stride} for stride in declared]


def odd_body(x):
    """Windows, strides, dilation, padding of all kinds, two branches, groups, a slice and a pad."""
    x = Conv(4, 5, 2, padding=1, name="a")(x)
    y = Conv(4, 3, dilation=2, name="b")(x)
    x = nn.relu(Conv(4, 1, name="c")(x) + y)
    x = avg_pool(x, 2)
    x = Conv(4, 4, 1, padding=((0, 3),) * (x.ndim - 2), groups=4, name="d")(x)
    x = jnp.pad(x, ((0, 0), *((2, 0),) * (x.ndim - 2), (0, 0)))
    x = x[(slice(None), *(slice(1, None, 2),) * (x.ndim - 2))]
    return Conv(2, 2, 1, padding="VALID", name="e")(x)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_field_is_where_the_gradient_is(rank):
    """With positive weights on a positive input nothing cancels, so the gradient's support is the whole field."""
    space = (96,) * rank
    net = network(odd_body, (*space, 1), lambda v: jax.tree.map(lambda a: abs(a) + 0.1, v))
    x = np.ones((1, *space, 1), np.float32)
    trace = net.trace(x.shape)
    checked = [layer for layer in trace.layers.values() if layer.spatial]
    assert [layer.name for layer in checked] == [
        "a",
        "b",
        "c",
        "c/add",
        "c/add/relu",
        "c/add/relu/avg_pool",
        "d",
        "e",
    ]
    for layer in checked:
        middle = tuple(size // 2 for size in layer.shape[:-1])

        def unit(x, name=layer.name, at=middle):
            return trace.run(net.variables, x, [name])[name][(0, *at)].sum()

        support = np.asarray(jax.grad(unit)(x))[0, ..., 0] != 0
        for axis, (reach, place) in enumerate(zip(layer.reach, middle, strict=True)):
            where = np.flatnonzero(support.any(axis=tuple(a for a in range(rank) if a != axis)))
            low, high = reach.low + reach.jump * place, reach.high + reach.jump * place
            assert (where[0], where[-1]) == (low, high), layer.name


def test_what_mixes_all_positions_sees_the_whole_input():
    net = network(lambda x: SqueezeExcite(2, name="se")(Conv(4, 3, name="conv")(x)), (9, 9, 1))
    trace = net.trace((1, 9, 9, 1))
    assert trace.layers["conv"].field == (3, 3)
    assert trace.stages[0].field == (math.inf, math.inf) and trace.stages[0].strides == (1, 1)


def test_layers_come_in_the_order_of_computation_with_functions_between_modules():
    def body(x):
        return max_pool(nn.relu(Conv(4, 3, name="conv")(x)), 2)

    trace = network(body, (8, 8, 1)).trace((1, 8, 8, 1))
    found = [(layer.name, layer.kind, layer.shape, layer.params) for layer in trace.layers.values()]
    assert found == [
        ("conv", "convolution", (8, 8, 4), 36),
        ("conv/relu", "relu", (8, 8, 4), 0),
        ("conv/relu/max_pool", "max_pool", (4, 4, 4), 0),
        ("pre_logits", "global_pool", (4,), 0),
        ("head", "dense", (3,), 15),
    ]
    assert trace.outputs == {
        "stage1": "conv/relu/max_pool",
        "pre_logits": "pre_logits",
        "logits": "head",
    }


def test_running_the_trace_is_running_the_network():
    model = build_model("resnet_small", {"num_classes": 4, "remat": True})
    x = noise((8, 8, 1))
    variables = model.init(jax.random.key(0), jnp.asarray(x), train=False)
    net = Network(model, variables)
    trace, out = net.trace(x.shape), model.apply(variables, jnp.asarray(x), train=False)
    found = net.read(x, [trace.outputs[key] for key in out])
    for key, name in trace.outputs.items():
        np.testing.assert_allclose(found[name], out[key], atol=1e-5)
    assert trace.layers["stage1/block1/relu2"].aliases == ("stage1/block1", "stage1")


@pytest.mark.parametrize(
    ("pattern", "said"), [("(", "no regular expression"), ("stage9", "matches no layer")]
)
def test_a_bad_choice_of_layers_is_one_line(pattern, said):
    with pytest.raises(UserError, match=said):
        chosen(traced("resnet_small"), pattern)


def test_layers_are_chosen_by_name_and_by_alias():
    assert [layer.name for layer in chosen(traced("resnet_small"), "^stage2$")] == [
        "stage2/block1/relu2"
    ]
