"""Training steps of whole networks on this machine's CPU: stock JAX, ours, and PyTorch's where it is installed.

    python -m experiments.benchmarks.networks [MODEL ...] [--batch=16] [--size=128] [--threads=1|2]
    python -m experiments.benchmarks.networks resnet50 --predict        # one picture, no training

One run, the ways interleaved: median wall-clock milliseconds (range) and CPU milliseconds. float32, SGD with momentum,
the same network and batch; compilation is left out. "stock" is this project's own step with every convolution left to
`lax`. PyTorch is timm's network of the same name, channels last, eager and `torch.compile`.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

MODELS = ("resnet50", "convnext_tiny", "mobilenetv2_100", "efficientnet_b0", "regnety_032")
Call = Callable[[], Any]


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """Every convolution compiled within is `lax`'s."""
    from cnn.layers import taps
    from cnn.native import onednn

    faster = taps.faster
    taps.faster = lambda *_: None
    try:
        with onednn.off():
            yield
    finally:
        taps.faster = faster


def jax_calls(name: str, batch: int, size: int, predict: bool) -> dict[str, Call]:
    """Compiled steps by way: stock first, then ours."""
    import jax
    import numpy as np
    from ml_collections import ConfigDict

    from cnn import config as configs
    from cnn.build import build
    from cnn.data.info import DatasetInfo
    from cnn.optim import make_optimizer, make_schedule
    from cnn.state import new_state
    from cnn.step import make_predict_step, make_train_step

    c = configs.default()
    c.model, c.mesh.devices = ConfigDict({"name": name}), 1
    c.optim.lr, c.optim.nesterov = 1e-3, False
    info = DatasetInfo("benchmark", "image", (size, size, 3), tuple(map(str, range(1000))))
    built = build(c, info)
    schedule = make_schedule(c.schedule, 1e-3, 1000, 1000.0)
    tx = make_optimizer(c.optim, schedule, built.shapes["params"])
    variables = jax.jit(built.init, compiler_options={"xla_backend_optimization_level": 0})()
    rng = np.random.default_rng(0)
    one = {
        "image": jax.device_put(rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)),
        "label": jax.device_put(rng.integers(0, 1000, batch).astype(np.int32)),
        "valid": jax.device_put(np.ones(batch, bool)),
    }
    calls: dict[str, Call] = {}
    for way, context in (("stock", stock), ("ours", contextlib.nullcontext)):
        with context():
            if predict:
                step = jax.jit(make_predict_step(built.model, built.task)).lower(variables, one).compile()
                calls[way] = lambda step=step: jax.block_until_ready(step(variables, one))
                continue
            update = make_train_step(built.model, built.task, tx, schedule, seed=0)
            state = new_state(jax.tree.map(lambda x: x.copy(), variables), tx, False)
            step = jax.jit(update, donate_argnums=0).lower(state, one).compile()
        holder = [state]

        def train(step: Any = step, holder: list = holder) -> None:
            holder[0], aux = step(holder[0], one)
            jax.block_until_ready((holder[0], aux))

        calls[way] = train
    return calls


def torch_calls(name: str, batch: int, size: int, predict: bool, threads: int) -> dict[str, Call]:
    """Eager and compiled PyTorch; {} where torch or timm is not installed."""
    if not all(map(importlib.util.find_spec, ("torch", "timm"))):
        return {}
    import torch

    from experiments.parity.torch_logits import declare_operators_of_torchvision

    declare_operators_of_torchvision()
    import timm

    torch.set_num_threads(threads)
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (batch,))
    calls: dict[str, Call] = {}
    for way in ("torch", "torch.compile"):
        model = timm.create_model(name, pretrained=False).to(memory_format=torch.channels_last)
        run = torch.compile(model) if way == "torch.compile" else model
        if predict:
            model.eval()

            def call(run: Any = run) -> None:
                with torch.inference_mode():
                    run(x)
        else:
            optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

            def call(run: Any = run, optimizer: Any = optimizer) -> None:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(run(x), y).backward()
                optimizer.step()

        try:
            call()
        except Exception as error:  # torch.compile needs a working C++ compiler
            print(f"  {way}: not run: {type(error).__name__}")
            continue
        calls[way] = call
    return calls


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=0, help="default 16, or 1 with --predict")
    parser.add_argument("--size", type=int, default=0, help="pixels; default 128, or 224 with --predict")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores")
    parser.add_argument("--predict", action="store_true", help="the answer to one picture instead of training")
    args = parser.parse_args()
    batch = args.batch or (1 if args.predict else 16)
    size = args.size or (224 if args.predict else 128)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])  # before JAX makes its threads
    from cnn.native import onednn

    what = "answer" if args.predict else "training step"
    print(f"{what}, batch {batch}, {size} px, {args.threads} core(s); native: {onednn.reason() or 'oneDNN'}")
    for name in args.models:
        calls = jax_calls(name, batch, size, args.predict)
        calls |= torch_calls(name, batch, size, args.predict, args.threads)
        for call in calls.values():
            call()
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in calls}
        for _ in range(args.repeats):
            for way, call in calls.items():
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                times[way].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
        walls = {way: [wall for wall, _ in found] for way, found in times.items()}
        middle = {way: statistics.median(found) for way, found in walls.items()}
        for way, found in walls.items():
            cpu = statistics.median(cpu for _, cpu in times[way])
            ratio = "" if way == "ours" else f"  ours is {middle[way] / middle['ours']:.2f}x as fast"
            print(f"{name:<16} {way:<13} {middle[way]:9.1f} ms ({min(found):.1f}-{max(found):.1f})  "
                  f"cpu {cpu:9.1f}{ratio}", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
