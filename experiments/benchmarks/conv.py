"""What each convolution and pooling costs on this machine's CPU: XLA's own, ours, and PyTorch where it is.

    python -m experiments.benchmarks.conv [--threads=2] [--rounds=10] [--only=depthwise]

Ours are plain JAX and oneDNN for convolutions, and a native call for max pooling. All forms of one operation run
in turn, round after round; the table has medians of wall time, the range from
the 10th to the 90th percentile, CPU time, and how many times faster than XLA's own each is. A line says where
XLA's own has become as fast: then that form is no longer needed.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One convolution: sizes, channels, window, stride and groups; rank from `space`."""

    name: str
    batch: int
    space: tuple[int, ...]
    inputs: int
    outputs: int
    window: int
    stride: int = 1
    groups: int = 1


ROWS = (
    Row("dense 3x3", 16, (28, 28), 128, 128, 3),
    Row("dense 3x3 stride 2", 16, (56, 56), 64, 64, 3, 2),
    Row("dense 3x3 small map", 16, (7, 7), 512, 512, 3),
    Row("stem 7x7 stride 2", 8, (224, 224), 3, 64, 7, 2),
    Row("1x1", 16, (28, 28), 512, 128, 1),
    Row("1x1 stride 2", 16, (56, 56), 256, 512, 1, 2),
    Row("depthwise 3x3", 16, (56, 56), 144, 144, 3, 1, 144),
    Row("depthwise 3x3 stride 2", 16, (56, 56), 144, 144, 3, 2, 144),
    Row("depthwise 7x7", 16, (28, 28), 192, 192, 7, 1, 192),
    Row("grouped 3x3", 4, (28, 28), 256, 256, 3, 1, 32),
    Row("1-D", 32, (512,), 128, 128, 5),
    Row("3-D", 4, (16, 28, 28), 32, 32, 3),
    Row("batch 1, 3x3", 1, (28, 28), 128, 128, 3),
    Row("batch 1, depthwise 7x7", 1, (28, 28), 192, 192, 7, 1, 192),
)


class Pool(NamedTuple):
    """One max pooling with channels that stay; rank from `space`."""

    name: str
    batch: int
    space: tuple[int, ...]
    channels: int
    window: int
    stride: int
    padding: int


POOLS = (
    Pool("max pool 3x3 stride 2", 16, (64, 64), 64, 3, 2, 1),
    Pool("max pool 2x2 stride 2", 16, (56, 56), 128, 2, 2, 0),
    Pool("max pool 3x3 stride 1", 16, (28, 28), 256, 3, 1, 1),
    Pool("max pool 1-D", 32, (512,), 128, 3, 2, 1),
    Pool("max pool 3-D", 4, (16, 28, 28), 32, 2, 2, 0),
    Pool("batch 1, max pool 3x3", 1, (112, 112), 64, 3, 2, 1),
)
PASSES = ("forward", "input gradient", "kernel gradient")
AS_FAST = 1.05


class Times(NamedTuple):
    """Milliseconds over the rounds."""

    wall: np.ndarray
    cpu: np.ndarray


def interleaved(forms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Calls each form once per round, in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, call in forms.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Times(*(1e3 * np.array(values).T)) for name, values in taken.items()}


def cell(times: Times, stock: Times | None) -> str:
    """median (p10-p90) wall, cpu, and the ratio to `stock`."""
    low, middle, high = np.quantile(times.wall, (0.1, 0.5, 0.9))
    ratio = f"{np.median(stock.wall) / middle:8.2f}x" if stock else ""
    return f"{middle:9.2f} ({low:.2f}-{high:.2f}) cpu {np.median(times.cpu):8.2f} {ratio}"


def ours(row: Row, arrays: tuple[np.ndarray, ...]) -> list[dict[str, Callable[[], Any]]]:
    """The forms in JAX, compiled: for each pass {name: call}."""
    import jax

    from cnn.layers import lowering, taps
    from cnn.native import onednn

    rank, side = len(row.space), (row.window - 1) // 2
    spec = lowering.Spec((row.stride,) * rank, ((side, side),) * rank, (1,) * rank, row.groups, None)
    x, kernel, y = (jax.device_put(array) for array in arrays)
    passes = (
        (lambda x, kernel: lowering.forward(x, kernel, spec), x, kernel),
        (lambda y, kernel: lowering.input_gradient(y, kernel, spec, x.shape[1:-1]), y, kernel),
        (lambda x, y: lowering.kernel_gradient(x, y, spec, kernel.shape[:-2]), x, y),
    )
    forms = {"XLA": (onednn.off, taps.off), "plain JAX": (onednn.off,), "oneDNN": ()}
    if not onednn.enabled():
        del forms["oneDNN"]
    return compiled_forms(forms, passes)


def compiled_forms(forms: dict[str, tuple], passes: tuple[tuple, ...]) -> list[dict[str, Callable[[], Any]]]:
    """Each pass (function, *operands) compiled under the switches of each form: for each pass {name: call}."""
    import jax

    found: list[dict[str, Callable[[], Any]]] = [{} for _ in passes]
    for name, switches in forms.items():
        with contextlib.ExitStack() as stack:
            for switch in switches:
                stack.enter_context(switch())
            for calls, (function, *operands) in zip(found, passes, strict=True):
                compiled = jax.jit(function).lower(*operands).compile()
                calls[name] = lambda c=compiled, o=operands: jax.block_until_ready(c(*o))
    return found


def torchs(row: Row, arrays: tuple[np.ndarray, ...], threads: int) -> list[dict[str, Callable[[], Any]]]:
    """The same in PyTorch, channels last; empty where it is not installed."""
    try:
        import torch
    except ImportError:
        return [{}, {}, {}]
    torch.set_num_threads(threads)
    rank, side = len(row.space), (row.window - 1) // 2

    def channels_first(array: np.ndarray) -> Any:
        first = torch.from_numpy(np.moveaxis(array, -1, 1))  # strides stay: channels last
        return first.contiguous() if rank == 1 else first

    x, y = channels_first(arrays[0]), channels_first(arrays[2])
    kernel = torch.from_numpy(np.ascontiguousarray(np.moveaxis(arrays[1], (-1, -2), (0, 1))))
    if rank == 2:
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    rest = (None, [row.stride] * rank, [side] * rank, [1] * rank, False, [0] * rank, row.groups)

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(y, x, kernel, *rest, [*wanted, False])

    return [
        {"PyTorch": lambda: torch.convolution(x, kernel, *rest)},
        {"PyTorch": lambda: backward(True, False)},
        {"PyTorch": lambda: backward(False, True)},
    ]


def measure(row: Row, rounds: int, threads: int) -> None:
    """Prints the lines of one convolution."""
    rng, side = np.random.default_rng(0), (row.window - 1) // 2
    out = tuple((n + 2 * side - row.window) // row.stride + 1 for n in row.space)
    shapes = (
        (row.batch, *row.space, row.inputs),
        (*(row.window,) * len(row.space), row.inputs // row.groups, row.outputs),
        (row.batch, *out, row.outputs),
    )
    arrays = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    sizes = f"{row.batch} x {'x'.join(map(str, row.space))}, {row.inputs} -> {row.outputs}"
    show(f"{row.name}: {sizes}, groups {row.groups}", ours(row, arrays), torchs(row, arrays, threads), rounds)


def measure_pool(row: Pool, rounds: int, threads: int) -> None:
    """Prints the lines of one pooling."""
    import jax

    from cnn.layers.pool import max_pool
    from cnn.native import onednn

    def pool(x: Any) -> Any:
        return max_pool(x, row.window, row.stride, row.padding)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((row.batch, *row.space, row.channels)).astype(np.float32)
    y = rng.standard_normal(jax.eval_shape(pool, x).shape).astype(np.float32)
    forms = {"XLA": (onednn.off,)} | ({"native": ()} if onednn.enabled() else {})
    xs, ys = jax.device_put((x, y))
    mine = compiled_forms(forms, ((pool, xs), (lambda x, y: jax.vjp(pool, x)[1](y)[0], xs, ys)))
    sizes = f"{row.batch} x {'x'.join(map(str, row.space))}, {row.channels} channels"
    show(f"{row.name}: {sizes}", mine, torchs_pool(row, x, y, threads), rounds)


def torchs_pool(row: Pool, x: np.ndarray, y: np.ndarray, threads: int) -> list[dict[str, Callable[[], Any]]]:
    """The same in PyTorch, channels last; empty where it is not installed, and in 1-D, which it has no layout for."""
    try:
        import torch
    except ImportError:
        return [{}, {}]
    rank = len(row.space)
    if rank == 1:
        return [{}, {}]
    torch.set_num_threads(threads)
    xs, ys = (torch.from_numpy(np.moveaxis(array, -1, 1)) for array in (x, y))  # strides stay: channels last
    name = f"max_pool{rank}d_with_indices"
    forward, backward = (getattr(torch.ops.aten, name + end) for end in ("", "_backward"))
    sizes = [row.window] * rank, [row.stride] * rank, [row.padding] * rank, [1] * rank, False
    indices = forward(xs, *sizes)[1]
    return [{"PyTorch": lambda: forward(xs, *sizes)}, {"PyTorch": lambda: backward(ys, xs, *sizes, indices)}]


def show(title: str, ours: list[dict], theirs: list[dict], rounds: int) -> None:
    """Runs the forms of each pass in turn and prints their lines."""
    print(title)
    for name, mine, others in zip(PASSES, ours, theirs, strict=False):  # pooling has no kernel
        forms = {**mine, **others}
        interleaved(forms, 1)
        times = interleaved(forms, rounds)
        for form, taken in times.items():
            stock = times["XLA"] if form != "XLA" else None
            print(f"  {name if stock is None else '':<16}{form:<10}{cell(taken, stock)}")
        best = min((np.median(times[form].wall) for form in mine if form != "XLA"), default=0.0)
        if np.median(times["XLA"].wall) <= AS_FAST * best:
            print(f"  {'':<16}XLA's own is as fast here")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="cores to use (0: all)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: args.threads or len(cores)]
    os.sched_setaffinity(0, cores)  # before JAX starts its threads
    os.environ["JAX_PLATFORMS"] = "cpu"
    from cnn.native import onednn

    print(f"{len(cores)} core(s), {args.rounds} rounds in turn: median ms (p10-p90), CPU ms, times faster than XLA")
    if not onednn.enabled():
        print(f"no oneDNN: {onednn.reason()}")
    for row in ROWS:
        if args.only in row.name:
            measure(row, args.rounds, len(cores))
    for pool in POOLS:
        if args.only in pool.name:
            measure_pool(pool, args.rounds, len(cores))


if __name__ == "__main__":
    main()
