"""What an example holds: features by name, and the facts that tasks and models need before the first one is read."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ITEM_BYTES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "float32": 4}  # dtypes of features
IGNORE = 255  # in a mask: this pixel has no class and counts nowhere
SPACE = "dhw"  # axes that a mesh may split, convolutions run along and geometry moves
FREE_SIZE = 64  # stands for an axis that the data set leaves open, where a network is made without an example
LENGTH = "_length"  # the rows of a ragged feature `x` that are there: `x_length`, int32 [b]


@dataclasses.dataclass(frozen=True)
class Feature:
    """One entry of an example.

    Attributes:
      shape: of one example, without padding; None for an axis whose length differs between examples.
      dtype: NumPy's name of it.
      axes: one letter for each axis, separated by spaces: `t` time, `d h w` space, `c` channels, `n` boxes, points or
        tokens, `k` classes.
      pad: rows of the first axis in a batch, for a ragged feature; a batch then also holds `NAME_length` int32 [b].
        None for a feature whose examples are stacked as they are.
      fill: value of the padding.
    """

    shape: tuple[int | None, ...]
    dtype: str
    axes: str
    pad: int | None = None
    fill: int | float = 0

    def __post_init__(self) -> None:
        if len(self.axes.split()) != len(self.shape):
            raise ValueError(f"axes '{self.axes}' do not name each axis of {self.shape}")
        if self.pad is not None and (not self.shape or self.shape[0] is not None or self.pad < 1):
            raise ValueError(f"pad {self.pad} needs a first axis of open length, the shape is {self.shape}")
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"dtype '{self.dtype}' is none of {', '.join(ITEM_BYTES)}")

    @classmethod
    def image(cls, height: int | None = None, width: int | None = None, channels: int | None = 3) -> "Feature":
        """uint8 [h, w, c] in 0..255."""
        return cls((height, width, channels), "uint8", "h w c")

    @classmethod
    def volume(cls, *shape: int | None) -> "Feature":
        """float32 [d, h, w, c]."""
        return cls(shape, "float32", "d h w c")

    @classmethod
    def series(cls, steps: int | None = None, channels: int | None = 1) -> "Feature":
        """float32 [t, c]."""
        return cls((steps, channels), "float32", "t c")

    @classmethod
    def mask(cls, *space: int | None) -> "Feature":
        """uint8 [h, w] or [d, h, w]: the class of every pixel or voxel, IGNORE for none."""
        return cls(space, "uint8", " ".join(SPACE[-len(space) :]))

    @classmethod
    def labels(cls, steps: int | None) -> "Feature":
        """int32 [t]: the class of every step."""
        return cls((steps,), "int32", "t")

    @classmethod
    def numbers(cls, count: int) -> "Feature":
        """float32 [c]: numbers to predict."""
        return cls((count,), "float32", "c")

    @property
    def rank(self) -> int:
        """Number of spatial axes: 2 for images, 3 for volumes, 0 for series and tables."""
        return sum(axis in SPACE for axis in self.axes.split())

    @property
    def nbytes(self) -> int | None:
        """Bytes of one decoded example, None where sizes differ."""
        return None if None in self.shape else math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def sized(self, free: int = FREE_SIZE) -> tuple[int, ...]:
        """The shape in a batch, without the batch axis; open axes have `free` entries."""
        shape = [free if size is None else size for size in self.shape]
        return tuple(shape if self.pad is None else [self.pad, *shape[1:]])

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return dataclasses.asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Feature":
        """A feature out of a model card."""
        return cls(**{**found, "shape": tuple(found["shape"])})


LABEL = Feature((), "int32", "")  # the class of an example
SPACING = Feature((3,), "float32", "c")  # mm per voxel along d, h, w: what comes with each volume
KINDS = {"image": Feature.image, "volume": Feature.volume, "series": Feature.series}  # of the main input


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts of one data set.

    Attributes:
      name: its name in DATASETS.
      inputs: what networks may read, by name; the first is the main one.
      targets: what they learn to predict, by name; the first is the main one.
      class_names: by label, of masks the background first; empty for tasks without classes.
      vocabulary: what token ids stand for; empty without tokens.
      preparation: transforms, (name, options) each, that the data set applied to its files before it gave examples;
        prediction does the same.
    """

    name: str
    inputs: Mapping[str, Feature]
    targets: Mapping[str, Feature]
    class_names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    preparation: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs or not self.targets or self.inputs.keys() & self.targets.keys():
            raise ValueError(f"data set '{self.name}' needs inputs and targets of different names")
        for field in ("inputs", "targets"):  # frozen, so that an info can be a key
            object.__setattr__(self, field, MappingProxyType(dict(getattr(self, field))))

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.features.items()), self.class_names))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.name, dict(self.inputs), dict(self.targets), self.class_names, self.vocabulary, self.preparation)
        return DatasetInfo, parts

    @property
    def features(self) -> dict[str, Feature]:
        """Inputs and targets."""
        return {**self.inputs, **self.targets}

    @property
    def ragged(self) -> dict[str, Feature]:
        """The features that are padded in a batch."""
        return {name: feature for name, feature in self.features.items() if feature.pad is not None}

    @property
    def input_key(self) -> str:
        """Name of the main input."""
        return next(iter(self.inputs))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the main input."""
        return self.inputs[self.input_key].shape

    @property
    def target_key(self) -> str:
        """Name of the main target."""
        return next(iter(self.targets))

    @property
    def target_shape(self) -> tuple[int | None, ...]:
        """Shape of the main target."""
        return self.targets[self.target_key].shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def example_bytes(self) -> int | None:
        """Bytes of one decoded example, or None where shapes differ."""
        sizes = [feature.nbytes for feature in self.features.values()]
        return None if None in sizes else sum(size or 0 for size in sizes)

