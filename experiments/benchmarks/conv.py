"""Convolutions on this machine: XLA's own (`lax`), ours as it runs here, ours in plain JAX, and PyTorch's.

    python -m experiments.benchmarks.conv [--repeats=15] [--threads=1|2]

One run, the ways interleaved call by call: median wall-clock milliseconds (range), and the CPU time of ours. `x` is how
many times faster than `lax` ours is; "stock is as fast" means that the rewriting no longer pays. PyTorch is
timed where it is installed (channels last).
"""

import argparse
import contextlib
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """One convolution: batch, spatial sizes, channels in and out, window, stride, groups."""

    name: str
    batch: int
    space: tuple[int, ...]
    inputs: int
    outputs: int
    window: int
    stride: int = 1
    groups: int = 1


SHAPES = (
    Shape("3x3, 32 px, 64", 64, (32, 32), 64, 64, 3),
    Shape("3x3, 16 px, 128", 64, (16, 16), 128, 128, 3),
    Shape("3x3 stride 2, 56 px", 16, (56, 56), 64, 64, 3, 2),
    Shape("1x1, 56 px, 256 to 64", 16, (56, 56), 256, 64, 1),
    Shape("7x7 stride 2, 224 px", 4, (224, 224), 3, 64, 7, 2),
    Shape("depthwise 3x3, 56 px", 16, (56, 56), 144, 144, 3, 1, 144),
    Shape("depthwise 3x3 stride 2", 16, (56, 56), 144, 144, 3, 2, 144),
    Shape("depthwise 7x7, 28 px", 16, (28, 28), 192, 192, 7, 1, 192),
    Shape("grouped 3x3, 32 groups", 8, (28, 28), 256, 256, 3, 1, 32),
    Shape("1-D, 9, 128 steps", 64, (128,), 64, 128, 9),
    Shape("3-D 3x3x3, 20 voxels", 2, (20, 20, 20), 16, 32, 3),
)
PASSES = ("forward", "input gradient", "kernel gradient")


def jax_calls(shape: Shape) -> dict[str, dict[str, Callable[[], Any]]]:
    """{pass: {way: call}}, each compiled and awaited once."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from cnn.layers.conv import conv
    from cnn.native import onednn

    rng = np.random.default_rng(0)
    rank, per_group = len(shape.space), shape.inputs // shape.groups
    x = jnp.asarray(rng.standard_normal((shape.batch, *shape.space, shape.inputs)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*(shape.window,) * rank, per_group, shape.outputs)), jnp.float32)
    letters = "DHW"[-rank:]

    def stock(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            x, kernel, (shape.stride,) * rank, [((shape.window - 1) // 2,) * 2] * rank,
            feature_group_count=shape.groups, dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )  # fmt: skip

    def ours(x: Any, kernel: Any) -> Any:
        return conv(x, kernel, shape.stride, groups=shape.groups)

    y = jax.eval_shape(stock, x, kernel)
    y = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    ways: dict[str, tuple[Any, Any]] = {"lax": (stock, contextlib.nullcontext)}
    ways["ours"] = (ours, contextlib.nullcontext)
    found: dict[str, dict[str, Callable[[], Any]]] = {name: {} for name in PASSES}
    if onednn.enabled():
        ways = {"plain": (ours, onednn.off)} | ways  # `off` forgets what was compiled before it
    for way, (function, context) in ways.items():
        functions = (
            jax.jit(lambda x, k, y, f=function: f(x, k)),
            jax.jit(lambda x, k, y, f=function: jax.vjp(lambda x: f(x, k), x)[1](y)[0]),
            jax.jit(lambda x, k, y, f=function: jax.vjp(lambda k: f(x, k), k)[1](y)[0]),
        )
        with context():
            compiled = [function.lower(x, kernel, y).compile() for function in functions]
        for name, call in zip(PASSES, compiled, strict=True):
            found[name][way] = lambda call=call: jax.block_until_ready(call(x, kernel, y))
            found[name][way]()
    return found


def torch_calls(shape: Shape, threads: int) -> dict[str, Callable[[], Any]]:
    """{pass: call} of PyTorch; {} where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(threads)
    rank, pad = len(shape.space), (shape.window - 1) // 2
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank, torch.contiguous_format)
    x = torch.randn(shape.batch, shape.inputs, *shape.space).to(memory_format=layout)
    kernel = torch.randn(shape.outputs, shape.inputs // shape.groups, *(shape.window,) * rank)
    kernel = kernel.to(memory_format=layout)
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[rank - 1]
    forward = lambda: function(x, kernel, None, shape.stride, pad, 1, shape.groups)  # noqa: E731
    y = torch.randn_like(forward())
    options = ([shape.stride] * rank, [pad] * rank, [1] * rank, False, [0] * rank, shape.groups)

    def backward(mask: list[bool]) -> Callable[[], Any]:
        return lambda: torch.ops.aten.convolution_backward(y, x, kernel, None, *options, mask)

    return dict(zip(PASSES, (forward, backward([True, False, False]), backward([False, True, False])), strict=True))


def measure(calls: dict[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, tuple[list[float], float]]:
    """{way: (wall-clock ms of each call, CPU ms per call)}, the ways taking turns."""
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in calls}
    for call in calls.values():
        call()
    begun = time.perf_counter()
    for turn in range(repeats):
        for way, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            found[way][0].append(1e3 * (time.perf_counter() - wall))
            found[way][1].append(1e3 * (time.process_time() - cpu))
        if turn >= 4 and time.perf_counter() - begun > seconds:
            break
    return {way: (wall, statistics.median(cpu)) for way, (wall, cpu) in found.items()}


def text(times: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(times):8.2f} ({min(times):.2f}-{max(times):.2f})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one row at most (at least 5 turns are made)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])  # before JAX makes its threads
    from cnn.native import onednn

    print(f"{args.threads} core(s); native: {onednn.reason() or 'oneDNN'}; ms, median (range), CPU ms of ours")
    speedups: dict[str, list[float]] = {}
    for shape in SHAPES:
        if args.only not in shape.name:
            continue
        torch_ways = torch_calls(shape, args.threads)
        for name, calls in jax_calls(shape).items():
            calls |= {"torch": torch_ways[name]} if torch_ways else {}
            found = measure(calls, args.repeats, args.seconds)
            middle = {way: statistics.median(times) for way, (times, _) in found.items()}
            ratio = middle["lax"] / middle["ours"]
            kind = "depthwise" if shape.groups == shape.inputs else "grouped" if shape.groups > 1 else "dense"
            speedups.setdefault(f"{kind}, {name}", []).append(ratio)
            columns = "  ".join(f"{way} {text(times)}" for way, (times, _) in found.items())
            note = "" if ratio > 1.05 else "  stock is as fast"
            print(f"{shape.name:<24} {name:<15} {columns}  cpu {found['ours'][1]:.1f}  {ratio:.1f}x{note}", flush=True)
    for kind, ratios in speedups.items():
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        print(f"{kind}: {mean:.1f}x lax (geometric mean of {len(ratios)})")


if __name__ == "__main__":
    sys.exit(main())
