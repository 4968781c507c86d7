"""The TPU's compiler on a machine without a TPU: its environment, its devices, and a process of its own for each use.

A compiler that crashes takes its process along, and `jax.devices()` of this process must not become TPUs.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cnn.errors import UserError
from cnn.preflight.hardware import Topology

# Only the first is needed; the others keep libtpu from asking for a TPU's metadata and from locking out its like.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_OPTIMIZATION_LEVEL": "O0",  # a fifth of the time; peak memory is 1 to 2 % above that of the default
}
NO_MEMORY = "RESOURCE_EXHAUSTED"
INSTALL = "pip install -e '.[preflight]' (Linux x86-64)"


def check() -> None:
    """Raises UserError where libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology needs the TPU's compiler, libtpu, which is not installed: {INSTALL}")


def devices(topology: Topology) -> list[Any]:
    """Devices that only the compiler knows; in a process with ENVIRONMENT.

    Raises:
      UserError: libtpu knows no such topology.
    """
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(str(topology), "tpu", **options).devices)
    except Exception as error:  # of many types, among them ValueError and JaxRuntimeError
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--topology {topology}: the compiler knows none of this shape ({reason})") from error


def in_a_process(module: Sequence[str], limit: float = 1200.0, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs `python MODULE ...` with ENVIRONMENT; the JSON of its last line, or {'error': one line} if it fails.

    Args:
      module: arguments of Python, for instance ('-m', 'cnn.preflight.program', '{...}').
      limit: seconds.
      env: in place of ENVIRONMENT.
    """
    try:
        done = subprocess.run(
            [sys.executable, *module],
            env={**os.environ, **(ENVIRONMENT if env is None else env)},
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {limit:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"error": said(done.stderr) or f"exit status {done.returncode}"}


def said(stderr: str) -> str:
    """The one line of an error output that names the cause."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    found = (line for line in reversed(lines) if NO_MEMORY in line or "Error" in line)
    return next(found, lines[-1] if lines else "")[:300]
