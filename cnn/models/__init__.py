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
        resnet26=224,
        resnet34=224,
        resnet50=224,
        resnet50_gn=224,
        resnet101=224,
        resnet152=224,
        resnet200=224,
        test_resnet=160,
    ),
    **family(
        "resnet",
        "ResNet-C, -D, -T, -S: deep stem (He et al. 2018, arXiv 1812.01187)",
        resnet10t=176,
        resnet14t=176,
        resnet18d=224,
        resnet26d=224,
        resnet26t=256,
        resnet34d=224,
        resnet50c=224,
        resnet50d=224,
        resnet50s=224,
        resnet50t=224,
        resnet101d=256,
        resnet152d=256,
        resnet200d=256,
    ),
    **family(
        "resnet",
        "ResNeXt (Xie et al. 2016, arXiv 1611.05431)",
        resnext50_32x4d=224,
        resnext50d_32x4d=224,
        resnext101_32x4d=224,
        resnext101_32x8d=224,
        resnext101_64x4d=224,
    ),
    **family(
        "resnet",
        "Wide ResNet (Zagoruyko & Komodakis 2016, arXiv 1605.07146)",
        wide_resnet50_2=224,
        wide_resnet101_2=224,
    ),
    **family(
        "resnet",
        "SE-ResNet, SENet (Hu et al. 2018, arXiv 1709.01507)",
        seresnet18=224,
        seresnet34=224,
        seresnet50=224,
        seresnet101=224,
        seresnet152=224,
        seresnext50_32x4d=224,
        seresnext101_32x4d=224,
        legacy_seresnet50=224,
        legacy_seresnet101=224,
        legacy_seresnet152=224,
        senet154=224,
    ),
    **family(
        "resnet",
        "ECA-ResNet (Wang et al. 2020, arXiv 1910.03151)",
        ecaresnet50d=224,
        ecaresnet50t=256,
        ecaresnet101d=224,
    ),
    **family("resnet", "ResNet for small pictures", 10, resnet18_cifar=32, resnet_small=(8, 8, 1)),
    **family(
        "resnetv2",
        "ResNet v2, pre-activation (He et al. 2016, arXiv 1603.05027)",
        resnetv2_18=224,
        resnetv2_18d=224,
        resnetv2_34=224,
        resnetv2_34d=224,
        resnetv2_50=224,
        resnetv2_50d=224,
        resnetv2_50d_gn=224,
        resnetv2_50t=224,
        resnetv2_101=224,
        resnetv2_101d=224,
        resnetv2_152=224,
        resnetv2_152d=224,
    ),
    **family(
        "resnetv2",
        "BiT: GroupNorm, standardised kernels (Kolesnikov et al. 2020, arXiv 1912.11370)",
        resnetv2_50x1_bit=224,
        resnetv2_50x3_bit=448,
        resnetv2_101x1_bit=448,
        resnetv2_101x3_bit=448,
        resnetv2_152x2_bit=448,
        resnetv2_152x4_bit=480,
    ),
    **family(
        "repvgg",
        "RepVGG (Ding et al. 2021, arXiv 2101.03697)",
        repvgg_a0=224,
        repvgg_a1=224,
        repvgg_a2=224,
        repvgg_b0=224,
        repvgg_b1=224,
        repvgg_b1g4=224,
        repvgg_b2=224,
        repvgg_b2g4=224,
        repvgg_b3=224,
        repvgg_b3g4=224,
        repvgg_d2se=320,
    ),
    **family(
        "nfnet",
        "NFNet (Brock et al. 2021, arXiv 2102.06171)",
        nfnet_f0=192,
        nfnet_f1=224,
        nfnet_f2=256,
        nfnet_f3=320,
        nfnet_f4=384,
        nfnet_f5=416,
        nfnet_f6=448,
        nfnet_f7=480,
        dm_nfnet_f0=192,
        dm_nfnet_f1=224,
        dm_nfnet_f2=256,
        dm_nfnet_f3=320,
        dm_nfnet_f4=384,
        dm_nfnet_f5=416,
        dm_nfnet_f6=448,
        nfnet_l0=224,
        eca_nfnet_l0=224,
        eca_nfnet_l1=256,
        eca_nfnet_l2=320,
        eca_nfnet_l3=352,
    ),
    **family(
        "nfnet",
        "NF-ResNet (Brock et al. 2021, arXiv 2101.08692)",
        nf_resnet26=224,
        nf_resnet50=256,
        nf_resnet101=224,
        nf_seresnet50=224,
        nf_ecaresnet50=224,
    ),
    **family(
        "wide_resnet",
        "Wide ResNet for small pictures (Zagoruyko & Komodakis 2016, arXiv 1605.07146)",
        10,
        wrn_16_4=32,
        wrn_28_10=32,
        wrn_40_4=32,
    ),
    **family(
        "efficientnet",
        "EfficientNet (Tan & Le 2019, arXiv 1905.11946)",
        efficientnet_b0=224,
        efficientnet_b1=240,
        efficientnet_b2=260,
        efficientnet_b3=300,
        efficientnet_b4=380,
        efficientnet_b5=456,
        efficientnet_b6=528,
        efficientnet_b7=600,
        tf_efficientnet_b0=224,
        tf_efficientnet_b1=240,
        tf_efficientnet_b2=260,
        tf_efficientnet_b3=300,
        tf_efficientnet_b4=380,
        tf_efficientnet_b5=456,
        tf_efficientnet_b6=528,
        tf_efficientnet_b7=600,
    ),
    **family(
        "efficientnet",
        "EfficientNet-Lite: no squeeze-and-excitation, ReLU6 (Tan & Le 2019, arXiv 1905.11946)",
        efficientnet_lite0=224,
        efficientnet_lite1=240,
        efficientnet_lite2=260,
        efficientnet_lite3=300,
        efficientnet_lite4=380,
        tf_efficientnet_lite0=224,
        tf_efficientnet_lite1=240,
        tf_efficientnet_lite2=260,
        tf_efficientnet_lite3=300,
        tf_efficientnet_lite4=380,
    ),
    **family(
        "efficientnet",
        "EfficientNet v2 (Tan & Le 2021, arXiv 2104.00298)",
        efficientnet_v2_s=384,
        efficientnet_v2_m=480,
        efficientnet_v2_l=480,
        tf_efficientnetv2_s=300,
        tf_efficientnetv2_m=384,
        tf_efficientnetv2_l=384,
        tf_efficientnetv2_b0=192,
        tf_efficientnetv2_b1=192,
        tf_efficientnetv2_b2=208,
        tf_efficientnetv2_b3=240,
        efficientnetv2_rw_t=224,
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
