"""What a data set is: the facts that models and tasks need before the first example is read."""

import dataclasses
import math

INPUT_KEYS = ("image", "volume", "series")
# Type of each target key.
TARGETS = {"label": "int32", "labels": "int32", "target": "float32", "mask": "uint8"}
IGNORE = 255  # in a mask: this pixel has no class and counts nowhere


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts of one data set.

    Attributes:
      name: its name in DATASETS.
      input_key: 'image' (uint8 `h w c`), 'volume' (float32 `d h w c`) or 'series' (float32 `t c`).
      input_shape: shape of one input; None where it differs between examples.
      class_names: by label, of masks the background first; empty for tasks without classes.
      target_key: 'label' (one class, int32), 'labels' (a class per step, int32 `t`), 'target' (numbers, float32)
        or 'mask' (a class per pixel, uint8 `*space`; IGNORE for none).
      target_shape: of one target; () for a single class, the input's without its channels for a mask.
    """

    name: str
    input_key: str
    input_shape: tuple[int | None, ...]
    class_names: tuple[str, ...]
    target_key: str = "label"
    target_shape: tuple[int | None, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def example_bytes(self) -> int | None:
        """Bytes of one decoded input and its mask, or None where shapes differ."""
        if None in self.input_shape:
            return None
        mask = math.prod(self.target_shape) if self.target_key == "mask" else 0
        return math.prod(self.input_shape) * (1 if self.input_key == "image" else 4) + mask
