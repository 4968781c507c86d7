"""Grad-CAM, occlusion, effective fields, activity and gradient ascent on networks whose answers are known."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.inspect.activity import activity, most_active, top_patches
from cnn.inspect.attribution import effective_field, effective_size, grad_cam, occlusion, over_input
from cnn.inspect.synthesis import excite
from cnn.layers.conv import Conv
from tests.support.open_nets import network, noise


def with_params(**changes):
    """Replaces parameters, named 'conv/kernel'."""

    def change(variables):
        params = {name: dict(group) for name, group in variables["params"].items()}
        for path, value in changes.items():
            module, name = path.split("__")
            params[module][name] = jnp.asarray(value, jnp.float32).reshape(
                params[module][name].shape
            )
        return {"params": params}

    return change


def test_grad_cam_of_a_network_worked_out_by_hand():
    """logit 1 = 2 mean(relu x0) - mean(relu x1), so the map is the positive part of 2 relu x0 - relu x1, over h w."""
    head = np.zeros((2, 3))
    head[:, 1] = 2, -1
    change = with_params(conv__kernel=np.eye(2), head__kernel=head)
    x = noise((6, 5, 2))
    net = network(lambda x: nn.relu(Conv(2, 1, name="conv")(x)), (6, 5, 2), change)
    positive = np.maximum(x[0], 0)
    wanted = np.maximum(2 * positive[..., 0] - positive[..., 1], 0) / 30
    found = grad_cam(net, x, 1, ["conv/relu"])["conv/relu"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert wanted.any() and not grad_cam(net, x, 0, ["conv/relu"])["conv/relu"].any()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_map_is_laid_over_the_input_at_the_centres_of_its_fields(rank):
    size = 12
    net = network(lambda x: Conv(1, 4, 4, padding=0, name="conv")(x), (size,) * rank + (1,))
    layer = net.trace((1, *(size,) * rank, 1)).layers["conv"]
    values = np.zeros(layer.shape[:-1])
    values[(1,) * rank] = 1  # its window is positions 4 to 7, its centre 5.5
    laid = over_input(values, layer, (size,) * rank)
    assert laid.shape == (size,) * rank
    assert sorted({int(i) for place in np.argwhere(laid == laid.max()) for i in place}) == [5, 6]


@pytest.mark.parametrize(
    ("space", "corner"), [((20,), (11,)), ((16, 12), (3, 7)), ((8, 8, 8), (4, 0, 5))]
)
def test_occlusion_finds_the_planted_patch(space, corner):
    place = tuple(slice(c, c + 3) for c in corner)
    x = noise((*space, 2)) * 0.1
    x[(0, *place)] += 5

    def score(inputs):
        return inputs[(slice(None), *place)].mean(axis=tuple(range(1, inputs.ndim)))

    rank = len(space)
    found = occlusion(score, x, (3,) * rank, (1,) * rank, np.zeros(2, np.float32))
    peak = np.unravel_index(found.argmax(), space)
    assert all(c <= p < c + 3 for c, p in zip(corner, peak, strict=True))
    far = np.ones(space, bool)
    far[tuple(slice(max(c - 3, 0), c + 6) for c in corner)] = False
    assert np.abs(found[far]).max() < 1e-5 < found.max()


def test_the_effective_field_lies_within_the_theoretical_one():
    net = network(lambda x: Conv(4, 3, name="b")(nn.relu(Conv(4, 3, name="a")(x))), (15, 15, 1))
    field = effective_field(net, noise((15, 15, 1)), ["b"])["b"]
    assert field.max() == 1 and (field > 0).sum() == 25
    assert np.array_equal(np.argwhere(field > 0).min(axis=0), [5, 5])
    assert 3 <= effective_size(field) <= 5


def test_activity_is_that_of_numpy_for_any_batch_size():
    inputs = np.concatenate([noise((7, 2), seed) + seed for seed in range(5)])
    change = with_params(conv__kernel=[[[1, 0, 1], [0, 1, 0]]], conv__bias=[0, 0, -100])
    net = network(lambda x: nn.relu(Conv(3, 1, use_bias=True, name="conv")(x)), (7, 2), change)
    before = np.concatenate([inputs, inputs[..., :1] - 100], axis=-1)
    for batch in (2, 16):
        found = activity(net, inputs, batch)
        row, cut = found["conv"], found["conv/relu"]
        assert row.mean == pytest.approx(before.mean(), rel=1e-5)
        assert row.std == pytest.approx(before.std(), rel=1e-5)
        assert (row.low, row.high) == pytest.approx((before.min(), before.max()), rel=1e-5)
        assert row.dead is None
        assert cut.dead == 1 and cut.zero == pytest.approx((before <= 0).mean())


def test_the_patches_that_excite_a_channel_are_found():
    inputs = np.zeros((5, 10, 10, 1), np.float32)
    for index, height in ((1, 2.0), (3, 5.0), (4, 1.0)):
        inputs[index, 2 + index, 4] = height
    kernel = np.zeros((3, 3, 1, 2))
    kernel[1, 1, 0] = 1, -1
    net = network(
        lambda x: Conv(2, 3, name="conv")(x), (10, 10, 1), with_params(conv__kernel=kernel)
    )
    found = top_patches(net, inputs, "conv", [0], count=3, batch=2)[0]
    assert [(patch.index, patch.value) for patch in found] == [(3, 5.0), (1, 2.0), (4, 1.0)]
    assert found[0].window == (slice(4, 7), slice(3, 6))
    assert most_active(np.asarray([[0.0, 3, 1], [2, 0, 0]]), 2) == [1, 0]


@pytest.mark.parametrize("after", [lambda x: x, nn.relu])
def test_gradient_ascent_finds_the_filter(after):
    """The input in [-1, 1] that a linear filter likes best is its sign; a ReLU must not stop the way."""
    net = network(lambda x: after(Conv(3, 3, name="conv")(x)), (9, 9, 2), seed=4)
    kernel = np.asarray(net.variables["params"]["conv"]["kernel"])
    name = net.trace((1, 9, 9, 2)).stages[0].name
    limits = np.full(2, -1.0), np.full(2, 1.0)
    found = excite(net, name, [0, 2], (9, 9, 2), limits, decay=0.0, blur_every=0)
    for row, channel in enumerate((0, 2)):
        best = np.abs(kernel[..., channel]).sum()
        assert found.before[row] < 0.5 * best < 0.9 * best < found.after[row] <= best * 1.001
    assert np.abs(found.inputs).max() <= 1
