"""Equivariance errors: nothing for what must move along, aliasing for strides, less of it with blur-pool."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.inspect.equivariance import equivariance
from cnn.layers.conv import Conv
from cnn.layers.pool import max_pool
from tests.support.open_nets import network, noise


def measured(body, shape, change=lambda v: v):
    net = network(body, shape, change)
    x = noise(shape)
    return equivariance(net, x, list(net.trace(x.shape).layers))


@pytest.mark.parametrize("shape", [(24, 1), (12, 16, 2), (5, 8, 8, 1)])
def test_stride_1_with_a_circular_border_moves_along_exactly(shape):
    def body(x):
        return nn.relu(Conv(4, 5, name="b")(nn.relu(Conv(4, 3, dilation=2, name="a")(x))))

    found = measured(body, shape)
    assert {"a", "a/relu", "b", "b/relu"} == set(found)
    for errors in found.values():
        assert errors.exact and max(errors.shift.values()) < 1e-5
        assert errors.border > 0.01  # zeros around the input are no circular border


@pytest.mark.parametrize("layer", ["convolution", "max_pool"])
@pytest.mark.parametrize("shape", [(32, 1), (16, 16, 1)])
def test_strides_alias_and_blur_pool_lowers_it(layer, shape):
    def body(x):
        x = nn.relu(Conv(8, 3, 2 if layer == "convolution" else 1, name="a")(x))
        return nn.relu(Conv(8, 3, 2, name="b")(x if layer == "convolution" else max_pool(x, 2)))

    found = measured(body, shape)
    last = found["b/relu"]
    assert set(last.shift) == {1, 2, 4}
    assert (
        last.shift[4] < 1e-5 and last.blurred[4] < 1e-5
    )  # all strides together: on the grid again
    for shift in (1, 2):
        assert 0.2 < last.shift[shift] and last.blurred[shift] < 0.8 * last.shift[shift]
    first = found["a/relu"]
    assert first.shift[2] < 1e-5 and (first.shift[1] > 0.2) == (layer == "convolution")


def test_rotation_is_exact_for_what_looks_the_same_from_all_sides():
    ring = np.asarray([[1, 2, 1], [2, -5, 2], [1, 2, 1]], np.float32)

    def round_kernels(variables):
        kernel = jnp.asarray(
            ring[:, :, None, None] * np.asarray([1.0, -2.0], np.float32).reshape(1, 1, 1, 2)
        )
        return {"params": variables["params"] | {"a": {"kernel": kernel}}}

    def body(x):
        return nn.relu(Conv(2, 3, 2, name="a")(x))

    assert measured(body, (16, 16, 1), round_kernels)["a/relu"].rotation < 1e-5
    assert measured(body, (16, 16, 1))["a/relu"].rotation > 0.2


def test_halving_commutes_with_what_looks_at_one_position_only():
    found = measured(lambda x: Conv(3, 3, name="b")(Conv(3, 1, name="a")(x)), (16, 16, 2))
    assert found["a"].scale < 1e-5 and found["a"].rotation < 1e-5 and found["a"].border < 1e-5
    assert found["b"].scale > 0.2


def test_windows_of_even_size_sit_between_positions_and_still_rotate():
    """A 2x2 mean pool is centred half a position off its grid; the measure must know."""
    from cnn.layers.pool import avg_pool

    found = measured(lambda x: avg_pool(Conv(2, 1, name="a")(x), 2), (16, 16, 1))
    smooth = np.cos(np.arange(16) * 2 * np.pi / 16).astype(np.float32)
    x = (smooth[:, None] + 2 * smooth[None]).reshape(1, 16, 16, 1)
    net = network(lambda x: avg_pool(Conv(2, 1, name="a")(x), 2), (16, 16, 1))
    errors = equivariance(net, x, ["a/avg_pool"])["a/avg_pool"]
    assert (
        errors.rotation < 1e-4 and errors.shift[1] < 1e-4
    )  # far below its grid's limit: no aliasing
    assert found["a/avg_pool"].shift[1] > 0.2


def test_maps_too_small_to_move_are_left_out():
    assert measured(lambda x: Conv(2, 3, 8, name="a")(x), (8, 8, 1)) == {}
