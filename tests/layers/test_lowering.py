"""However a convolution runs, it is `lax`'s: values, both gradients, every transformation, every placement.

On a machine with the native library the CPU's convolutions are oneDNN's; `off` tests the forms in plain JAX.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn.layers.conv import conv, conv_transpose
from cnn.native import onednn

NATIVE = onednn.enabled()
WAYS = [
    pytest.param(contextlib.nullcontext, id="native", marks=pytest.mark.skipif(not NATIVE, reason="not built here")),
    pytest.param(onednn.off, id="off"),
]


def stock(x, kernel, strides, padding, dilation, groups):
    space = "DHW"[-(x.ndim - 2) :]
    return lax.conv_general_dilated(
        x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )  # fmt: skip


def random_cases(count, seed):
    """(x, kernel, strides, padding, dilation, groups) of all ranks; depthwise, grouped and pointwise among them."""
    rng = np.random.default_rng(seed)
    found = 0
    while found < count:
        rank = int(rng.integers(1, 4))
        window = tuple(rng.integers(1, 5, rank)) if rng.random() < 0.8 else (1,) * rank
        strides, dilation = (tuple(map(int, rng.integers(1, 4 if rank < 3 else 3, rank))) for _ in range(2))
        padding = tuple((int(low), int(high)) for low, high in rng.integers(0, 3, (rank, 2)))
        space = tuple(map(int, rng.integers(1, (40, 10, 6)[rank - 1], rank)))
        if any(n + sum(p) < d * (k - 1) + 1 for n, p, k, d in zip(space, padding, window, dilation, strict=True)):
            continue
        groups = int(rng.choice([1, 1, 2, 3, 8]))
        depthwise = groups > 1 and rng.random() < 0.5
        inputs = groups * (1 if depthwise else int(rng.integers(1, 5)))
        outputs = groups * int(rng.integers(1, 5))
        x = rng.standard_normal((int(rng.integers(1, 4)), *space, inputs)).astype(np.float32)
        kernel = rng.standard_normal((*window, inputs // groups, outputs)).astype(np.float32)
        found += 1
        yield jnp.asarray(x), jnp.asarray(kernel), strides, padding, dilation, groups


def close(found, want):
    scale = max(float(jnp.abs(want).max()), 1.0) if want.size else 1.0
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=2e-5 * scale)


SEEDS = [
    pytest.param(way, seed, marks=() if seed == 0 else pytest.mark.exhaustive)
    for way, count in ((contextlib.nullcontext, 8), (onednn.off, 2))
    for seed in range(count)
]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "seed"), SEEDS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_values_and_gradients_of_random_shapes(way, seed):
    """200 shapes as they run here, 50 without the library: y, and the pullbacks of a y, equal `lax`'s."""
    cases = list(random_cases(25, seed))

    def of_all(function, arrays):
        return [
            _with_pullback(function, options, *pair)
            for pair, (_, _, *options) in zip(arrays, cases, strict=True)
        ]

    arrays = [case[:2] for case in cases]
    with way():  # one program each: 25 of them take half as long again
        found, wanted = (jax.jit(functools.partial(of_all, f))(arrays) for f in (conv, stock))
    jax.tree.map(close, found, wanted)


def _with_pullback(function, options, x, kernel):
    y, pull = jax.vjp(lambda x, kernel: function(x, kernel, *options), x, kernel)
    return y, *pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


def pair(groups=2):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((4, 7, 6, 8)), jnp.float32)
    return x, jnp.asarray(rng.standard_normal((3, 2, 8 // groups, 6)), jnp.float32), groups


def ours(x, kernel, groups):
    return conv(x, kernel, (2, 1), ((1, 0), (0, 1)), (1, 2), groups)


def theirs(x, kernel, groups):
    return stock(x, kernel, (2, 1), ((1, 0), (0, 1)), (1, 2), groups)


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_and_forward_mode(way):
    x, kernel, groups = pair()

    def twice(function, x, kernel):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(function(x, kernel, groups)))

        def squared(x, kernel):
            return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel))

        return jax.grad(squared, (0, 1))(x, kernel)

    def forward(function, x, kernel):
        return jax.jvp(lambda x, k: function(x, k, groups), (x, kernel), (jnp.cos(x), jnp.sin(kernel)))

    with way():
        for transform in (twice, forward):
            for found, want in zip(
                *(jax.jit(functools.partial(transform, f))(x, kernel) for f in (ours, theirs)), strict=True
            ):
                close(found, want)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap(way, axes):
    x, kernel, groups = pair()
    xs = x if axes[0] is None else jnp.stack([x, x * 2, jnp.sin(x)], axes[0])
    kernels = kernel if axes[1] is None else jnp.stack([kernel, -kernel, jnp.cos(kernel)], axes[1])

    def both(function):
        def run(x, kernel):
            return jax.value_and_grad(lambda k: jnp.sum(function(x, k, groups) ** 2))(kernel)

        return jax.jit(jax.vmap(run, in_axes=axes))(xs, kernels)

    with way():
        for found, want in zip(both(ours), both(theirs), strict=True):
            close(found, want)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_stay_narrow(way, dtype):
    x, kernel, groups = pair()
    with way():
        y = ours(x.astype(dtype), kernel.astype(dtype), groups)
    assert y.dtype == dtype
    want = theirs(x, kernel, groups)
    assert float(jnp.abs(y.astype(jnp.float32) - want).max()) < 0.05 * float(jnp.abs(want).max())


@pytest.mark.parametrize("way", WAYS)
def test_scan_and_remat(way):
    x, _, _ = pair()
    kernels = jnp.stack([jnp.full((3, 3, 8, 8), 0.01 * (i + 1), jnp.float32) for i in range(3)])

    def loss(function, kernels):
        def body(x, kernel):
            return jnp.tanh(jax.checkpoint(lambda x: function(x, kernel))(x)), ()

        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    with way():
        grads = [
            jax.jit(jax.grad(functools.partial(loss, f)))(kernels)
            for f in (conv, lambda x, k: stock(x, k, (1, 1), ((1, 1), (1, 1)), (1, 1), 1))
        ]
    close(*grads)


@pytest.mark.parametrize("way", WAYS)
def test_a_split_batch_stays_split(way):
    """Forward and both gradients on eight devices: no activation is gathered, and the numbers are the same."""
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs eight simulated devices")
    mesh = Mesh(np.array(devices[:8]), ("data",))
    x = jax.random.normal(jax.random.key(0), (16, 9, 9, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
    split, whole = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("data",), ()))

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(conv(jnp.tanh(conv(x, kernel, 2)), kernel[..., :6, :].repeat(2, 2)[..., :6, :])) ** 2)

    with way():
        run = jax.jit(jax.value_and_grad(loss, (0, 1)), in_shardings=(split, whole))
        text = run.lower(x, kernel).compile().as_text()
        assert "all-gather" not in text and "all-reduce" in text
        value, grads = jax.block_until_ready(run(jax.device_put(x, split), jax.device_put(kernel, whole)))
        alone = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)
    assert grads[0].sharding.is_equivalent_to(split, 4)
    close(value, alone[0])
    for found, want in zip(grads, alone[1], strict=True):
        close(np.asarray(found), np.asarray(want))


@pytest.mark.parametrize("way", WAYS)
def test_a_kernel_split_over_the_devices_is_gathered(way):
    if len(jax.devices()) < 8:
        pytest.skip("needs eight simulated devices")
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    x, kernel = jnp.ones((8, 5, 5, 8)), jax.random.normal(jax.random.key(1), (3, 3, 8, 16))
    specs = PartitionSpec("data"), PartitionSpec(None, None, None, "data")
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    with way():
        found = jax.block_until_ready(jax.jit(conv, in_shardings=shardings)(x, kernel))
    close(np.asarray(found), stock(x, kernel, (1, 1), ((1, 1), (1, 1)), (1, 1), 1))


def test_other_platforms_and_exports_get_stock_convolutions():
    x, kernel, groups = pair()
    traced = jax.jit(lambda x, k: jax.grad(lambda k: jnp.sum(ours(x, k, groups)))(k)).trace(x, kernel)
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("tpu",)).as_text()
    exported = jax.export.export(jax.jit(lambda x, k: ours(x, k, groups)), platforms=("cpu", "tpu"))(x, kernel)
    assert "custom_call" not in exported.mlir_module()
    close(exported.call(x, kernel), theirs(x, kernel, groups))


def test_a_batch_of_unknown_size_can_be_exported():
    _, kernel, groups = pair()
    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 7, 6, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: ours(x, kernel, groups)))(shape)
    for size in (1, 3):
        x = jnp.ones((size, 7, 6, 8))
        close(exported.call(x), theirs(x, kernel, groups))


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_every_time(way):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((32, 14, 14, 32)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 32, 32)), jnp.float32)
    with way():
        run = jax.jit(functools.partial(_with_pullback, conv, [1]))
        first = jax.device_get(run(x, kernel))
        for _ in range(5):
            jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(run(x, kernel)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("window", "stride", "padding", "extra"), [(2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0)]
)
def test_transposed_is_the_transpose(way, window, stride, padding, extra):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (window, window, 3, 4))
    with way():
        y = conv_transpose(x, kernel, stride, padding, extra)
        assert y.shape == (2, 5 * stride, 6 * stride, 3)
        back = conv(y, kernel, stride, padding)
    flat = jnp.vdot(y, y), jnp.vdot(x, back[:, :5, :6])
    np.testing.assert_allclose(*flat, rtol=1e-4)


@pytest.mark.skipif(not NATIVE, reason="not built here")
def test_the_switch_decides_what_is_compiled():
    x, kernel, groups = pair()

    def text():
        return jax.jit(lambda x, k: ours(x, k, groups)).lower(x, kernel).as_text()

    assert "custom_call @cnn_conv" in text()
    with onednn.off():
        assert "custom_call" not in text()
    assert "custom_call @cnn_conv" in text()
