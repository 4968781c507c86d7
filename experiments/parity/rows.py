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
      options: for the foreign constructor; `ours` for our model, where the library's network is not quite ours.
      damp: of `formula.tensor`; below 1 where many residual blocks make the signal grow until float32 is chaotic
        (EfficientNet v2-S: PyTorch in float32 and in float64 differ by half of the largest logit).
    """

    model: str
    library: str
    foreign: str
    size: int = 64
    train: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    damp: float = 1.0


ROWS = {
    "resnet18": Row("resnet18", "torchvision", "resnet18", train=True),
    "resnet50": Row("resnet50", "timm", "resnet50"),
    "efficientnet_b0": Row("efficientnet_b0", "timm", "efficientnet_b0"),
    "efficientnet_b1": Row("efficientnet_b1", "torchvision", "efficientnet_b1"),
    # An odd size too: there 'SAME' pads as everybody does, and elsewhere not.
    "tf_efficientnet_lite0": Row("tf_efficientnet_lite0", "timm", "tf_efficientnet_lite0", size=75),
    "efficientnet_v2_s": Row("efficientnet_v2_s", "torchvision", "efficientnet_v2_s", damp=0.5),
    "tf_efficientnetv2_b0": Row("tf_efficientnetv2_b0", "timm", "tf_efficientnetv2_b0"),
    "mobilenetv1_100": Row("mobilenetv1_100", "timm", "mobilenetv1_100"),
    "mobilenetv2_050": Row("mobilenetv2_050", "timm", "mobilenetv2_050"),
    "mobilenetv2_100": Row("mobilenetv2_100", "torchvision", "mobilenet_v2"),
    "mobilenetv3_large_100": Row(
        "mobilenetv3_large_100", "torchvision", "mobilenet_v3_large", ours={"norm_epsilon": 1e-3}
    ),
    "mobilenetv3_small_100": Row("mobilenetv3_small_100", "timm", "mobilenetv3_small_100", train=True),
    "mnasnet_050": Row("mnasnet_050", "torchvision", "mnasnet0_5"),
    "mnasnet_100": Row("mnasnet_100", "timm", "mnasnet_100"),
    "shufflenet_v2_x0_5": Row("shufflenet_v2_x0_5", "torchvision", "shufflenet_v2_x0_5", train=True),
}
