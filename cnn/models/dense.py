"""Networks that answer at every pixel: what they have in common, and the form that is a head on a backbone.

A backbone is any network of MODELS that is a `Backbone`. A head sees nothing of it but the stages `stage1 .. stageN`,
`feature_strides` and `feature_channels`, so each head runs on each backbone, on series, pictures and volumes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from cnn.errors import UserError
from cnn.layers.blocks import ConvNorm
from cnn.layers.conv import Conv
from cnn.layers.drop import Dropout
from cnn.layers.resample import resize
from cnn.models import MODELS
from cnn.models.backbone import OUTPUT_STRIDES, Backbone, Network
from cnn.shapes import Outputs
from cnn.tables import resolve, with_options

# Of all heads in the tests' small copies.
TINY_BACKBONE = {"name": "resnet18", "stage_sizes": (1, 1, 1, 1), "width": 8}


class DensePrediction(Network):
    """Base of all networks that answer at every pixel; `build_model` says what calling one returns.

    Attributes:
      num_classes: channels of the logits, at least 1.
      aux: while training, logits from further down too, whose loss trains the layers below.
    """

    aux: bool = False

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UserError(f"num_classes is {self.num_classes}; a network that answers at every pixel needs 1 or more")
        super().__post_init__()

    def makes_aux(self, train: bool) -> bool:
        """Whether the auxiliary logits are computed.

        Parameters are made without training, so that every use of the network has the same.
        """
        return self.aux and (train or self.is_initializing())


class Classifier(Conv):
    """A 1x1 convolution with bias, in float32 whatever comes in.

    Its weights start by the number of channels: a U-Net ends in so few that small ones need thousands of Adam's steps
    to grow.
    """

    kernel_size: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()


class FCNHead(nn.Module):
    """A 3x3 convolution to a quarter of the channels, and the classifier: torchvision's head of FCN, and of `aux`."""

    num_classes: int
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *space k"]:
        x = ConvNorm(x.shape[-1] // 4, 3, norm=self.norm, dtype=self.dtype, name="conv")(x, train)
        x = Dropout(self.dropout, name="dropout")(x, train=train)
        return Classifier(self.num_classes, name="classifier")(x)


class HeadOnBackbone(DensePrediction):
    """A backbone, a head on its stages, and its logits interpolated to the input's pixels.

    Attributes:
      backbone: `name` in MODELS, and that network's options; `bn`, `dtype`, `remat`, `output_stride` and a
        `drop_path` that is not 0 are those of the whole network, unless they are given here too.
      output_stride: the backbone's: 8, 16 or 32, later strides become dilation.
      dropout: in front of the classifier.
      norm, norm_epsilon: of the head; the backbone has its own.
      remat: stages of the backbone; True is the head too.
      aux: an `FCNHead` on stage `aux_stage`; its logits are `aux`, also at the input's pixels.
    """

    backbone: Mapping[str, Any] = FrozenDict({"name": "resnet50"})
    output_stride: int = 8
    dropout: float = 0.1
    aux_stage: int = 3

    TINY: ClassVar[Mapping[str, Any]] = {"backbone": TINY_BACKBONE, "aux": True}

    def __post_init__(self) -> None:
        if self.output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output_stride {self.output_stride} is not 8, 16 or 32")
        super().__post_init__()
        stages = len(self.feature_strides)
        if self.aux and not 1 <= self.aux_stage <= stages:
            raise UserError(f"aux_stage {self.aux_stage} is not one of the backbone's {stages} stages")

    def make_backbone(self, **how: Any) -> Backbone:
        """The backbone, without anything behind its last stage.

        Raises:
          UserError: it has no name or an unknown one, it is no backbone, or it does not take its options.
        """
        options = dict(self.backbone)
        name = options.pop("name", "")
        if not name:
            raise UserError("the backbone has no name; set model.backbone.name, see: cnn list models")
        shared = ("bn", "dtype", "remat", "output_stride", *(["drop_path"] if self.drop_path else []))
        options = {key: getattr(self, key) for key in shared} | options | {"features_only": True}
        target = resolve("backbone", MODELS, name)
        family = getattr(target, "func", target)
        if not (isinstance(family, type) and issubclass(family, Backbone)):
            raise UserError(f"backbone '{name}' has no stages that keep their space; see: cnn list models")
        return with_options("backbone", MODELS, name, options)(**how)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage of the backbone."""
        return self.make_backbone(parent=None).feature_strides

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage of the backbone."""
        return self.make_backbone(parent=None).feature_channels

    def stage_at(self, stride: int) -> int:
        """The first stage at this stride.

        Raises:
          UserError: the backbone has none.
        """
        strides = self.feature_strides
        if stride not in strides:
            raise UserError(f"the head needs a stage at stride {stride}; the backbone's are {strides}")
        return strides.index(stride) + 1

    def head(self, module: type[nn.Module], **how: Any) -> nn.Module:
        """`module` by the name `head`, with what all heads take."""
        whole = nn.remat(module, static_argnums=(2,)) if self.remat is True else module
        common = {"num_classes": self.num_classes, "norm": self.make_norm(), "dtype": self.dtype}
        return whole(**common, **how, name="head")

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *coarse k"]:
        """The logits at some resolution, from the features of all stages."""
        raise NotImplementedError  # every head says it

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        out = self.make_backbone(name="backbone")(x, train=train)
        logits = self.answer([out[f"stage{stage}"] for stage in range(1, len(out) + 1)], train)
        if self.makes_aux(train):
            head = partial(FCNHead, self.num_classes, self.dropout, self.make_norm(), self.dtype, name="aux")
            aux = resize(head()(out[f"stage{self.aux_stage}"], train), x.shape[1:-1])
            out |= {"aux": aux} if train else {}
        out["logits"] = resize(logits, x.shape[1:-1])
        return out
