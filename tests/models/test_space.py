"""A volume that is split over a mesh axis `space`: a 3-D U-Net gives the same answers, statistics and gradients.

Natively a convolution on the CPU is a closed box to XLA: the volume is gathered in front of the first one, and every
device computes all of it; right, and of use to nobody but tests. With `lax` convolutions, which are what a TPU runs,
features stay split and XLA exchanges the rows beside each cut; all that is gathered are auxiliary logits, which are
interpolated by a product along the axis that is cut.
"""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn.models.unet import UNet
from cnn.native import onednn

BATCH, SPACE, CHANNELS, CLASSES = 2, (32, 8, 8), 2, 3
MODEL = UNet(CLASSES, widths=(8, 16, 16), narrow_first=True, aux=True)
TOLERANCE = 1e-5  # of the largest value of each array
GATHER = re.compile(r"f32(\[[\d,]*\])\S* all-gather(?:-start)?\(")
EXCHANGE = re.compile(r" collective-permute(?:-start)?\(")


@pytest.fixture(scope="module")
def problem():
    """(step, its arguments, what it gives on one device)."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (BATCH, *SPACE, CHANNELS))
    aim = jax.random.normal(keys[1], (BATCH, *SPACE, CLASSES))
    variables = MODEL.init(keys[2], x[:1], train=False)

    def step(params, x, aim):
        def loss(params, x):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            out, moved = MODEL.apply(state, x, train=True, mutable=["batch_stats"])
            total = sum(jnp.mean(jnp.square(out[name] - aim)) for name in ("logits", "aux1"))
            return total, (out["logits"], moved["batch_stats"])

        (_, (logits, moved)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        return logits, moved, grads

    arguments = variables["params"], x, aim
    return step, arguments, jax.jit(step)(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("native", "sizes"),
    [(True, (1, 4)), (False, (2, 2)), pytest.param(False, (1, 4), marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_a_split_volume_gives_the_same(problem, native, sizes):
    step, arguments, want = problem
    if native and not onednn.enabled():
        pytest.skip("no native convolutions here")
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(sizes), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data", "space"), PartitionSpec()))
    with contextlib.nullcontext() if native else onednn.off():
        run = jax.jit(lambda *arrays: step(*arrays), in_shardings=(whole, split, split))
        program = run.lower(*arguments).compile()
    found = program(*jax.device_put(arguments, (whole, split, split)))
    # Of each kind the largest number is the scale: a gradient of a BatchNorm's scale is a sum that nearly cancels out.
    for got, wanted in zip((*found[:2], *found[2]), (*want[:2], *want[2]), strict=True):
        largest = max(np.abs(np.asarray(leaf)).max() for leaf in jax.tree.leaves(wanted))
        for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(wanted), strict=True):
            assert np.abs(np.asarray(b)).max() > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * largest, err_msg=jax.tree_util.keystr(path))

    text, rows = program.as_text(), BATCH // sizes[0]
    gathered = set(GATHER.findall(text))
    if native:
        assert gathered == {_shape(rows, SPACE, CHANNELS), _shape(rows, SPACE, CLASSES)}  # the input, and the aim
    else:
        assert gathered <= {_shape(rows, [pixels // 2 for pixels in SPACE], CLASSES)}  # logits of `aux1`
        assert found[0].sharding.is_equivalent_to(split, found[0].ndim)
        assert EXCHANGE.findall(text)


def _shape(rows, space, channels):
    return f"[{','.join(map(str, (rows, *space, channels)))}]"
