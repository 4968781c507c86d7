"""What a data set is: the facts that models and tasks need before the first example is read."""

import dataclasses
import math

INPUT_KEYS = ("image", "series")
TARGETS = {"label": "int32", "labels": "int32", "target": "float32"}  # type of each target key


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts of one data set.

    Attributes:
      name: its name in DATASETS.
      input_key: 'image' (uint8 `h w c`) or 'series' (float32 `t c`).
      input_shape: shape of one input; None where it differs between examples.
      class_names: by label; empty for tasks without classes.
      target_key: 'label' (one class, int32), 'labels' (a class per step, int32 `t`) or 'target' (numbers, float32).
      target_shape: of one target; () for a single class.
    """

    name: str
    input_key: str
    input_shape: tuple[int | None, ...]
    class_names: tuple[str, ...]
    target_key: str = "label"
    target_shape: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def example_bytes(self) -> int | None:
        """Bytes of one decoded input, or None where shapes differ."""
        if None in self.input_shape:
            return None
        return math.prod(self.input_shape) * (4 if self.input_key == "series" else 1)
