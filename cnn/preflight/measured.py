"""A few real steps on this machine's devices, beside what the forecast says of them.

    python -m cnn.preflight.measured '{...config...}'

prints one JSON object. It runs in a process of its own, so that memory of anything else does not count.
"""

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnn import config as configs
from cnn.errors import UserError
from cnn.mesh import lockstep, on_cpu
from cnn.plan import Plan, make_plan
from cnn.preflight import forecast, program
from cnn.preflight.hardware import Chip
from cnn.process import follow, has_glibc, use_compile_cache
from cnn.timing import bare_step_seconds

_M_MMAP_THRESHOLD = -3  # glibc's number for mallopt(3)
STEPS = 3  # whose memory is watched
SECONDS = 3.0  # that are timed
SIDE, COPIED = 1024, 1 << 28  # of the matrices that tell peak arithmetic; bytes that tell bandwidth


def peak_of(device: Any, dtype: Any) -> Chip:
    """What a device of this machine reaches in a matrix product and in a copy: the walls of its roofline."""

    def best(call: Any, *arrays: Any) -> float:
        found, compiled = [], jax.jit(call)
        jax.block_until_ready(compiled(*arrays))
        for _ in range(5):
            begin = time.perf_counter()
            jax.block_until_ready(compiled(*arrays))
            found.append(time.perf_counter() - begin)
        return min(found)

    with jax.default_device(device):
        square = jnp.ones((SIDE if device.platform == "cpu" else 8 * SIDE,) * 2, dtype)
        long = jnp.zeros(COPIED // 4, jnp.float32)
        flops = 2 * len(square) ** 3 / best(jnp.matmul, square, square)
        bandwidth = 2 * long.nbytes / best(lambda x: x + 1, long)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return Chip(flops, float(limit), bandwidth, float("inf"), 1, 1)


class Memory:
    """Bytes that running steps take beyond what is there before: of the device where it tells, else of the process."""

    def __init__(self, device: Any):
        self._device, self._proc = device, Path("/proc/self/status")

    @property
    def known(self) -> bool:
        """Whether this machine can tell."""
        return bool(self._device.memory_stats()) or (has_glibc() and self._proc.exists())

    def reset(self) -> None:
        """Gives freed memory back, so that what is taken again counts, and forgets the highest mark."""
        if self._device.memory_stats() is None:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._before = self._field("VmRSS")

    def used(self) -> int:
        """The most since `reset`, of all of this process's devices together."""
        stats = self._device.memory_stats()
        return stats["peak_bytes_in_use"] if stats else self._field("VmHWM") - self._before

    def _field(self, name: str) -> int:
        line = next(line for line in self._proc.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024


def compare(plan: Plan) -> dict[str, Any]:
    """{memory: {forecast, measured, error}, seconds: {...}} of one training step, and what the forecast is made of.

    Bytes are of all devices; memory is None where the machine does not tell.
    """
    mesh = plan.built.mesh
    device, cpu = mesh.devices.flat[0], on_cpu(mesh)
    lowered = program.lower_train(plan)
    found = program.facts(plan)
    said = found["train"] = program.describe(lowered, found["batch"] // found["parts"], cpu)
    step = plan.train_step()
    batch = plan.place(plan.batches[0])
    state = plan.new_state()
    held = sum(found["memory"].values()) + found["batch_bytes"]
    jax.block_until_ready(state)
    state, _ = jax.block_until_ready(step(state, batch))  # compiles once more: its memory is no step's
    memory = Memory(device)
    if memory.known:
        memory.reset()
        for _ in range(STEPS):
            state, _ = jax.block_until_ready(step(state, batch))
        used = memory.used() + (held * mesh.size if cpu else 0)
    seconds = statistics.median(bare_step_seconds(step, state, batch, wait=lockstep(mesh), budget=SECONDS))
    chip = peak_of(device, plan.built.model.dtype)
    share = mesh.size if cpu else 1  # simulated devices share the cores
    compute, traffic = forecast.on_chip(
        forecast.Work(0, found["useful_flops"] / mesh.size * share, said["bytes"] * share), chip
    )
    found["measured"] = {
        "memory": against(said["peak"] * (mesh.size if cpu else 1), used) if memory.known else None,
        "seconds": against(max(compute, traffic) / forecast.REACHED, seconds),
        "roofline": {"compute": compute, "memory": traffic},
        "peak": {"flops": chip.flops, "bandwidth": chip.bandwidth, "limit": chip.hbm},
        "device": f"{mesh.size} x {device.device_kind}",
    }
    return found


def against(expected: float | int, measured: float | int) -> dict[str, float]:
    """A forecast beside what was measured, and its relative error."""
    return {"forecast": expected, "measured": measured, "error": expected / measured - 1 if measured else 0.0}


def run(config: ConfigDict) -> dict[str, Any]:
    """`compare` of a config's plan."""
    use_compile_cache()
    follow(config)
    return compare(make_plan(config))


def main() -> None:
    """The command line."""
    if has_glibc():  # from the start: large blocks go back when they are freed, and count when they are taken again
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    try:
        print(json.dumps(run(configs.from_json(sys.argv[1]))))
    except UserError as error:
        print(json.dumps({"user_error": str(error)}))


if __name__ == "__main__":
    main()
