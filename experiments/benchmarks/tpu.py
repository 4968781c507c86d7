"""What a training step of each family needs on a TPU: it is compiled for one, which need not be there.

    pip install -e '.[preflight]'      # libtpu, on Linux x86-64
    python experiments/benchmarks/tpu.py [MODEL ...] [--topology=v5e:2x2] [--batch=64] [--space=1] [--out=runs/tpu.csv]

The step is the trainer's own (`make_train_step`: uint8 pictures, forward and backward pass, SGD with momentum and
weight decay) in bfloat16, data parallel over all chips of the topology. The columns are the compiler's: operations,
bytes and memory of one chip, collectives in the program. They say that the step compiles and fits, not how fast it
runs. The compiler's lowest effort (O0) is asked for: its peak is 1 to 2 % above that of the default.

Networks that give pixels (unet, unet3d, ...) have a class for every pixel to learn, and are compiled where they are
named. `--space=4` splits each example along its first axis over four chips, which then share a batch.

Every network is compiled in a process of its own, because a compiler that crashes takes its process along; where a
batch does not fit, half of it is tried. Rows are kept in `--out`, and those of the same code and versions are not
made again, unless they failed.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnn.errors import unknown
from cnn.models import MODELS, TASK_OF, facts
from cnn.preflight import hardware, hlo, libtpu

ROOT = Path(__file__).resolve().parents[2]
CODE = ("cnn/layers", "cnn/models", "cnn/tasks", "cnn/optim.py", "cnn/state.py", "cnn/step.py")
LIKE = "resnet50"  # of each family, the network with about its multiply-adds stands for all
COLUMNS = {
    "model": "model",
    "input": "input",
    "batch": "batch/chip",
    "params_m": "params M",
    "gflop_per_image": "GFLOP/image",
    "mb_per_image": "MB/image",
    "peak_gib": "peak GiB",
    "collectives": "collectives",
    "compile_s": "compile s",
    "error": "error",
}
KEYS = ("topology", "space", "asked", "code", *COLUMNS)
LIMIT_S = 1200.0  # of one compilation


def representatives() -> list[str]:
    """One network per file of MODELS that gives colour pictures classes."""
    stored = facts.stored()
    families: dict[str, list[str]] = {}
    for name, entry in MODELS.items():
        if len(entry.input) == 3 and entry.input[-1] == 3 and entry.gives == "classes":
            families.setdefault(entry.target.partition(":")[0], []).append(name)
    return [
        min(names, key=lambda name: abs(math.log(stored[name].macs / stored[LIKE].macs)))
        for names in families.values()
    ]


def code_version() -> str:
    """Changes with anything that may change a row: the network's code, the step's, jax, libtpu, this file."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for place in CODE:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    for package in ("jax", "libtpu"):
        found.update(importlib.metadata.version(package).encode())
    return found.hexdigest()[:12]


def compile_step(name: str, topology: str, batch: int, space: int) -> dict[str, Any]:
    """The row of one network; `space` chips share `batch` examples. Raises what the compiler raises."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from cnn import config, tree
    from cnn.card import spec_of
    from cnn.features import KINDS, LABEL, DatasetInfo, Feature
    from cnn.mesh import replicated
    from cnn.models import build_model
    from cnn.optim import make_optimizer, make_schedule
    from cnn.state import init_variables, new_state
    from cnn.step import make_train_step
    from cnn.tasks import build_task

    entry, c = MODELS[name], config.default()
    c.optim.weight_decay = 1e-4
    channels, classes = entry.input[-1], tuple(map(str, range(entry.classes)))
    key = "image" if len(entry.input) == 3 else "volume"
    targets = {"mask": Feature.mask(*entry.input[:-1])} if entry.gives == "pixels" else {"label": LABEL}
    info = DatasetInfo("zeros", {key: KINDS[key](*entry.input)}, targets, classes)
    task = build_task(TASK_OF[entry.gives], info, (0.5,) * channels, (0.25,) * channels)
    zeros = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in spec_of(info).items()}
    zeros["valid"] = np.ones(1, bool)
    model = build_model(name, {"num_classes": entry.classes, "dtype": jnp.bfloat16})
    shapes = jax.eval_shape(lambda: init_variables(model, task.inputs(zeros), 0))
    schedule = make_schedule(c.schedule, c.optim.lr, total_steps=1000, steps_per_epoch=100.0)
    tx = make_optimizer(c.optim, schedule, shapes["params"])
    state = jax.eval_shape(lambda variables: new_state(variables, tx, ema=False), shapes)
    devices = np.array(libtpu.devices(hardware.topology(topology))).reshape(-1, space)
    mesh = Mesh(devices, ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    one, count = zeros, batch * mesh.shape["data"]
    rows = {k: jax.ShapeDtypeStruct((count, *v.shape[1:]), v.dtype) for k, v in one.items()}
    split = {k: NamedSharding(mesh, PartitionSpec(*("data", "space")[: v.ndim])) for k, v in one.items()}
    step = jax.jit(
        make_train_step(model, task, tx, schedule, seed=0),
        donate_argnums=0,
        in_shardings=(replicated(mesh), split),
        out_shardings=(replicated(mesh), replicated(mesh)),
    )
    begin = time.perf_counter()
    compiled = step.lower(state, rows).compile()
    seconds = time.perf_counter() - begin
    cost = compiled.cost_analysis()
    return {
        "params_m": f"{tree.size(shapes['params']) / 1e6:.2f}",
        "gflop_per_image": f"{cost['flops'] / batch / 1e9:.2f}",
        "mb_per_image": f"{cost['bytes accessed'] / batch / 1e6:.1f}",
        "peak_gib": f"{compiled.memory_analysis().peak_memory_in_bytes / 2**30:.2f}",
        "collectives": sum(one.count for one in hlo.collectives(compiled.as_text())),
        "compile_s": f"{seconds:.0f}",
    }


def in_a_process(name: str, topology: str, batch: int, space: int) -> dict[str, Any]:
    """`compile_step` elsewhere; {'error': one line} where it fails, crashes or takes too long."""
    how = (f"--topology={topology}", f"--batch={batch}", f"--space={space}")
    return libtpu.in_a_process((__file__, name, *how, "--here"), LIMIT_S)


def row_of(name: str, topology: str, asked: int, code: str, space: int = 1) -> dict[str, Any]:
    """The row of one network at the largest of `asked`, `asked` / 2, ... examples per `space` chips that fits."""
    batch = asked
    while True:
        found = in_a_process(name, topology, batch, space)
        if libtpu.NO_MEMORY not in found.get("error", "") or batch == 1:
            break
        batch //= 2
    shape = "x".join(map(str, MODELS[name].input))
    fixed = {"model": name, "topology": topology, "space": space, "asked": asked, "code": code}
    return dict.fromkeys(KEYS, "") | fixed | {"batch": batch, "input": shape} | found


def read(file: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows that a file keeps, by model, topology, chips per example, batch that was asked for, and code."""
    if not file.exists():
        return {}
    with open(file, encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    return {tuple(row.get(key, "") for key in ("model", "topology", "space", "asked", "code")): row for row in rows}


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rewrites the file in one go, so that an interrupt leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with open(new, "w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    new.replace(file)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[str(row[key]) for key in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="of `cnn list models`; default: one per family")
    parser.add_argument("--topology", default="v5e:2x2", help="such as v4:2x2x1, v5e:1x1, v5p:2x2x1, v6e:2x2")
    parser.add_argument("--batch", type=int, default=64, help="examples per chip")
    parser.add_argument("--space", type=int, default=1, help="chips that share --batch examples, split along depth")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tpu.csv")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        print("not run: libtpu is not installed (Linux x86-64 only); pip install -e '.[preflight]'")
        return
    if args.here:
        print(json.dumps(compile_step(args.models[0], args.topology, args.batch, args.space)))
        return
    names = args.models or representatives()
    for name in names:
        if name not in MODELS:
            raise SystemExit(str(unknown("model", name, MODELS)))
    if min(args.batch, args.space) < 1:
        raise SystemExit(f"--batch is {args.batch} and --space {args.space}; they must be at least 1")
    code, kept, shown = code_version(), read(args.out), []
    for index, name in enumerate(names, 1):
        key = (name, args.topology, str(args.space), str(args.batch), code)
        if key not in kept or kept[key]["error"]:
            print(f"{index}/{len(names)} {name}", file=sys.stderr, flush=True)
            kept[key] = row_of(name, args.topology, args.batch, code, args.space)
            write(args.out, kept.values())
        shown.append(kept[key])
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "libtpu"))
    split = f" ({args.space} per example)" if args.space > 1 else ""
    print(f"bfloat16 training step, {args.topology}{split}, numbers of one chip; {versions}, O0\n\n{table(shown)}")
    failed = [row["model"] for row in shown if row["error"]]
    if failed:
        raise SystemExit(f"did not compile: {', '.join(failed)}")


if __name__ == "__main__":
    main()
