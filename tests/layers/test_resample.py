"""Interpolation against NumPy's, along each axis in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.resample import METHODS, depth_to_space, resize, space_to_depth

SIZES = {  # from, to
    "larger": ((3, 5, 2), (24, 10, 16)),
    "no whole factor": ((3, 5, 4), (7, 13, 9)),
    "smaller": ((9, 8, 7), (4, 4, 2)),
    "one pixel": ((1, 1, 1), (4, 3, 2)),
    "the same": ((3, 4, 2), (3, 4, 2)),
}


def by_hand(x, size, method):
    """Pixels are areas: pixel i of m lies at (i + 1/2) n / m - 1/2; beyond the outermost centres nothing changes."""
    for axis, (n, m) in enumerate(zip(x.shape[1:-1], size, strict=True), 1):
        at = (np.arange(m) + 0.5) * n / m - 0.5

        def along(line, n=n, at=at):
            return line[np.floor(at + 0.5).astype(int)] if method == "nearest" else np.interp(at, np.arange(n), line)

        x = np.apply_along_axis(along, axis, x)
    return x


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_equals_numpy(case, rank, method):
    before, after = (sizes[:rank] for sizes in SIZES[case])
    x = np.random.default_rng(0).standard_normal((2, *before, 3)).astype(np.float32)
    found = resize(jnp.asarray(x), after, method)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(x, after, method), atol=1e-6)
    half = resize(jnp.asarray(x, jnp.bfloat16), after, method)
    assert half.dtype == jnp.bfloat16 and half.shape == found.shape


def test_what_pytorch_gives():
    """torch.nn.functional.interpolate(arange(3), size=5, mode='linear', align_corners=False), and 'nearest-exact'."""
    x = jnp.arange(3.0)[None, :, None]
    np.testing.assert_allclose(resize(x, (5,))[0, :, 0], [0, 0.4, 1, 1.6, 2], atol=1e-6)
    np.testing.assert_array_equal(resize(x, (5,), "nearest")[0, :, 0], [0, 0, 1, 2, 2])


@pytest.mark.parametrize("method", METHODS)
def test_its_gradient_is_its_transpose(method):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    y = jax.random.normal(jax.random.key(1), (2, 12, 8, 3))
    (back,) = jax.vjp(lambda x: resize(x, (12, 8), method), x)[1](y)
    np.testing.assert_allclose(jnp.vdot(back, x), jnp.vdot(y, resize(x, (12, 8), method)), rtol=1e-4)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="unknown method of resizing 'cubic'"):
        resize(jnp.zeros((1, 2, 2, 1)), (4, 4), "cubic")
    with pytest.raises(UserError, match="the input is too small"):
        resize(jnp.zeros((1, 0, 2, 1)), (4, 4))


@pytest.mark.parametrize("space", [(7,), (8, 9), (3, 6, 5)])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_come_back(space, patch):
    """Each patch's pixels become one pixel's channels, in C order; the inverse drops what filled the last patches."""
    x = jnp.arange(2 * np.prod(space) * 3, dtype=jnp.float32).reshape(2, *space, 3)
    coarse = space_to_depth(x, patch)
    assert coarse.shape == (2, *(-(-n // patch) for n in space), 3 * patch ** len(space))
    corner = x[(0, *(slice(patch) for _ in space))]
    np.testing.assert_array_equal(coarse[(0, *(0 for _ in space))], corner.reshape(-1))
    np.testing.assert_array_equal(depth_to_space(coarse, patch, space), x)
