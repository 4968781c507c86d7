"""What a compiled program says about itself: arrays with their tiles, what is alive when, collectives.

The text is that of `Compiled.as_text()`, whose entry computation is in the order of execution. All sizes are of one
device. On a TPU the two fastest axes of an array are padded to tiles, T(8,128) for instance; S(1) and the like mark
memory on the chip, which is no HBM.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "bf16": 16, "f16": 16, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
ALIASES = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier", "after-all")  # no memory of their own
SMALL = 64 * 1024  # bytes
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_OPERAND = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in memory.

    Attributes:
      shape: its axes, logical order.
      order: of the axes, the fastest first.
      tile: of the fastest axes, slowest first; () where nothing is padded.
      item: bits of an element.
      fast: in memory on the chip.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    item: int
    fast: bool = False

    @property
    def bytes(self) -> int:
        """Without padding."""
        return math.prod(self.shape) * self.item // 8

    @property
    def padded(self) -> int:
        """Bytes that it takes."""
        sizes = dict(enumerate(self.shape))
        for axis, step in zip(self.order, reversed(self.tile), strict=False):
            sizes[axis] = -(-sizes[axis] // step) * step
        return math.prod(sizes.values()) * self.item // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the entry computation.

    Attributes:
      arrays: what it makes, one per element of a tuple.
      operands: names of instructions.
      where: the `op_name` of JAX, for instance 'jit(train_step)/jvp(ResNet)/stem/conv1/cnn_conv'; '' if none.
      index: of a get-tuple-element, else 0.
    """

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    where: str
    index: int = 0

    @property
    def layer(self) -> str:
        """Path of the module that it is in: 'stem/conv1'; '' outside of the network."""
        if "jvp(" not in self.where:
            return ""
        parts = self.where.split("/")[:-1]  # the last is the primitive; 'jit(relu)', 'ResNet.stages' are no modules
        return "/".join(part for part in parts if not re.search(r"[(.]|^checkpoint$|_computation$", part))

    @property
    def forward(self) -> bool:
        """Made by the forward pass, and not by the one that computes it again."""
        return "jvp(" in self.where and "transpose(" not in self.where


def arrays(text: str) -> tuple[Array, ...]:
    """All arrays of a type, 'f32[8,128]{1,0:T(8,128)}' or a tuple of such."""
    found = []
    for kind, axes, order, how in _SHAPE.findall(text):
        shape = tuple(int(n) for n in axes.split(",") if n)
        tile = re.search(r"T\(([\d,]+)\)", how)
        found.append(
            Array(
                shape,
                tuple(int(n) for n in order.split(",") if n),
                tuple(int(n) for n in tile[1].split(",")) if tile else (),
                BITS.get(kind) or int(re.sub(r"\D", "", kind) or 0),
                "S(" in how and "S(0)" not in how,
            )
        )
    return tuple(found)


def entry(text: str) -> list[Instruction]:
    """The entry computation, in order."""
    return list(_instructions(text[text.index("\nENTRY ") :].splitlines()[2:]))


def _instructions(lines: list[str]) -> Iterator[Instruction]:
    for line in lines:
        if line.startswith("}"):
            return
        match = _LINE.match(line)
        if not match:
            continue
        name, kind, op, rest = match.groups()
        inside, depth = rest, 1
        for place, letter in enumerate(rest):
            depth += (letter == "(") - (letter == ")")
            if not depth:
                inside = rest[:place]
                break
        where = re.search(r'op_name="([^"]*)"', rest)
        index = re.search(r"\bindex=(\d+)", rest) if op == "get-tuple-element" else None
        yield Instruction(
            name,
            op,
            arrays(kind),
            tuple(_OPERAND.findall(inside)),
            where[1] if where else "",
            int(index[1]) if index else 0,
        )


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Memory that one instruction takes for one array."""

    maker: Instruction
    array: Array
    index: int = 0  # of the maker's results


def at_peak(instructions: list[Instruction]) -> list[Buffer]:
    """What is alive when most is, arguments and on-chip memory left out: made before or then, used then or later.

    It is what the order of execution implies. The compiler's own number is a little larger (fragmentation, loops'
    insides) or smaller (arrays that are written over their operands).
    """
    held: dict[str, list[set[Buffer]]] = {}  # by instruction, one set per element of its tuple
    last: dict[Buffer, int] = {}
    born: dict[Buffer, int] = {}
    for now, one in enumerate(instructions):
        inputs = [held.get(name, []) for name in one.operands]
        if one.op == "get-tuple-element":
            held[one.name] = [inputs[0][one.index] if one.index < len(inputs[0]) else set()]
        elif one.op == "tuple":
            held[one.name] = [set().union(*elements) for elements in inputs]
        elif one.op in ALIASES or one.op.endswith("-done"):
            held[one.name] = [set().union(*(e for elements in inputs for e in elements))] * len(one.arrays)
        elif one.op in ("parameter", "constant"):
            held[one.name] = [set() for _ in one.arrays]
        else:
            made = [Buffer(one, array, index) for index, array in enumerate(one.arrays)]
            held[one.name] = [{buffer} for buffer in made]
            born.update(dict.fromkeys(made, now))
            last.update(dict.fromkeys(made, now))
        for elements in inputs if one.op not in ALIASES else ():
            for buffer in set().union(*elements):
                last[buffer] = now
    if instructions:  # results stay to the end
        for buffer in set().union(*held.get(instructions[-1].name, [])):
            last[buffer] = len(instructions)
    change = [0] * (len(instructions) + 2)
    for buffer, start in born.items():
        if not buffer.array.fast:
            change[start] += buffer.array.padded
            change[last[buffer] + 1] -= buffer.array.padded
    total, most, when = 0, -1, 0
    for now, difference in enumerate(change):
        total += difference
        if total > most:
            most, when = total, now
    return [b for b, start in born.items() if start <= when <= last[b] and not b.array.fast]


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind: how often in a step, and bytes of their results in all.

    Attributes:
      small: each below SMALL, which takes as long as its latency. BatchNorm's statistics mostly; the others are
        gradients mostly.
    """

    op: str
    small: bool
    count: int
    bytes: int


def collectives(text: str) -> list[Collective]:
    """Those of a whole program; one in a loop counts once."""
    found: dict[tuple[str, bool], list[int]] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match[3].removesuffix("-start") in COLLECTIVES:
            made = arrays(match[2])
            size = sum(array.bytes for array in made)
            if match[3] in ("all-gather-start", "collective-permute-start"):
                size //= 2  # the operand is in the tuple too
            found.setdefault((match[3].removesuffix("-start"), size < SMALL), []).append(size)
    return [Collective(*kind, len(sizes), sum(sizes)) for kind, sizes in sorted(found.items())]
