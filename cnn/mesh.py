"""The device mesh, where arrays live on it, and how host batches become global arrays.

Parallelism is `jax.jit` over one mesh with `NamedSharding`: the batch is split over the axis `data` and, where the
config asks for it, the first spatial axis of images and volumes over `space`; parameters are replicated unless a
rule shards them (over `data`), and XLA puts the collectives where they belong.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cnn.errors import UserError
from cnn.tree import names, path_name

REPLICATED = PartitionSpec()
DATA, SPACE = "data", "space"


def make_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config.devices` devices (0: all): axis `data`, and `space` when that is more than 1.

    Devices are in order of slice, process and number. So the network between slices, the slowest, is only used
    along the outermost part of `data`; a process has neighbouring rows of the batch; and the parts of one image are
    on chips of one host where they fit there. An all-reduce over all devices does not depend on the order: XLA lays
    its rings by the chips' coordinates.

    Axes are `Auto` on purpose: in `Explicit` mode, dropout, batch permutations and scatter-adds fail.

    Args:
      devices: those of a topology that is not there; None takes this run's, of all processes.

    Raises:
      UserError: more devices are asked for than there are, or they do not divide as asked.
    """
    devices = jax.devices() if devices is None else devices
    count = config.devices or len(devices)
    if not 0 < count <= len(devices):
        raise UserError(
            f"mesh.devices is {count}, but this machine has {len(devices)} "
            f"{devices[0].platform} device(s); use 0 for all"
        )
    processes = len({device.process_index for device in devices})
    if processes > 1 and count != len(devices):
        raise UserError(f"mesh.devices is {count}, but {processes} processes take part with {len(devices)}; use 0")
    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    if config.num_slices > 1 and slices != config.num_slices and devices[0].platform != "cpu":
        raise UserError(f"mesh.num_slices is {config.num_slices}, but these devices are in {slices} slice(s)")
    if count % (config.space * config.num_slices):
        raise UserError(
            f"mesh.space {config.space} x mesh.num_slices {config.num_slices} does not divide {count} device(s)"
        )
    ordered = sorted(devices, key=lambda d: (getattr(d, "slice_index", 0) or 0, d.process_index, d.id))[:count]
    if config.space == 1:
        return Mesh(np.array(ordered), (DATA,), axis_types=(AxisType.Auto,))
    grid = np.array(ordered).reshape(-1, config.space)
    return Mesh(grid, (DATA, SPACE), axis_types=(AxisType.Auto,) * 2)


def data_parallel_size(mesh: Mesh) -> int:
    """How many parts the batch is cut into."""
    return mesh.shape[DATA]


def process_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process reads block `index` of `count` equal blocks of each batch.

    Where an image is split over several processes, those read the same block.

    Raises:
      UserError: the parts of an image do not fall on whole processes.
    """
    owners = [[device.process_index for device in row] for row in mesh.devices.reshape(data_parallel_size(mesh), -1)]
    mine = [i for i, row in enumerate(owners) if jax.process_index() in row]
    local, space = sum(row.count(jax.process_index()) for row in owners), len(owners[0])
    if local % space and space % local:
        raise UserError(f"mesh.space {space} and the {local} device(s) of a process: one must divide the other")
    return mine[0] // len(mine), len(owners) // len(mine)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, REPLICATED)


def batch_sharding(mesh: Mesh, shape: Sequence[int] = (), axes: str = "") -> NamedSharding:
    """The leading axis is split over `data`, and the first spatial one over `space`, which must divide it.

    Args:
      shape: of an array of the batch; () for any, split by `data` only.
      axes: of one example, as a `Feature` names them. What starts with another axis than `d` or `h` (labels, boxes,
        tokens, series) stays whole.
    """
    space = mesh.shape.get(SPACE, 1)
    if space > 1 and axes[:1] in ("d", "h") and shape[1] % space == 0:
        return NamedSharding(mesh, PartitionSpec(DATA, SPACE))
    return NamedSharding(mesh, PartitionSpec(DATA))


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
    count = data_parallel_size(mesh)

    def place(path: tuple, leaf: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % count == 0 and size >= count]
        if rule is None or not axes or not rule.fullmatch(path_name(path)):
            return replicated(mesh)
        largest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * largest, DATA))

    return jax.tree_util.tree_map_with_path(place, abstract)


def to_global(batch: dict[str, np.ndarray], mesh: Mesh, axes: Mapping[str, str]) -> dict[str, Any]:
    """This process's rows of a batch as global arrays, split as `batch_sharding` does.

    Args:
      axes: of one example's entries, by name; {} splits by `data` only.

    For a single CPU device they stay NumPy arrays: the jitted step takes them over for less.
    """
    if mesh.size == 1 and on_cpu(mesh):
        return batch
    if jax.process_count() == 1:
        return jax.device_put(batch, {k: batch_sharding(mesh, v.shape, axes.get(k, "")) for k, v in batch.items()})
    blocks = process_share(mesh)[1]

    def joined(rows: np.ndarray, axes: str) -> jax.Array:
        shape = (rows.shape[0] * blocks, *rows.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh, shape, axes), rows, shape)

    return {k: joined(v, axes.get(k, "")) for k, v in batch.items()}


def lockstep(mesh: Mesh) -> bool:
    """Whether every step must be awaited: simulated devices deadlock with several steps in flight."""
    return mesh.size > 1 and on_cpu(mesh)


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh is made of CPU devices."""
    return mesh.devices.flat[0].platform == "cpu"
