"""How long the TPU's compiler takes for real configs on a machine without a TPU, and what it says.

    pip install -e '.[preflight]'      # libtpu, on Linux x86-64
    python -m experiments.benchmarks.preflight                # five configs for v4, v5e, v5p and v6e, four chips each
    python -m experiments.benchmarks.preflight --points       # bytes per step behind `cnn.preflight.forecast.POINTS`
    python -m experiments.benchmarks.preflight --memory       # memory forecast beside measured, on this machine

The training and evaluation steps are those of `cnn preflight`, each pair in a process of its own. `wall` is all of that
process: starting Python, tracing, both compilations; `cpu` the cores' time for it, which other work does not stretch.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cnn import config as configs
from cnn import flags
from cnn.errors import UserError, unknown
from cnn.preflight import check, forecast, libtpu
from cnn.preflight.hardware import of_chips, topology
from cnn.preflight.sweep import table
from cnn.preflight.text import gib

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {  # config: examples per chip
    "classification/imagenet_resnet50": 128,
    "classification/imagenet_convnext_tiny": 64,
    "classification/imagenet_efficientnet_b0": 64,
    "segmentation/scenes_unet": 32,
    "medical/nuclei3d_unet3d": 2,
}
KINDS = ("v4", "v5e", "v5p", "v6e")
CHIPS = 4
LIMIT_S = 60.0  # bar of one training or evaluation step
MEMORY = (  # config, overrides: networks whose step takes more than a few MB besides the process itself
    ("classification/imagenet_resnet50", {"input.batch_size": "8"}),
    ("classification/imagenet_efficientnet_b0", {"input.batch_size": "8"}),
    ("classification/imagenet_convnext_tiny", {"input.batch_size": "8"}),
    ("classification/cifar10_resnet18", {"input.batch_size": "64"}),
    ("segmentation/scenes_unet", {"input.batch_size": "8"}),
    ("medical/nuclei3d_unet3d", {"input.batch_size": "2"}),
)


def load(name: str, overrides: dict[str, str]) -> ConfigDict:
    """A config of configs/, on made-up examples."""
    return flags.load_config(f"{ROOT}/configs/{name}.py", {"input.fake": "true"} | overrides)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def compile_all(names: list[str], kinds: list[str]) -> Iterator[list[str]]:
    """A row per config and kind."""
    for name in names:
        for kind in kinds:
            say(f"{name} {kind}")
            where = of_chips(kind, CHIPS)
            batch = str(CONFIGS[name] * where.chips)
            begin, worked = time.perf_counter(), _cpu_seconds()
            config = load(name, {"input.batch_size": batch, "eval.batch_size": batch})
            try:
                found = check.compiled(config, where, ("train", "eval"))
            except UserError as error:
                yield [name, str(where), str(CONFIGS[name]), *[""] * 5, str(error)[:80]]
                continue
            wall, cpu = time.perf_counter() - begin, _cpu_seconds() - worked
            train, evaluation = found["train"], found["eval"]
            refused = [step["error"] for step in (train, evaluation) if "error" in step]
            if refused:
                yield [name, str(where), str(CONFIGS[name]), *[""] * 5, refused[0][:80]]
                continue
            seconds = [step["compile_seconds"] for step in (train, evaluation)]
            yield [
                name,
                str(where),
                str(CONFIGS[name]),
                gib(train["peak"]),
                *(f"{value:.0f}" for value in (*seconds, wall, cpu)),
                "yes" if max(seconds) <= LIMIT_S else "NO",
            ]


def _cpu_seconds() -> float:
    times = os.times()  # of processes that have ended
    return times.children_user + times.children_system


def points() -> Iterator[list[str]]:
    """What ResNet-50 reads and writes in a step, at the batches of the published runs."""
    for kind, batch in sorted({(point.kind, point.batch) for point in forecast.POINTS}):
        say(f"{kind} {batch}")
        where = of_chips(kind, CHIPS)
        config = load("classification/imagenet_resnet50", {"input.batch_size": str(batch * where.chips)})
        found = check.compiled(config, where, ("train",))
        used = found["train"]["bytes"] * where.chip.devices
        kept = next(point.bytes for point in forecast.POINTS if (point.kind, point.batch) == (kind, batch))
        yield [kind, str(batch), f"{used / 1e9:.4g}", f"{kept / 1e9:.4g}"]


def memory() -> Iterator[list[str]]:
    """Forecast and measured memory of a training step on this machine."""
    for name, overrides in MEMORY:
        say(name)
        config = load(name, overrides)
        found = libtpu.in_a_process(("-m", "cnn.preflight.measured", configs.to_json(config)), env={})
        if "measured" not in found:
            yield [name, overrides["input.batch_size"], "", "", str(found.get("error") or found.get("user_error"))[:80]]
            continue
        one = found["measured"]["memory"]
        told = [gib(one["forecast"]), gib(one["measured"]), f"{one['error']:+.0%}"] if one else ["", "", "not told"]
        yield [name, overrides["input.batch_size"], *told]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help=f"of {', '.join(CONFIGS)}; default: all")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of TPUs")
    parser.add_argument("--points", action="store_true", help="bytes per step at the batches of published runs")
    parser.add_argument("--memory", action="store_true", help="memory forecast beside measured, on this machine")
    args = parser.parse_args()
    for name in args.configs:
        if name not in CONFIGS:
            raise SystemExit(str(unknown("config", name, CONFIGS)))
    try:
        if args.memory:
            head, rows = ("config", "batch", "forecast", "measured", "error"), list(memory())
        else:
            libtpu.check()
            kinds = [str(topology(str(of_chips(kind, CHIPS))).kind) for kind in args.kinds.split(",")]
            if args.points:
                head, rows = ("kind", "batch/chip", "GB a step", "kept"), list(points())
            else:
                seconds = ("train s", "eval s", "wall s", "cpu s")
                head = ("config", "topology", "batch/chip", "peak", *seconds, "within 60 s")
                rows = list(compile_all(args.configs or list(CONFIGS), kinds))
    except UserError as error:
        raise SystemExit(f"not run: {error}") from error
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
