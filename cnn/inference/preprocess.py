"""From raw inputs to examples and back, by the model card: `Preprocess.from_card(card)(raw) -> (example, Frame)`.

Predicting, exporting, serving and monitoring share this code; it imports no model and no JAX. Nothing is resized, cut
or filled in unless the card has it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num

from cnn.card import info_from_card, transforms_of
from cnn.errors import UserError, printable
from cnn.features import SPACE, SPACING, Feature
from cnn.files.volumes import spacing_of
from cnn.inference.readers import Raw
from cnn.transforms import Transform, build_transforms, maps
from cnn.transforms.apply import RANKS, padded, traced
from cnn.transforms.maps import Map

WHOLE = ("channels", "fill_gaps", "resample", "volume_spacing", "volume_intensity")  # transforms that cut nothing off
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Where the predictions about an example are in its raw input.

    Coordinates are continuous and in the order of the axes (y, x; z, y, x; t): pixel i covers [i, i + 1).

    Attributes:
      map: from the raw input to the example, see `cnn.transforms.maps`; None for inputs without space or time.
      path, name: of the raw input, see `Raw`.
      stem: begins the names of files that are written about it; no other input of a run has it.
      affine: of volumes, [4, 4] from (d, h, w) of a raw voxel's centre to mm.
      rate: samples per second of the raw input, None if unknown.
    """

    map: Map | None
    path: str = ""
    name: str = ""
    stem: str = "array"
    affine: Float[np.ndarray, "4 4"] | None = None
    rate: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels, voxels or steps of the raw input, without channels; () without space or time."""
        return self.map.before if self.map else ()

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """mm between raw voxels along d, h, w; None if unknown."""
        return None if self.affine is None else spacing_of(self.affine)

    def raw(self) -> "Frame":
        """The frame of predictions that are in the raw input's geometry already."""
        return dataclasses.replace(self, map=self.map and maps.identity(self.map.before))

    def mask_back(self, mask: Integer[np.ndarray, "*space"]) -> Integer[np.ndarray, "*raw"]:
        """Classes of the example's pixels or steps -> of the raw input's, each that of the nearest one.

        What the network did not see, because a crop cut it off, is IGNORE.
        """
        if self.map is None or self._is_identity():
            return mask
        return self.map.inverse().move_mask(mask)

    def _is_identity(self) -> bool:
        linear = self._map().linear
        return linear is not None and not linear.offset.any() and np.array_equal(linear.matrix, np.eye(len(self.shape)))

    def boxes_back(self, boxes: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "n s"]:
        """Boxes (low corner, high corner), clipped to the raw input."""
        return self._map().inverse().move_boxes(boxes, visible=0)[0]

    def points_back(self, points: Float[np.ndarray, "*n r"]) -> Float[np.ndarray, "*n r"]:
        """Points; they may lie outside of the raw input."""
        return self._map().backward(points)

    def times_back(self, steps: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Places along the example's time axis -> seconds of the raw input, or its steps if the rate is unknown."""
        times = self._map().backward(np.asarray(steps, np.float64)[:, None])[:, 0]
        return times / self.rate if self.rate else times

    def _map(self) -> Map:
        if self.map is None:
            raise ValueError(f"{self.name}: an input without space or time has no places")
        return self.map


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What turns raw inputs into examples; made by `from_card`.

    Attributes:
      inputs: what the network may read, the main input first; its name is the kind of reader that its files have.
      before: transforms that make of a raw input what the data set gave to training.
      transforms: those of evaluation.
      window: voxels along each axis that the network was trained on; None if it saw whole inputs.
      whole: inputs may have any size.
    """

    inputs: Mapping[str, Feature]
    before: tuple[Transform, ...]
    transforms: tuple[Transform, ...]
    window: tuple[int, ...] | None = None
    whole: bool = False

    @classmethod
    def from_card(cls, card: Mapping[str, Any], *, whole: bool = False) -> "Preprocess":
        """That of a network.

        Args:
          card: see `cnn.card.make_card`.
          whole: leave out what resizes images and what cuts off or pads, for prediction in tiles.
        """
        steps = card["preprocess"]
        before, after = (
            build_transforms([(name, options) for name, options in transforms_of(part) if not whole or name in WHOLE])
            for part in (steps["before"], card["eval_transforms"])
        )
        window = tuple(steps["window"]) if steps["window"] else None
        return cls(info_from_card(card).inputs, tuple(before), tuple(after), window, whole)

    @property
    def kind(self) -> str:
        """Name of the main input, a key of `cnn.inference.readers.READERS`."""
        return next(iter(self.inputs))

    def __call__(self, raw: Raw) -> tuple[Example, Frame]:
        """The example that the network takes, and the way back.

        Raises:
          UserError: the input is not what the network takes; one line that begins with its name.
        """
        try:
            example, first = _traced(self._given(raw.arrays), self.before)
            example, second = _traced(self._checked(example), self.transforms)
            ragged = {name: feature for name, feature in self.inputs.items() if feature.pad is not None}
            example = padded(example, ragged, "this input")
        except UserError as error:
            raise UserError(f"{printable(raw.name)}: {error}") from error
        done = maps.compose([first, second]) if first and second else None
        return example, Frame(done, raw.path, raw.name, affine=raw.affine, rate=raw.rate)

    def _given(self, arrays: Mapping[str, np.ndarray]) -> Example:
        """The entries that are inputs of the network, the main one with its axis of channels."""
        missing = [name for name, feature in self.inputs.items() if name not in arrays and feature != SPACING]
        if missing:
            raise UserError(f"lacks {', '.join(missing)}; this network takes {', '.join(self.inputs)}")
        found = {name: np.asarray(arrays[name]) for name in self.inputs if name in arrays}
        main, shape = found[self.kind], self.inputs[self.kind].shape
        if main.ndim == len(shape) - 1:
            main = main[..., None]
        if main.ndim != len(shape):
            raise UserError(f"shape {main.shape}, but this network takes {shape}")
        if not main.size:
            raise UserError(f"shape {main.shape}: holds no values")
        if self._image and main.dtype != np.uint8:
            raise UserError(f"images are uint8 in 0..255, got {main.dtype}")
        return found | {self.kind: main}

    @property
    def _image(self) -> bool:
        return self.kind == "image" and self.inputs["image"].dtype == "uint8"

    def _checked(self, example: Example) -> Example:
        """The inputs in the types of training.

        Raises:
          UserError: another size than that of all training examples (images may have any), or not finite.
        """
        for name, value in example.items():
            feature = self.inputs[name]
            free = SPACE if self.whole or self._image else ""
            axes = zip(feature.axes.split(), feature.shape, strict=True)
            wanted = [None if axis in free else size for axis, size in axes]
            if any(want not in (None, have) for want, have in zip(wanted, value.shape, strict=True)):
                raise UserError(f"shape {value.shape}, but this network takes {feature.shape}")
            if not np.isfinite(value).all():
                raise UserError(f"{name} holds values that are not finite")
            example[name] = value if value.dtype == np.uint8 else value.astype(feature.dtype, copy=False)
        return example


def _traced(example: Example, transforms: Sequence[Transform]) -> tuple[Example, Map | None]:
    """The example after the transforms, and the map of its main input."""
    if not any(key in example for key in RANKS):  # nothing in it has a place
        return example, None  # no transform takes it
    return traced(example, transforms)
