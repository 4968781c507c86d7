"""Accelerators as a forecast sees them, and topologies as the compiler names them: 'v5e:4x4'."""

import dataclasses
import math
import re

from cnn.errors import UserError, unknown

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      flops: peak multiply-adds x 2 per second, bfloat16.
      hbm: bytes that a program may use, as the compiler tells them (libtpu 0.0.52); all devices of the chip together.
      bandwidth: of that memory, bytes/s.
      ici: bytes/s that leave the chip, over all its links together.
      axes: of its torus.
      pod: the most chips that are wired to each other; more are joined by the slower network of the data center.
      devices: that JAX sees per chip; where there are two, each has half of everything.
      host: chips that one host's CPU feeds, in slices of several hosts.
    """

    flops: float
    hbm: float
    bandwidth: float
    ici: float
    axes: int
    pod: int
    devices: int = 1
    host: int = 4


# Peaks and bandwidths: cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x} (those of v5e read in a stored copy, v6e
# through perf.md; the others from memory). ICI: Jouppi et al. 2020 (Comm. ACM 63:7) for v2, v3, 4 links of 62 and 82
# GB/s; Jouppi et al. 2023 (arXiv 2304.01433) for v4, 6 of 50; half of the two-way figure of the pages for the others.
CHIPS = {
    "v2": Chip(46e12, 2 * 7.48 * GIB, 700e9, 248e9, 2, 256, 2),
    "v3": Chip(123e12, 2 * 15.48 * GIB, 900e9, 328e9, 2, 1024, 2),
    "v4": Chip(275e12, 30.75 * GIB, 1228e9, 300e9, 3, 4096),
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9, 2, 256),
    "v5p": Chip(459e12, 95.73 * GIB, 2765e9, 600e9, 3, 8960),
    "v6e": Chip(918e12, 31.24 * GIB, 1640e9, 400e9, 2, 256),
    "tpu7x": Chip(2307e12, 2 * 94.74 * GIB, 7380e9, 600e9, 3, 9216, 2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips wired to a torus.

    Attributes:
      kind: a key of CHIPS.
      sides: chips along each axis.
    """

    kind: str
    sides: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.sides))}"

    @property
    def chip(self) -> Chip:
        """Of this kind."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """In all."""
        return math.prod(self.sides)

    @property
    def devices(self) -> int:
        """That JAX sees."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines that feed it."""
        return max(self.chips // self.chip.host, 1)


EXAMPLES = {2: "4x4", 3: "2x2x1"}  # of sides, by the number of axes


def topology(text: str) -> Topology:
    """Reads 'KIND:AxB' or 'KIND:AxBxC'.

    Raises:
      UserError: no such kind, or another number of axes than the kind has.
    """
    kind, _, sides = text.partition(":")
    if kind not in CHIPS:
        raise unknown("kind of TPU in --topology", kind, CHIPS)
    axes = CHIPS[kind].axes
    if not (found := read_sides(sides, axes)):
        raise UserError(f"--topology '{text}': a {kind} has {axes} axes; write for instance {kind}:{EXAMPLES[axes]}")
    return Topology(kind, found)


def read_sides(text: str, axes: int) -> tuple[int, ...]:
    """'4x4' -> (4, 4); () where these are not `axes` numbers from 1 to 999."""
    if not re.fullmatch("x".join([r"[1-9]\d{0,2}"] * axes), text):
        return ()
    return tuple(int(side) for side in text.split("x"))


def of_chips(kind: str, chips: int) -> Topology:
    """The most cubic topology of `chips`, a power of two, for instance 4x4 or 2x2x4."""
    sides = [1] * CHIPS[kind].axes
    for _ in range(int(math.log2(chips))):
        sides[sides.index(min(sides))] *= 2
    return Topology(kind, tuple(sorted(sides, reverse=len(sides) == 3)))
