"""ImageNet-1k: the rows that need a TPU. Nothing here was run; the table shows the commands.

Half a point of tolerance: two seeds of these recipes differ by about 0.1 (Goyal et al. 2017), two data pipelines by
more.
"""

from experiments.study import Row

QUESTION = "ImageNet: do ResNet-50, ConvNeXt-T and EfficientNet-B0 reach their papers' top-1 accuracy?"
CONFIGS = "configs/classification"

ROWS = [
    Row(
        "resnet50", f"{CONFIGS}/imagenet_resnet50.py", {}, 76.3, 0.5,
        "Goyal et al. 2017 (arXiv 1706.02677): 23.74 +- 0.09 % error with 90 epochs; from memory", 3, size="tpu",
    ),
    Row(
        "convnext_tiny", f"{CONFIGS}/imagenet_convnext_tiny.py", {}, 82.1, 0.5,
        "Liu et al. 2022 (arXiv 2201.03545), table 1; from memory", 3, size="tpu",
    ),
    Row(
        "efficientnet_b0", f"{CONFIGS}/imagenet_efficientnet_b0.py", {}, 77.1, 0.5,
        "Tan & Le 2019 (arXiv 1905.11946), table 2, with AutoAugment; from memory", 3, size="tpu",
    ),
]  # fmt: skip
