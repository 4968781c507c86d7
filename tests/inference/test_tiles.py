"""Tiled inference: equal to the whole input's, in memory that does not grow with it."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.errors import UserError
from cnn.inference.tiles import Tiling, blended, slab_bytes, tiled

RNG = np.random.default_rng(0)


def convolutions(rank, layers=3, classes=2, stride=1):
    """Three layers of 3^rank kernels with ReLU, zero-padded; with a stride the middle one runs at a coarser grid."""
    rng = np.random.default_rng(rank)
    widths = [1] + [4] * (layers - 1) + [classes]
    kernels = [
        jnp.asarray(rng.normal(size=(*(3,) * rank, a, b)) / 3 ** (rank / 2), jnp.float32)
        for a, b in zip(widths, widths[1:], strict=False)
    ]
    letters = "DHW"[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    @jax.jit
    def apply(x):
        for i, kernel in enumerate(kernels):
            if stride > 1 and i == 1:
                window = (1, *(stride,) * rank, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "SAME")
            x = jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers)
            x = jax.nn.relu(x) if i < len(kernels) - 1 else x
            if stride > 1 and i == 1:
                for axis in range(1, rank + 1):
                    x = jnp.repeat(x, stride, axis=axis)
        return x

    return apply


CASES = [
    ((100,), (32,), {}),
    ((70, 53), (24, 20), {}),
    ((70, 53), (24, 20), {"blend": "linear", "overlap": 0.4}),
    ((70, 53), (24, 20), {"blend": "constant", "overlap": 0.0}),
    ((21, 30, 26), (12, 14, 16), {"overlap": 0.25}),
    ((9, 40), (16, 16), {}),  # a tile that reaches over the end
]


@pytest.mark.parametrize(("space", "tile", "options"), CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_with_the_receptive_field_as_margin_it_is_the_whole(space, tile, options, batch):
    net = convolutions(len(space))
    x = RNG.normal(size=(*space, 1)).astype(np.float32)
    whole = np.asarray(net(x[None])[0])
    found = tiled(net, x, Tiling(tile, margin=3, **options), batch=batch)
    inner = tuple(slice(3, -3) for _ in space)
    np.testing.assert_allclose(found[inner], whole[inner], atol=1e-5)
    if all(size >= t for size, t in zip(space, tile, strict=True)):
        np.testing.assert_allclose(found, whole, atol=1e-5)  # at the borders too: the padding is the same


def test_networks_with_strides():
    net = convolutions(2, stride=4)  # receptive field: 1 + 4 * (1 + 1) + 1 rounded up to its grid
    x = RNG.normal(size=(96, 72, 1)).astype(np.float32)
    whole = np.asarray(net(x[None])[0])
    found = tiled(net, x, Tiling((40, 40), margin=12, multiple=4))
    np.testing.assert_allclose(found, whole, atol=1e-5)
    wrong = tiled(net, x, Tiling((40, 40), margin=12, overlap=0.43))  # other grids: the multiple is needed
    assert np.abs(wrong - whole).max() > 1e-2


def test_blending_without_a_margin_is_near():
    net = convolutions(2)
    x = RNG.normal(size=(80, 80, 1)).astype(np.float32)
    whole = np.asarray(net(x[None])[0])
    error = {
        blend: np.abs(tiled(net, x, Tiling((32, 32), blend=blend)) - whole).mean() for blend in ("constant", "gaussian")
    }
    assert error["gaussian"] < error["constant"] / 3 < 0.1


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 90),
    st.integers(1, 40),
    st.sampled_from([0, 0.25, 0.5, 0.8]),
    st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from(["constant", "linear", "gaussian"]),
)
def test_every_pixel_is_covered_and_blending_keeps_constants(size, tile, overlap, margin, multiple, blend):
    if tile < 2 * margin + multiple:
        return
    tiling = Tiling((tile,), overlap, blend, margin, multiple)
    starts = tiling.starts(0, size)
    assert starts[0] == 0 and all(s % multiple == 0 for s in starts) and starts == sorted(set(starts))
    assert size - tile <= starts[-1] < max(size, 1)
    weights = np.zeros(size)
    for start in starts:
        own = tiling.weights(0, start, size)[: size - start]
        weights[start : start + tile] += own
    assert (weights > 0).all()
    x = RNG.normal(size=(size, 2)).astype(np.float32)
    np.testing.assert_allclose(tiled(lambda t: t, x, tiling), x, rtol=1e-5, atol=1e-6)
    pieces = list(blended(lambda t: t, x, tiling))
    assert [p[0] for p in pieces] == [0, *[p[1] for p in pieces[:-1]]] and pieces[-1][1] == size


def test_finish_and_out(tmp_path):
    x = RNG.normal(size=(50, 40, 3)).astype(np.float32)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint8, (50, 40))
    found = tiled(lambda t: t, x, Tiling((16, 16)), finish=lambda v: v.argmax(-1).astype(np.uint8), out=out)
    assert found is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), x.argmax(-1))


def test_memory_is_bounded(tmp_path):
    """Twice the depth, the same peak: file in, file out."""
    tiling = Tiling((16, 16, 16))
    peaks = []
    for depth in (64, 128):
        file = tmp_path / f"{depth}.npy"
        x = np.lib.format.open_memmap(file, "w+", np.float32, (depth, 64, 64, 1))
        out = np.lib.format.open_memmap(tmp_path / f"out{depth}.npy", "w+", np.uint8, (depth, 64, 64))
        tracemalloc.start()
        tiled(lambda t: np.concatenate([t, -t], -1), x, tiling, finish=lambda v: v.argmax(-1).astype(np.uint8), out=out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 4 * slab_bytes((64, 64, 64), tiling, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Tiling((8, 8), blend="cubic"), "unknown blend 'cubic'"),
        (lambda: Tiling((8, 8), overlap=1.0), "overlap must be in"),
        (lambda: Tiling((8, 8), margin=4), "too small for a margin of 4: at least 9"),
        (lambda: tiled(lambda t: t, np.zeros((9, 9, 9, 1)), Tiling((8, 8))), "give one size per spatial axis"),
    ],
)
def test_mistakes(make, said):
    with pytest.raises(UserError, match=said):
        make()
