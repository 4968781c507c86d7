"""What the trainer costs beside its jitted step: the loop and the bare step, interleaved in one process.

    python -m experiments.benchmarks.loop [CONFIG ...] [--bursts=10] [--seconds=2]

A burst of the loop draws batches from the real pipeline, moves them to the device, keeps two steps in
flight and fetches the losses, as cnn/train.py does. A bare burst calls the jitted step on one batch.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from cnn import flags
from cnn.data.pipeline import iterate
from cnn.plan import make_plan
from cnn.process import follow, prepare
from cnn.timing import Clock
from cnn.train import AHEAD

CONFIGS = (
    "configs/classification/digits_resnet.py",
    "configs/classification/mnist1d_cnn.py",
    "configs/classification/fashion_mnist_cnn.py",
)


def measure(path: str, bursts: int, seconds: float) -> str:
    """One line of the table."""
    config = flags.load_config(path, {})
    follow(config)
    plan = make_plan(config)
    step, state = plan.train_step(), plan.new_state()
    one = jax.device_put(plan.place(plan.batches[0]))
    data = iterate(plan.batches, place=plan.place)
    clock = Clock()

    def bare(state, count):
        for _ in range(count):
            state, aux = step(state, one)
        jax.block_until_ready((state, aux))
        return state

    def looped(state, count):
        waiting = []
        for index in range(count):
            batch = clock.draw(data, waiting[-1]["loss"] if waiting else None)
            state, aux = step(state, batch)
            waiting.append(aux)
            if index >= AHEAD:
                jax.block_until_ready(waiting[index - AHEAD])
        np.mean([v["loss"] for v in jax.device_get(waiting)])
        jax.block_until_ready(state)
        return state

    state = bare(bare(state, 3), 3)
    begin = time.perf_counter()
    state = bare(state, 10)
    count = max(int(seconds * 10 / (time.perf_counter() - begin)), 5)
    times: dict[str, list[float]] = {"bare": [], "loop": []}
    for _ in range(bursts):
        for name, run in (("bare", bare), ("loop", looped)):
            begin = time.perf_counter()
            state = run(state, count)
            times[name].append(1e3 * (time.perf_counter() - begin) / count)
    middle = {name: statistics.median(values) for name, values in times.items()}
    spread = {name: f"{min(values):.2f}-{max(values):.2f}" for name, values in times.items()}
    wait = 1e3 * clock.seconds["input"] / (bursts * count) / middle["loop"]
    return (
        f"{path.split('/')[-1]:<24} bare {middle['bare']:7.2f} ms ({spread['bare']})  loop "
        f"{middle['loop']:7.2f} ms ({spread['loop']})  overhead {middle['loop'] / middle['bare'] - 1:+.1%}  "
        f"input wait {wait:.1%}"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--bursts", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one burst")
    args = parser.parse_args()
    prepare()
    print(f"{jax.device_count()} {jax.devices()[0].platform} device(s); medians of {args.bursts} bursts (range)")
    for path in args.configs:
        print(measure(path, args.bursts, args.seconds), flush=True)


if __name__ == "__main__":
    main()
