"""The networks that are compared with PyTorch's, by the name of their file in tests/models/parity."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      model: our name in MODELS.
      library: 'timm' or 'torchvision'.
      foreign: the network's name there.
      size: side of the picture, pixels; small, so that the test is quick.
      train: also compare the running statistics after one forward pass in training mode.
      options: for the foreign constructor.
    """

    model: str
    library: str
    foreign: str
    size: int = 64
    train: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


ROWS = {
    "resnet18": Row("resnet18", "torchvision", "resnet18", train=True),
    "resnet50": Row("resnet50", "timm", "resnet50"),
}
