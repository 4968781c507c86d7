"""How long a step takes, by an estimate that is written out here and checked against published runs (`POINTS`).

    chip     = max(operations / peak, bytes / HBM bandwidth) / REACHED
    one collective of s bytes over n chips = 2 (n - 1) / n * s / ICI bandwidth + hops * HOP
    step     = max(chip + collectives, examples of a host / what its loader gives)

`operations` are multiply-adds x 2 of the network, three times those of the forward pass; `bytes` are those that the
compiled step reads and writes. Hops of an all-reduce are those of a ring there and back along each axis of the torus.
Nothing overlaps, which is pessimistic; evaluation and start-up are left out, which is optimistic. REACHED is the one
number that is fitted; HOP is that of jax-ml.github.io/scaling-book (from memory).
"""

import dataclasses
from collections.abc import Sequence

from cnn.preflight.hardware import Chip, Topology, of_chips

REACHED = 0.62  # share of the roofline that ResNet-50 reaches in POINTS; they are between 0.52 and 0.73
HOP = 1e-6  # seconds, to the next chip
SCALES = tuple(4**n for n in range(1, 7))  # chips, 4 to 4,096


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step asks of one chip.

    Attributes:
      examples: per chip.
      flops: useful operations.
      bytes: read and written in HBM.
      reduced: bytes of gradients that are summed over all chips, in `reductions` collectives.
      synced: small collectives (statistics of BatchNorm).
    """

    examples: float | int
    flops: float | int
    bytes: float | int
    reduced: float | int = 0
    reductions: int = 1
    synced: int = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """Estimated seconds of a step, by part.

    Attributes:
      compute, memory: of the roofline alone, at peak.
      chip: what the larger of them becomes in practice.
      gradients, statistics: collectives.
      input: until a host has the examples; 0 where the loader is not measured.
    """

    compute: float
    memory: float
    chip: float
    gradients: float
    statistics: float
    input: float

    @property
    def roofline(self) -> float:
        """The lower bound: no step of this program is faster."""
        return max(self.compute, self.memory)

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.chip + self.gradients + self.statistics, self.input)

    @property
    def wall(self) -> str:
        """What it hits."""
        if self.input >= self.seconds:
            return "input"
        if self.gradients + self.statistics > self.chip:
            return "communication"
        return "compute" if self.compute >= self.memory else "memory bandwidth"


def on_chip(work: Work, chip: Chip) -> tuple[float, float]:
    """(seconds of arithmetic, seconds of memory traffic), both at peak."""
    return work.flops / chip.flops, work.bytes / chip.bandwidth


def hops(topology: Topology) -> int:
    """Links that an all-reduce passes one after the other."""
    return sum(2 * (side - 1) for side in topology.sides)


def step(work: Work, topology: Topology, *, loader: float = 0.0, group: Topology | None = None) -> Step:
    """The estimate for one step.

    Args:
      loader: examples/s that one host prepares; 0: not known, and no limit.
      group: chips that share statistics; None for all.
    """
    chip, chips = topology.chip, topology.chips
    compute, memory = on_chip(work, chip)
    traffic = 2.0 * (chips - 1) / chips * work.reduced / chip.ici
    return Step(
        compute,
        memory,
        max(compute, memory) / REACHED,
        traffic + work.reductions * hops(topology) * HOP,
        work.synced * hops(group or topology) * HOP,
        work.examples * chips / topology.hosts / loader if loader else 0.0,
    )


def scaling(
    work: Work, kind: str, loader: float = 0.0, scales: Sequence[int] = SCALES
) -> list[tuple[Topology, Step, float]]:
    """(topology, step, efficiency) for the same batch per chip on more and more chips of one kind.

    Efficiency is examples/s per chip over those of a single chip without communication.
    """
    alone = max(on_chip(work, of_chips(kind, 1).chip)) / REACHED
    found = []
    for chips in scales:
        topology = of_chips(kind, chips)
        one = step(work, topology, loader=loader)
        found.append((topology, one, alone / one.seconds))
    return found


@dataclasses.dataclass(frozen=True)
class Point:
    """A published run of ResNet-50 v1.5 at 224 pixels.

    Attributes:
      batch: examples per chip, from the log.
      span: examples that share BatchNorm statistics, from the log.
      bytes: what one chip reads and writes in a step of configs/classification/imagenet_resnet50.py at this batch, as
        libtpu 0.0.52 says (`python -m experiments.benchmarks.preflight --points`).
      published: examples/s per chip; over the whole run, evaluation included.
      source: under github.com/mlcommons/training_results_VERSION.
    """

    kind: str
    chips: int
    batch: int
    span: int
    bytes: float
    published: int
    source: str


MACS, GRADIENTS, NORMS = 4.089e9, 55.5e6, 53  # of ResNet-50: forward, bytes all-reduced, layers of BatchNorm
# Batch sizes and spans were read in the logs, but for the first row's (batch as in perf.md, span assumed).
POINTS = (
    Point("v4", 8, 256, 256, 69.1e9, 3296, "v0.7 Google/tpu-v4-16-TF"),
    Point("v4", 64, 128, 128, 35.0e9, 3258, "v1.0 Google/tpu-v4-128-TF"),
    Point("v4", 3456, 16, 64, 5.87e9, 2158, "v1.0 Google/tpu-v4-6912-TF"),
    Point("v4", 4096, 8, 64, 3.46e9, 1646, "v2.0 Google/cloud-tpu-v4-8192-TF"),
    Point("v3", 16, 256, 128, 68.4e9, 1766, "v0.7 Google/tpu-v3-32-TF2.0"),
    Point("v3", 4096, 16, 64, 6.93e9, 1016, "v0.7 Google/tpu-v3-8192-JAX"),
)


def point_topology(kind: str, chips: int) -> Topology:
    """A torus of so many chips; 3456 is 12x16x18, as no power of two is."""
    return Topology(kind, (12, 16, 18)) if chips == 3456 else of_chips(kind, chips)


def predicted(point: Point) -> float:
    """Examples/s per chip by the formula."""
    work = Work(point.batch, 6 * MACS * point.batch, point.bytes, GRADIENTS, 1, 2 * NORMS)
    group = of_chips(point.kind, max(point.span // point.batch, 1))
    return point.batch / step(work, point_topology(point.kind, point.chips), group=group).seconds


def checked() -> list[tuple[Point, float, float]]:
    """(point, examples/s per chip by the formula, relative error) of all POINTS."""
    return [(point, value := predicted(point), value / point.published - 1) for point in POINTS]
