"""The device mesh, where arrays live on it, and how host batches become global arrays.

Data parallelism is `jax.jit` over one mesh with `NamedSharding`: the batch is split over the axis `data`,
parameters are replicated unless a rule shards them, and XLA puts the all-reduces where they belong.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cnn.errors import UserError
from cnn.tree import names, path_name

REPLICATED = PartitionSpec()


def make_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config.devices` devices (0: all), axis `data`.

    Axes are `Auto` on purpose: in `Explicit` mode, dropout, batch permutations and scatter-adds fail.

    Args:
      devices: to choose from; None for this machine's.

    Raises:
      UserError: more devices are asked for than there are.
    """
    devices = jax.devices() if devices is None else devices
    count = config.devices or len(devices)
    if not 0 < count <= len(devices):
        raise UserError(
            f"mesh.devices is {count}, but this machine has {len(devices)} "
            f"{devices[0].platform} device(s); use 0 for all"
        )
    return Mesh(np.array(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, REPLICATED)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_sharding(abstract: Any, mesh: Mesh, fsdp: str) -> Any:
    """One sharding per leaf of a state tree.

    Parameters whose whole name matches the regex `fsdp`, and with them their optimizer moments and
    averages, whose names end in the parameter's, are split along their largest axis that the device
    count divides; all others are replicated.

    Raises:
      UserError: `fsdp` is not a regular expression, or it matches nothing.
    """
    try:
        rule = re.compile(f"(.*/)?({fsdp})") if fsdp else None
    except re.error as error:
        raise UserError(f"mesh.fsdp '{fsdp}' is not a regular expression: {error}") from error
    if rule and not any(rule.fullmatch(name) for name in names(abstract)):
        raise UserError(f"mesh.fsdp '{fsdp}' matches nothing; names look like {', '.join(names(abstract)[:3])}")
    count = mesh.shape["data"]

    def place(path: tuple, leaf: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % count == 0 and size >= count]
        if rule is None or not axes or not rule.fullmatch(path_name(path)):
            return replicated(mesh)
        largest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * largest, "data"))

    return jax.tree_util.tree_map_with_path(place, abstract)


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, Any]:
    """This host's rows of a batch as global arrays, split over `data`.

    For a single CPU device they stay NumPy arrays: the jitted step takes them over for less.
    """
    if sharding.mesh.size == 1 and on_cpu(sharding.mesh):
        return batch
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def lockstep(mesh: Mesh) -> bool:
    """Whether every step must be awaited: simulated devices deadlock with several steps in flight."""
    return mesh.size > 1 and on_cpu(mesh)


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh is made of CPU devices."""
    return mesh.devices.flat[0].platform == "cpu"
