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
      gives: 'classes', one answer per example, or 'pixels', one for each of its pixels.
    """

    input: tuple[int, ...]
    classes: int
    gives: str = "classes"


TASK_OF = {"classes": "classification", "pixels": "segmentation"}  # the task that a network is published for


def family(
    file: str, about: str, classes: int = 1000, gives: str = "classes", **variants: int | tuple[int, ...]
) -> dict[str, ModelEntry]:
    """The entries of one file `cnn/models/{file}.py`: each variant is a callable of that name in it.

    Args:
      about: the network and its paper, for `cnn list models`.
      variants: name = the side of its square pictures in pixels, or the whole input shape.
    """
    return {
        name: ModelEntry(
            f"cnn.models.{file}:{name}", about, size if isinstance(size, tuple) else (size, size, 3), classes, gives
        )
        for name, size in variants.items()
    }


MODELS: dict[str, ModelEntry] = {
    **family(
        "resnet", "ResNet v1.5 (He et al. 2015, arXiv 1512.03385)",
        resnet18=224, resnet26=224, resnet34=224, resnet50=224, resnet50_gn=224, resnet101=224,
        resnet152=224, resnet200=224, test_resnet=160,
    ),  # fmt: skip
    **family(
        "resnet", "ResNet-C, -D, -T, -S: deep stem (He et al. 2018, arXiv 1812.01187)",
        resnet10t=176, resnet14t=176, resnet18d=224, resnet26d=224, resnet26t=256, resnet34d=224,
        resnet50c=224, resnet50d=224, resnet50s=224, resnet50t=224, resnet101d=256, resnet152d=256,
        resnet200d=256,
    ),  # fmt: skip
    **family(
        "resnet", "ResNeXt (Xie et al. 2016, arXiv 1611.05431)",
        resnext50_32x4d=224, resnext50d_32x4d=224, resnext101_32x4d=224, resnext101_32x8d=224,
        resnext101_64x4d=224,
    ),  # fmt: skip
    **family(
        "resnet", "Wide ResNet (Zagoruyko & Komodakis 2016, arXiv 1605.07146)",
        wide_resnet50_2=224, wide_resnet101_2=224,
    ),  # fmt: skip
    **family(
        "resnet", "SE-ResNet, SENet (Hu et al. 2018, arXiv 1709.01507)",
        seresnet18=224, seresnet34=224, seresnet50=224, seresnet101=224, seresnet152=224,
        seresnext50_32x4d=224, seresnext101_32x4d=224, legacy_seresnet50=224,
        legacy_seresnet101=224, legacy_seresnet152=224, senet154=224,
    ),  # fmt: skip
    **family(
        "resnet", "ECA-ResNet (Wang et al. 2020, arXiv 1910.03151)",
        ecaresnet50d=224, ecaresnet50t=256, ecaresnet101d=224,
    ),  # fmt: skip
    **family("resnet", "ResNet for small pictures", 10, resnet18_cifar=32, resnet_small=(8, 8, 1)),
    **family(
        "resnetv2", "ResNet v2, pre-activation (He et al. 2016, arXiv 1603.05027)",
        resnetv2_18=224, resnetv2_18d=224, resnetv2_34=224, resnetv2_34d=224, resnetv2_50=224,
        resnetv2_50d=224, resnetv2_50d_gn=224, resnetv2_50t=224, resnetv2_101=224,
        resnetv2_101d=224, resnetv2_152=224, resnetv2_152d=224,
    ),  # fmt: skip
    **family(
        "resnetv2", "BiT: GroupNorm, standardised kernels (Kolesnikov et al. 2020, arXiv 1912.11370)",
        resnetv2_50x1_bit=224, resnetv2_50x3_bit=448, resnetv2_101x1_bit=448,
        resnetv2_101x3_bit=448, resnetv2_152x2_bit=448, resnetv2_152x4_bit=480,
    ),  # fmt: skip
    **family(
        "repvgg", "RepVGG (Ding et al. 2021, arXiv 2101.03697)",
        repvgg_a0=224, repvgg_a1=224, repvgg_a2=224, repvgg_b0=224, repvgg_b1=224, repvgg_b1g4=224,
        repvgg_b2=224, repvgg_b2g4=224, repvgg_b3=224, repvgg_b3g4=224, repvgg_d2se=320,
    ),  # fmt: skip
    **family(
        "nfnet", "NFNet (Brock et al. 2021, arXiv 2102.06171)",
        nfnet_f0=192, nfnet_f1=224, nfnet_f2=256, nfnet_f3=320, nfnet_f4=384, nfnet_f5=416,
        nfnet_f6=448, nfnet_f7=480, dm_nfnet_f0=192, dm_nfnet_f1=224, dm_nfnet_f2=256,
        dm_nfnet_f3=320, dm_nfnet_f4=384, dm_nfnet_f5=416, dm_nfnet_f6=448, nfnet_l0=224,
        eca_nfnet_l0=224, eca_nfnet_l1=256, eca_nfnet_l2=320, eca_nfnet_l3=352,
    ),  # fmt: skip
    **family(
        "nfnet", "NF-ResNet (Brock et al. 2021, arXiv 2101.08692)",
        nf_resnet26=224, nf_resnet50=256, nf_resnet101=224, nf_seresnet50=224, nf_ecaresnet50=224,
    ),  # fmt: skip
    **family(
        "wide_resnet", "Wide ResNet for small pictures (Zagoruyko & Komodakis 2016, arXiv 1605.07146)", 10,
        wrn_16_4=32, wrn_28_10=32, wrn_40_4=32,
    ),  # fmt: skip
    **family(
        "convnext", "ConvNeXt (Liu et al. 2022, arXiv 2201.03545)",
        convnext_atto=224, convnext_femto=224, convnext_pico=224, convnext_nano=224,
        convnext_tiny=224, convnext_small=224, convnext_base=224, convnext_large=224,
        convnext_xlarge=224, convnext_xxlarge=256, test_convnext=160,
    ),  # fmt: skip
    **family(
        "convnext", "ConvNeXt v2 (Woo et al. 2023, arXiv 2301.00808)",
        convnextv2_atto=224, convnextv2_femto=224, convnextv2_pico=224, convnextv2_nano=224,
        convnextv2_tiny=224, convnextv2_small=224, convnextv2_base=224, convnextv2_large=224,
        convnextv2_huge=224,
    ),  # fmt: skip
    **family(
        "convmixer", "ConvMixer (Trockman & Kolter 2022, arXiv 2201.09792)",
        convmixer_768_32=224, convmixer_1536_20=224, convmixer_1024_20_ks9_p14=224,
    ),  # fmt: skip
    **family(
        "regnet", "RegNetX (Radosavovic et al. 2020, arXiv 2003.13678)",
        regnetx_002=224, regnetx_004=224, regnetx_004_tv=224, regnetx_006=224, regnetx_008=224,
        regnetx_016=224, regnetx_032=224, regnetx_040=224, regnetx_064=224, regnetx_080=224,
        regnetx_120=224, regnetx_160=224, regnetx_320=224,
    ),  # fmt: skip
    **family(
        "regnet", "RegNetY, with squeeze-and-excitation (Radosavovic et al. 2020, arXiv 2003.13678)",
        regnety_002=224, regnety_004=224, regnety_006=224, regnety_008=224, regnety_008_tv=224,
        regnety_016=224, regnety_032=224, regnety_040=224, regnety_064=224, regnety_080=224,
        regnety_080_tv=224, regnety_120=224, regnety_160=224, regnety_320=224, regnety_640=224,
        regnety_1280=224, regnety_2560=224,
    ),  # fmt: skip
    **family(
        "lenet", "LeNet-5 (LeCun et al. 1998, Proceedings of the IEEE 86)", 10,
        lenet5=(32, 32, 1),
    ),  # fmt: skip
    **family("alexnet", "AlexNet (Krizhevsky 2014, arXiv 1404.5997)", alexnet=224),
    **family(
        "vgg", "VGG (Simonyan & Zisserman 2014, arXiv 1409.1556)",
        vgg11=224, vgg13=224, vgg16=224, vgg19=224, vgg11_bn=224, vgg13_bn=224, vgg16_bn=224,
        vgg19_bn=224,
    ),  # fmt: skip
    **family("googlenet", "GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842)", googlenet=224),
    **family(
        "inception_v3", "Inception v3 (Szegedy et al. 2015, arXiv 1512.00567)",
        inception_v3=299,
    ),  # fmt: skip
    **family(
        "squeezenet", "SqueezeNet (Iandola et al. 2016, arXiv 1602.07360)",
        squeezenet1_0=224, squeezenet1_1=224,
    ),  # fmt: skip
    **family(
        "densenet", "DenseNet (Huang et al. 2016, arXiv 1608.06993)",
        densenet121=224, densenet161=224, densenet169=224, densenet201=224, densenet264=224,
    ),  # fmt: skip
    **family(
        "densenet", "DenseNet for small pictures (Huang et al. 2016, arXiv 1608.06993)", 10,
        densenet_40_12=32, densenet_bc_100_12=32,
    ),  # fmt: skip
    **family(
        "darknet", "Darknet-53 (Redmon & Farhadi 2018, arXiv 1804.02767)",
        darknet53=256, darknet21=256, darknet17=256,
    ),  # fmt: skip
    **family(
        "efficientnet", "EfficientNet (Tan & Le 2019, arXiv 1905.11946)",
        efficientnet_b0=224, efficientnet_b1=240, efficientnet_b2=260, efficientnet_b3=300,
        efficientnet_b4=380, efficientnet_b5=456, efficientnet_b6=528, efficientnet_b7=600,
        tf_efficientnet_b0=224, tf_efficientnet_b1=240, tf_efficientnet_b2=260,
        tf_efficientnet_b3=300, tf_efficientnet_b4=380, tf_efficientnet_b5=456,
        tf_efficientnet_b6=528, tf_efficientnet_b7=600,
    ),  # fmt: skip
    **family(
        "efficientnet", "EfficientNet-Lite: no squeeze-and-excitation, ReLU6 (Tan & Le 2019, arXiv 1905.11946)",
        efficientnet_lite0=224, efficientnet_lite1=240, efficientnet_lite2=260,
        efficientnet_lite3=300, efficientnet_lite4=380, tf_efficientnet_lite0=224,
        tf_efficientnet_lite1=240, tf_efficientnet_lite2=260, tf_efficientnet_lite3=300,
        tf_efficientnet_lite4=380,
    ),  # fmt: skip
    **family(
        "efficientnet", "EfficientNet v2 (Tan & Le 2021, arXiv 2104.00298)",
        efficientnet_v2_s=384, efficientnet_v2_m=480, efficientnet_v2_l=480,
        tf_efficientnetv2_s=300, tf_efficientnetv2_m=384, tf_efficientnetv2_l=384,
        tf_efficientnetv2_b0=192, tf_efficientnetv2_b1=192, tf_efficientnetv2_b2=208,
        tf_efficientnetv2_b3=240, efficientnetv2_rw_t=224,
    ),  # fmt: skip
    **family(
        "mobilenet_v1", "MobileNet v1 (Howard et al. 2017, arXiv 1704.04861)",
        mobilenetv1_100=224, mobilenetv1_125=224, mobilenetv1_075=224, mobilenetv1_050=224,
        mobilenetv1_025=224,
    ),  # fmt: skip
    **family(
        "mobilenet_v2", "MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381)",
        mobilenetv2_035=224, mobilenetv2_050=224, mobilenetv2_075=224, mobilenetv2_100=224,
        mobilenetv2_140=224, mobilenetv2_110d=224, mobilenetv2_120d=224,
    ),  # fmt: skip
    **family(
        "mobilenet_v3", "MobileNet v3 (Howard et al. 2019, arXiv 1905.02244)",
        mobilenetv3_large_100=224, mobilenetv3_large_075=224, mobilenetv3_small_100=224,
        mobilenetv3_small_075=224, mobilenetv3_small_050=224, tf_mobilenetv3_large_100=224,
        tf_mobilenetv3_large_075=224, tf_mobilenetv3_small_100=224, tf_mobilenetv3_small_075=224,
    ),  # fmt: skip
    **family(
        "mnasnet", "MNASNet-B1 (Tan et al. 2019, arXiv 1807.11626)",
        mnasnet_050=224, mnasnet_075=224, mnasnet_100=224, mnasnet_130=224, mnasnet_140=224,
    ),  # fmt: skip
    **family(
        "shufflenet_v2", "ShuffleNet v2 (Ma et al. 2018, arXiv 1807.11164)",
        shufflenet_v2_x0_5=224, shufflenet_v2_x1_0=224, shufflenet_v2_x1_5=224,
        shufflenet_v2_x2_0=224,
    ),  # fmt: skip
    **family("small_cnn", "under 30k parameters, fast on a CPU", 10, fashion_cnn=(28, 28, 1)),
    **family(
        "mnist1d", "the networks of MNIST-1D (Greydanus & Kobak 2024, arXiv 2011.14439)", 10,
        mnist1d_cnn=(40, 1), mnist1d_mlp=(40, 1), mnist1d_logistic=(40, 1),
    ),  # fmt: skip
    **family(
        "mlp", "dense baseline on the flattened input", 10,
        logistic=(28, 28, 1), mlp=(28, 28, 1), residual_mlp=(28, 28, 1),
    ),  # fmt: skip
    **family(
        "series",
        "series: FCN, ResNet, MLP (Wang et al. 2017, arXiv 1611.06455), InceptionTime (arXiv 1909.04939)",
        2, series_fcn=(150, 1), series_resnet=(150, 1), series_inception_time=(150, 1), series_mlp=(150, 1),
    ),  # fmt: skip
    **family("tcn", "TCN, temporal (Bai et al. 2018, arXiv 1803.01271)", 1, tcn=(600, 2)),
    **family(
        "fcn", "pixels: FCN (Long et al. 2014, arXiv 1411.4038)", 21, "pixels",
        fcn_resnet50=520, fcn_resnet101=520,
    ),  # fmt: skip
    **family(
        "deeplab", "pixels: DeepLab v3 (Chen et al. 2017, arXiv 1706.05587)", 21, "pixels",
        deeplabv3_resnet50=520, deeplabv3_resnet101=520, deeplabv3_mobilenet_v3_large=520,
    ),  # fmt: skip
    **family(
        "deeplab", "pixels: DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611)", 21, "pixels",
        deeplabv3plus_resnet50=520,
    ),  # fmt: skip
    **family(
        "lraspp", "pixels: LR-ASPP (Howard et al. 2019, arXiv 1905.02244)", 21, "pixels",
        lraspp_mobilenet_v3_large=520,
    ),  # fmt: skip
    **family(
        "semantic_fpn", "pixels: semantic FPN (Kirillov et al. 2019, arXiv 1901.02446)", 21, "pixels",
        semantic_fpn_resnet50=520,
    ),  # fmt: skip
    **family(
        "unet", "pixels: U-Net (Ronneberger et al. 2015, arXiv 1505.04597)", 2, "pixels",
        unet=512,
    ),  # fmt: skip
    **family(
        "unet", "pixels: 3-D U-Net (Cicek et al. 2016, arXiv 1606.06650)", 2, "pixels",
        unet3d=(128, 128, 128, 1),
    ),  # fmt: skip
    **family(
        "residual_unet", "pixels: U-Net with nnU-Net's residual encoder (Isensee et al. 2024, arXiv 2404.09556)",
        2, "pixels", residual_unet=(128, 128, 128, 1),
    ),  # fmt: skip
}


def build_model(name: str, options: Mapping[str, Any]) -> Any:
    """The model called `name`, a Linen module.

    Its contract: `model.apply(variables, x, train=...)` of `x` float32 [b, *space, c] returns a dict with
    `stage1` .. `stageN` (features, channels last), `pre_logits` [b, c] float32 and `logits` [b, k] float32,
    which is absent when `num_classes` is 0. `feature_strides` and `feature_channels` have one number per
    stage. A network that gives pixels returns the stages and `logits` [b, *space, k] float32, one for every pixel of
    `x`; while training with `aux` also `aux`, `aux1`, ... of the same shape. Randomness comes from the collection
    'dropout', running statistics live in 'batch_stats'.

    Raises:
      UserError: unknown name or option, or an option's value that the model refuses.
    """
    return build("model", MODELS, name, options)
