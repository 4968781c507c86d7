"""The models by name. This module imports no JAX; building one does."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn.tables import Entry, build


@dataclasses.dataclass(frozen=True)
class ModelEntry(Entry):
    """A line of MODELS, with what the published numbers of the network are for.

    Attributes:
      input: shape [*space, c] of one example.
      classes: of the head.
    """

    input: tuple[int, ...]
    classes: int


def family(
    file: str, about: str, classes: int = 1000, **variants: int | tuple[int, ...]
) -> dict[str, ModelEntry]:
    """The entries of one file `cnn/models/{file}.py`: each variant is a callable of that name in it.

    Args:
      about: the network and its paper, for `cnn list models`.
      variants: name = the side of its square pictures in pixels, or the whole input shape.
    """
    return {
        name: ModelEntry(
            f"cnn.models.{file}:{name}", about, size if isinstance(size, tuple) else (size, size, 3), classes
        )
        for name, size in variants.items()
    }


MODELS: dict[str, ModelEntry] = {
    **family(
        "resnet",
        "ResNet v1.5 (He et al. 2015, arXiv 1512.03385)",
        resnet18=224,
        resnet34=224,
        resnet50=224,
        resnet101=224,
        resnet152=224,
    ),
    **family("resnet", "ResNet for small pictures", 10, resnet18_cifar=32, resnet_small=(8, 8, 1)),
    **family(
        "wide_resnet",
        "Wide ResNet for small pictures (Zagoruyko & Komodakis 2016, arXiv 1605.07146)",
        10,
        wrn_16_4=32,
        wrn_28_10=32,
        wrn_40_4=32,
    ),
    **family("small_cnn", "under 30k parameters, fast on a CPU", 10, fashion_cnn=(28, 28, 1)),
    **family(
        "mnist1d",
        "the networks of MNIST-1D (Greydanus & Kobak 2024, arXiv 2011.14439)",
        10,
        mnist1d_cnn=(40, 1),
        mnist1d_mlp=(40, 1),
        mnist1d_logistic=(40, 1),
    ),
    **family(
        "mlp",
        "dense baseline on the flattened input",
        10,
        logistic=(28, 28, 1),
        mlp=(28, 28, 1),
        residual_mlp=(28, 28, 1),
    ),
    **family(
        "series",
        "series: FCN, ResNet, MLP (Wang et al. 2017, arXiv 1611.06455), InceptionTime (arXiv 1909.04939)",
        2,
        series_fcn=(150, 1),
        series_resnet=(150, 1),
        series_inception_time=(150, 1),
        series_mlp=(150, 1),
    ),
    **family(
        "tcn", "temporal convolutional network (Bai et al. 2018, arXiv 1803.01271)", 1, tcn=(600, 2)
    ),
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
