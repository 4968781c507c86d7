"""The models by name. This module imports no JAX; building one does."""

from collections.abc import Mapping
from typing import Any

from cnn.tables import Entry, build

MODELS: dict[str, Entry] = {
    "resnet18": Entry(
        "cnn.models.resnet:resnet18", "ResNet-18 for 224 px pictures (He et al. 2015)"
    ),
    "resnet34": Entry(
        "cnn.models.resnet:resnet34", "ResNet-34 for 224 px pictures (He et al. 2015)"
    ),
    "resnet50": Entry(
        "cnn.models.resnet:resnet50", "ResNet-50 v1.5: stride in the 3x3 convolution"
    ),
    "resnet101": Entry("cnn.models.resnet:resnet101", "ResNet-101 v1.5"),
    "resnet152": Entry("cnn.models.resnet:resnet152", "ResNet-152 v1.5"),
    "resnet18_cifar": Entry(
        "cnn.models.resnet:resnet18_cifar", "ResNet-18, 3x3 stem without pooling, 32 px"
    ),
    "resnet_small": Entry(
        "cnn.models.resnet:resnet_small", "three thin stages for 8 to 32 px pictures"
    ),
    "wrn_16_4": Entry(
        "cnn.models.wide_resnet:wrn_16_4", "Wide ResNet 16-4 (Zagoruyko & Komodakis 2016)"
    ),
    "wrn_28_10": Entry("cnn.models.wide_resnet:wrn_28_10", "Wide ResNet 28-10"),
    "wrn_40_4": Entry("cnn.models.wide_resnet:wrn_40_4", "Wide ResNet 40-4"),
    "fashion_cnn": Entry(
        "cnn.models.small_cnn:fashion_cnn", "under 30k parameters, 28 px, fast on a CPU"
    ),
    "mnist1d_cnn": Entry(
        "cnn.models.mnist1d:mnist1d_cnn", "1-D CNN of MNIST-1D (Greydanus & Kobak 2024)"
    ),
    "mnist1d_mlp": Entry("cnn.models.mnist1d:mnist1d_mlp", "residual MLP of MNIST-1D"),
    "mnist1d_logistic": Entry(
        "cnn.models.mnist1d:mnist1d_logistic", "logistic regression of MNIST-1D"
    ),
    "logistic": Entry("cnn.models.mlp:logistic", "logistic regression on the flattened input"),
    "mlp": Entry(
        "cnn.models.mlp:mlp", "multi-layer perceptron on the flattened input: depth x width"
    ),
    "residual_mlp": Entry("cnn.models.mlp:residual_mlp", "MLP whose hidden layers are residual"),
}


def build_model(name: str, options: Mapping[str, Any]) -> Any:
    """The model called `name`, a Linen module.

    Its contract: `model.apply(variables, x, train=...)` of `x` float32 [b, *space, c] returns a dict with
    `stage1` .. `stageN` (features, channels last), `pre_logits` [b, c] float32 and `logits` [b, k] float32,
    which is absent when `num_classes` is 0. `feature_strides` and `feature_channels` have one number per
    stage. Randomness comes from the collection 'dropout', running statistics live in 'batch_stats'.

    Raises:
      UserError: unknown name or option, or an option's value that the model refuses.
    """
    return build("model", MODELS, name, options)
