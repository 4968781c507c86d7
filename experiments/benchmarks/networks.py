"""What whole networks cost on this machine's CPU: XLA's own convolutions, ours, and PyTorch where it is.

    python -m experiments.benchmarks.networks [resnet50 ...] [--batch=16] [--size=224] [--threads=2] [--rounds=10]
    python -m experiments.benchmarks.networks --inference [resnet50 ...]

A training step is forward, backward and an SGD step with momentum in float32, without the input pipeline.
Each variant has a process of its own, for they share neither threads nor memory well; all run in turn, round
after round: medians of wall time (10th to 90th percentile), CPU time, and how many times faster than XLA's own.
PyTorch is timm's or torchvision's network, channels last, eager; `--compile` adds torch.compile. `--inference`
is one image in evaluation mode, with ONNX Runtime where it is installed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.conv import Times, cell

NETWORKS = ("resnet50", "convnext_tiny", "mobilenetv2_100", "efficientnet_b0", "regnety_032")
VARIANTS = ("XLA", "plain JAX", "ours", "PyTorch", "torch.compile", "ONNX Runtime")
ABSENT = "absent"  # what a worker says whose variant is not installed


def jax_variant(name: str, variant: str, image: np.ndarray, label: np.ndarray, inference: bool) -> Callable[[], Any]:
    """One step or one prediction, compiled."""
    if variant != "XLA":  # what it costs without this project, memory included
        from cnn.process import keep_freed_memory

        keep_freed_memory()
    import jax
    import optax

    from cnn.layers import taps
    from cnn.models import build_model
    from cnn.native import onednn

    model = build_model(name, {"num_classes": 1000})
    tx = optax.sgd(1e-3, 0.9)

    def start() -> Any:
        variables = model.init(jax.random.key(0), image[:1], train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return params, stats, tx.init(params)

    def step(state: Any, image: Any, label: Any) -> Any:
        params, stats, opt_state = state

        def loss_of(params: Any) -> Any:
            variables, rngs = {"params": params, "batch_stats": stats}, {"dropout": jax.random.key(1)}
            out, changed = model.apply(variables, image, train=True, mutable=["batch_stats"], rngs=rngs)
            loss = optax.softmax_cross_entropy_with_integer_labels(out["logits"], label).mean()
            return loss, changed.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    def predict(state: Any, image: Any) -> Any:
        return model.apply({"params": state[0], "batch_stats": state[1]}, image, train=False)["logits"]

    with contextlib.ExitStack() as stack:
        for switch in {"XLA": (onednn.off, taps.off), "plain JAX": (onednn.off,)}.get(variant, ()):
            stack.enter_context(switch())
        if variant == "ours" and not onednn.enabled():
            raise ImportError(onednn.reason())
        state = jax.jit(start)()
        image, label = jax.device_put(image), jax.device_put(label)
        if inference:
            predicting = jax.jit(predict).lower(state, image).compile()
            return lambda: jax.block_until_ready(predicting(state, image))
        training = jax.jit(step, donate_argnums=0).lower(state, image, label).compile()

    def run() -> None:
        nonlocal state
        state, loss = training(state, image, label)
        jax.block_until_ready((state, loss))

    return run


def torch_network(name: str) -> Any:
    """timm's network, else torchvision's."""
    from experiments.parity.torch_logits import declare_operators_of_torchvision

    declare_operators_of_torchvision()
    try:
        import timm

        return timm.create_model(name)
    except ModuleNotFoundError:
        import torchvision

        return torchvision.models.get_model(name)


def torch_variant(name: str, variant: str, image: np.ndarray, label: np.ndarray, inference: bool) -> Callable[[], Any]:
    """The same in PyTorch, or its prediction in ONNX Runtime."""
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    network = torch_network(name).to(memory_format=torch.channels_last).train(not inference)
    image = torch.from_numpy(np.moveaxis(image, -1, 1))
    label = torch.from_numpy(label).long()
    if variant == "ONNX Runtime":
        if not inference:
            raise ImportError("ONNX Runtime does not train")
        return onnx_variant(network, image, threads)
    if variant == "torch.compile":
        network = torch.compile(network)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode():
            network(image)

    return predict if inference else step


def onnx_variant(network: Any, image: Any, threads: int) -> Callable[[], Any]:
    """ONNX Runtime's prediction."""
    import io

    import onnxruntime
    import torch

    file = io.BytesIO()
    torch.onnx.export(network, (image,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: np.ascontiguousarray(image.numpy())}
    return lambda: session.run(None, inputs)


def work(args: argparse.Namespace) -> None:
    """A worker: makes its variant, then runs it once per line of standard input."""
    rng, count = np.random.default_rng(0), 1 if args.inference else args.batch
    image = rng.standard_normal((count, args.size, args.size, 3)).astype(np.float32)
    label = rng.integers(0, 1000, count).astype(np.int32)
    make = jax_variant if args.worker in VARIANTS[:3] else torch_variant
    try:
        run = make(args.networks[0], args.worker, image, label, args.inference)
    except ImportError:
        print(ABSENT, flush=True)
        return
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def compare(name: str, args: argparse.Namespace) -> None:
    """Prints the lines of one network."""
    names = [variant for variant in VARIANTS if args.compile or variant != "torch.compile"]
    options = [f"--batch={args.batch}", f"--size={args.size}", f"--threads={args.threads}"]
    options += ["--inference"] if args.inference else []
    command = [sys.executable, "-m", "experiments.benchmarks.networks", name, *options, "--worker"]
    workers = {}
    for variant in names:  # one after the other: compiling takes all cores
        worker = subprocess.Popen([*command, variant], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = worker.stdout.readline().strip()
        if said == "ready":
            workers[variant] = worker
        else:
            print(f"{name:<18}{variant:<14}{said or 'failed'}")
    taken: dict[str, list[list[float]]] = {variant: [] for variant in workers}
    for _ in range(args.rounds):
        for variant, worker in workers.items():
            print("run", file=worker.stdin, flush=True)
            taken[variant].append([float(value) for value in worker.stdout.readline().split()])
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    times = {variant: Times(*(1e3 * np.array(values).T)) for variant, values in taken.items()}
    for variant, measured in times.items():
        stock = times.get("XLA") if variant != "XLA" else None
        print(f"{name:<18}{variant:<14}{cell(measured, stock)}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=0, help="cores to use (0: all)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: args.threads or len(cores)]
    os.sched_setaffinity(0, cores)  # before JAX starts its threads
    os.environ["JAX_PLATFORMS"] = "cpu"
    if args.worker:
        return work(args)
    from cnn.models import MODELS

    what = "prediction of one image" if args.inference else f"training step, batch {args.batch}"
    print(f"{len(cores)} core(s), {what}, {args.size} px, {args.rounds} rounds in turn: median ms (p10-p90), CPU ms")
    for name in args.networks or [name for name in NETWORKS if name in MODELS]:
        compare(name, args)


if __name__ == "__main__":
    main()
