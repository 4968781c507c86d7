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
      every: of logits of pixels, this row and column of each so many is kept.
    """

    model: str
    library: str
    foreign: str
    size: int = 64
    train: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    damp: float = 1.0
    every: int = 4


PIXELS, AUX = {"weights_backbone": None, "aux_loss": True}, {"aux": True}
ROWS = {
    "resnet18": Row("resnet18", "torchvision", "resnet18", train=True),
    "resnet50": Row("resnet50", "timm", "resnet50"),
    "alexnet": Row("alexnet", "torchvision", "alexnet"),
    "vgg11": Row("vgg11", "timm", "vgg11"),
    "vgg16_bn": Row("vgg16_bn", "torchvision", "vgg16_bn", train=True),
    "googlenet": Row(
        "googlenet", "torchvision", "googlenet", options={"aux_logits": False, "init_weights": False}
    ),
    "inception_v3": Row("inception_v3", "timm", "inception_v3", size=96),
    "squeezenet1_0": Row("squeezenet1_0", "torchvision", "squeezenet1_0"),
    "squeezenet1_1": Row("squeezenet1_1", "torchvision", "squeezenet1_1"),
    "densenet121": Row("densenet121", "torchvision", "densenet121"),
    "densenet161": Row("densenet161", "timm", "densenet161"),
    "darknet53": Row("darknet53", "timm", "darknet53"),
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
    "convnext_atto": Row("convnext_atto", "timm", "convnext_atto"),
    "convnext_tiny": Row("convnext_tiny", "torchvision", "convnext_tiny"),
    "convnextv2_nano": Row("convnextv2_nano", "timm", "convnextv2_nano"),
    "convmixer_768_32": Row("convmixer_768_32", "timm", "convmixer_768_32"),
    "convmixer_1024_20_ks9_p14": Row("convmixer_1024_20_ks9_p14", "timm", "convmixer_1024_20_ks9_p14"),
    "regnetx_002": Row("regnetx_002", "timm", "regnetx_002", train=True),
    "regnety_008_tv": Row("regnety_008_tv", "torchvision", "regnet_y_800mf"),
    "regnety_032": Row("regnety_032", "timm", "regnety_032"),
    "resnet50d": Row("resnet50d", "timm", "resnet50d"),
    "seresnet50": Row("seresnet50", "timm", "seresnet50"),
    "resnext50_32x4d": Row("resnext50_32x4d", "torchvision", "resnext50_32x4d"),
    "resnetv2_50": Row("resnetv2_50", "timm", "resnetv2_50"),
    "resnetv2_50x1_bit": Row("resnetv2_50x1_bit", "timm", "resnetv2_50x1_bit"),
    "repvgg_a0": Row("repvgg_a0", "timm", "repvgg_a0"),
    "nf_resnet50": Row("nf_resnet50", "timm", "nf_resnet50"),
    "nfnet_f0": Row("nfnet_f0", "timm", "nfnet_f0", damp=0.5),
    # Pixels; sizes that no stride divides.
    "fcn_resnet50": Row("fcn_resnet50", "torchvision", "fcn_resnet50", size=75, options=PIXELS, ours=AUX),
    "deeplabv3_resnet50": Row(
        "deeplabv3_resnet50", "torchvision", "deeplabv3_resnet50", size=75, options=PIXELS, ours=AUX
    ),
    "deeplabv3_mobilenet_v3_large": Row(
        "deeplabv3_mobilenet_v3_large",
        "torchvision",
        "deeplabv3_mobilenet_v3_large",
        size=75,
        options=PIXELS,
        ours=AUX,
    ),
    "lraspp_mobilenet_v3_large": Row(
        "lraspp_mobilenet_v3_large",
        "torchvision",
        "lraspp_mobilenet_v3_large",
        size=75,
        options={"weights_backbone": None},
    ),
}
