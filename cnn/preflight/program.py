"""The real training and evaluation steps of a config, compiled, and what the compiler says about them.

    python -m cnn.preflight.program '{"config": {...}, "topology": "v5e:2x2", "steps": ["train"]}'

prints one JSON object; `cnn preflight` runs it in a process of its own. All sizes are of one device.
"""

import dataclasses
import json
import math
import sys
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn import config as configs
from cnn import tree
from cnn.build import Built
from cnn.data.pipeline import EvalBatches, TrainBatches, example_spec
from cnn.errors import UserError
from cnn.evaluate import Evaluator
from cnn.mesh import batch_sharding, data_parallel_size
from cnn.models.facts import multiply_adds
from cnn.plan import Plan, make_plan
from cnn.preflight import hlo
from cnn.preflight.hardware import topology
from cnn.process import follow

LARGEST = 5  # arrays that are named


def abstract_batch(batches: TrainBatches | EvalBatches, built: Built) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a batch as the loop hands it to the step."""
    found = example_spec(batches.source, batches.transforms, batches.ragged) | {"valid": ((), np.dtype(bool))}
    axes = {name: feature.axes for name, feature in built.info.features.items()}

    def rows(name: str, shape: tuple[int, ...], dtype: np.dtype) -> jax.ShapeDtypeStruct:
        whole = (batches.batch_size, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=batch_sharding(built.mesh, whole, axes.get(name, "")))

    return {name: rows(name, *one) for name, one in found.items()}


def bytes_per_device(abstract: Any) -> int:
    """Of a tree of arrays with shardings."""
    shards = [(math.prod(x.sharding.shard_shape(x.shape)), x.dtype.itemsize) for x in jax.tree.leaves(abstract)]
    return sum(count * size for count, size in shards)


def describe(lowered: Any, batch: int, cpu: bool) -> dict[str, Any]:
    """Compiles; what the compiler and the program's text (`read`) say of it.

    Args:
      batch: examples of one device.
      cpu: for a CPU, whose compiler leaves temporary arrays out of the peak.
    """
    begin = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    return {
        "compile_seconds": seconds,
        "peak": whole if cpu else memory.peak_memory_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        **read(compiled.as_text(), batch),
    }


def read(text: str, batch: int) -> dict[str, Any]:
    """What the text of a program tells.

    Args:
      batch: examples of one device.

    Returns:
      {alive: bytes at the peak besides arguments; activations: those of them from the forward pass; largest:
      [(layer, shape, bytes)] of them; padding: rows of `tiles`; collectives: [(kind, small, count, bytes)]}
    """
    instructions = hlo.entry(text)
    alive = hlo.at_peak(instructions)
    kept = sorted((b for b in alive if b.maker.forward), key=lambda b: -b.array.padded)
    return {
        "alive": sum(b.array.padded for b in alive),
        "activations": sum(b.array.padded for b in kept),
        "largest": [(b.maker.layer, list(b.array.shape), b.array.padded) for b in kept[:LARGEST]],
        "padding": tiles(instructions, batch),
        "collectives": [dataclasses.astuple(one) for one in hlo.collectives(text)],
    }


def tiles(instructions: list[hlo.Instruction], batch: int) -> list[dict[str, Any]]:
    """Bytes that the layers' arrays take on the device, and how much of that is padding to tiles; most waste first.

    One row per layer and per cause: the axis ('batch', 'channels' or 'space') that most of the padding is due to, and
    its size. What belongs to no layer is left out, and so are vectors.
    """
    rows: dict[tuple, list[int]] = defaultdict(lambda: [0, 0])
    for one in instructions:
        if not one.layer or one.op in (*hlo.ALIASES, "parameter", "constant") or one.op.endswith("-done"):
            continue
        for array in one.arrays:
            if len(array.shape) > 1 and not array.fast:
                axis, size = _cause(array, batch)
                row = rows[one.layer, axis, size]
                row[0] += array.bytes
                row[1] += array.padded - array.bytes
    found = [
        {"layer": layer, "axis": axis, "size": size, "bytes": real, "waste": waste}
        for (layer, axis, size), (real, waste) in rows.items()
    ]
    return sorted(found, key=lambda row: -row["waste"])


def _cause(array: hlo.Array, batch: int) -> tuple[str, int]:
    """The axis that is padded by the largest factor, and its size; ('', 0) where none is."""
    worst, found = 1.0, ("", 0)
    for axis, step in zip(array.order, reversed(array.tile), strict=False):
        size = array.shape[axis]
        factor = -(-size // step) * step / max(size, 1)
        if factor > worst:
            last = len(array.shape) - 1
            name = "channels" if axis == last else "batch" if (axis, size) == (0, batch) else "space"
            worst, found = factor, (name, size)
    return found


def facts(plan: Plan) -> dict[str, Any]:
    """What needs no compiler: sizes of the state on one device, useful operations of a step of all devices."""
    state, config, built = plan.abstract, plan.config, plan.built
    forward = jax.make_jaxpr(lambda v: built.model.apply(v, built.inputs(), train=False))(built.shapes)
    arrays = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "statistics": (state.batch_stats, state.ema),
    }
    return {
        "devices": built.mesh.size,
        "parts": data_parallel_size(built.mesh),
        "batch": config.input.batch_size,
        "memory": {name: bytes_per_device(part) for name, part in arrays.items()},
        "model": config.model.name,
        "parameters": tree.size(state.params),
        "stem": _stem(plan),
        # The gradient for the weights and the one for the inputs cost as much as the forward pass.
        "useful_flops": 3 * 2 * multiply_adds(forward) * config.input.batch_size,
        "steps": plan.total,
        "evaluations": sum(plan.total // one.every for one in plan.evaluations),
        "eval_steps": max((len(one.batches) for one in plan.evaluations), default=0),
        "examples": plan.batches.size,
        "batch_bytes": bytes_per_device(abstract_batch(plan.batches, built)),
    }


def _stem(plan: Plan) -> tuple[list[int], int]:
    """(window, channels) of the first convolution of the input; ([], 0) where there is none."""
    channels = jax.tree.leaves(jax.eval_shape(plan.built.inputs))[0].shape[-1]
    kernels = [x.shape for x in jax.tree.leaves(plan.abstract.params) if x.ndim > 2 and x.shape[-2] == channels]
    return (list(kernels[0][:-2]), channels) if kernels else ([], 0)


def lower_train(plan: Plan) -> Any:
    """The update, lowered for the plan's devices."""
    return plan.train_step().lower(plan.abstract, abstract_batch(plan.batches, plan.built))


def lower_eval(plan: Plan) -> Any:
    """The evaluation step, lowered for the plan's devices."""
    variables = {"params": plan.abstract.params, "batch_stats": plan.abstract.batch_stats}
    batches = plan.evaluations[0].batches if plan.evaluations else plan.batches
    return Evaluator(plan.built).step().lower(variables, abstract_batch(batches, plan.built))


def compile_steps(config: ConfigDict, steps: list[str], where: str = "") -> dict[str, Any]:
    """`facts` of the config's plan, and under 'train' and 'eval' what the compiler says, {'error'} where it refuses.

    Args:
      steps: of 'train', 'eval'.
      where: a topology; '' for this machine's devices.
    """
    devices = None
    if where:
        from cnn.preflight import libtpu

        devices = libtpu.devices(topology(where))
    follow(config)
    plan = make_plan(config, devices)
    found = facts(plan)
    for name in steps:
        try:
            lowered = {"train": lower_train, "eval": lower_eval}[name](plan)
            found[name] = describe(lowered, found["batch"] // found["parts"], cpu=not where)
        except jax.errors.JaxRuntimeError as error:
            found[name] = {"error": " ".join(str(error).split())[:400]}
    return found


def main() -> None:
    """The command line."""
    asked = json.loads(sys.argv[1])
    try:
        config = configs.from_json(json.dumps(asked["config"]))
        print(json.dumps(compile_steps(config, asked["steps"], asked["topology"])))
    except UserError as error:
        print(json.dumps({"user_error": str(error)}))


if __name__ == "__main__":
    main()
