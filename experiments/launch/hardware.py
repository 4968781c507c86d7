"""TPUs as Cloud TPU and GKE name them: kinds, sizes, hosts.

Sources, read in stored copies: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} (sizes; chips or TensorCores in the name;
chips per VM), .../tpu/docs/runtimes (software versions) and .../kubernetes-engine/docs/concepts/plan-tpus (labels of
node pools, chips per node). A v5e or v6e slice of up to 8 chips is one VM; above, and on all other kinds, a VM has 4.
"""

import dataclasses
import math

from cnn.errors import UserError, unknown
from cnn.preflight.hardware import EXAMPLES, read_sides

CUBES = tuple(range(128, 4097, 128))  # TensorCores of slices made of whole cubes of 4x4x4 chips


@dataclasses.dataclass(frozen=True)
class Kind:
    """A generation of TPUs.

    Attributes:
      prefix: of its types: 'v5litepod-16'; '' where there is no Cloud TPU VM of this kind.
      sizes: that may follow the prefix, in chips times `per_chip`.
      per_chip: how much one chip counts in that number: 2 where TensorCores are counted.
      runtime: the software version of its VMs.
      one_host: the most chips that one VM has; larger slices are made of VMs of 4.
      pool: label of its GKE node pools.
      axes: numbers in a topology.
    """

    prefix: str
    sizes: tuple[int, ...]
    per_chip: int
    runtime: str
    one_host: int
    pool: str
    axes: int


FLAT = (1, 4, 8, 16, 32, 64, 128, 256)
KINDS = {
    "v4": Kind("v4-", (8, 16, 32, 64, *CUBES), 2, "tpu-ubuntu2204-base", 4, "tpu-v4-podslice", 3),
    "v5e": Kind("v5litepod-", FLAT, 1, "v2-alpha-tpuv5-lite", 8, "tpu-v5-lite-podslice", 2),
    "v5p": Kind("v5p-", (8, 16, 32, 64, *CUBES), 2, "v2-alpha-tpuv5", 4, "tpu-v5p-slice", 3),
    "v6e": Kind("v6e-", FLAT, 1, "v2-alpha-tpuv6e", 8, "tpu-v6e-slice", 2),
    "tpu7x": Kind("", (), 1, "", 4, "tpu7x", 3),  # GKE only
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired to each other.

    Attributes:
      kind: a key of KINDS.
      chips: in all.
      hosts: VMs; each runs one process.
    """

    kind: str
    chips: int
    hosts: int

    @property
    def chips_per_host(self) -> int:
        """Chips that one process drives."""
        return self.chips // self.hosts


def _slice(kind: str, chips: int) -> Slice:
    return Slice(kind, chips, 1 if chips <= KINDS[kind].one_host else chips // 4)


def of_type(accelerator: str) -> Slice:
    """The slice that a type of Cloud TPU VMs names, for instance 'v5litepod-16'.

    Raises:
      UserError: there is no such type.
    """
    types = {f"{k.prefix}{size}": (name, size // k.per_chip) for name, k in KINDS.items() for size in k.sizes}
    if accelerator not in types:
        raise unknown("TPU type", accelerator, (t for t in types if int(t.rpartition("-")[2]) <= 256))
    return _slice(*types[accelerator])


def of_topology(kind: str, topology: str) -> Slice:
    """The slice of a kind and a topology, for instance 'v5e' and '4x4'.

    Raises:
      UserError: there is no such kind, or its slices have no such topology.
    """
    if kind not in KINDS:
        raise unknown("kind of TPU", kind, KINDS)
    axes = KINDS[kind].axes
    sides = read_sides(topology, axes)
    if not sides:
        raise UserError(f"topology '{topology}': that of a {kind} is {axes} numbers, for instance {EXAMPLES[axes]}")
    chips = math.prod(sides)
    if chips > KINDS[kind].one_host and chips % 4:
        raise UserError(f"topology '{topology}': its {chips} chips are no whole number of hosts with 4 chips")
    return _slice(kind, chips)
