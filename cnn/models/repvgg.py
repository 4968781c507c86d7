"""RepVGG (Ding et al. 2021, arXiv 2101.03697): trained with three branches per layer, run as one 3x3 convolution.

    fused = reparameterize(variables)                        # of repvgg_a0 as it was trained
    build_model("repvgg_a0", {"deploy": True}).apply(fused, x, train=False)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.attention import SqueezeExcite
from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.conv import Conv
from cnn.layers.drop import StochasticDepth
from cnn.layers.norm import over_channels
from cnn.models.backbone import Backbone, Resolution
from cnn.shapes import Outputs

ATTENTION = ("none", "se")


class RepVGGBlock(nn.Module):
    """3x3 + 1x1 + identity, each normalised, then ReLU; with `deploy` one 3x3 with bias, then ReLU.

    Attributes:
      shrinks: the plain network strides here, which `strides` says only without dilation.
    """

    width: int
    shrinks: bool
    strides: int
    dilation: int
    groups: int
    attention: str
    attention_reduction: int
    deploy: bool
    norm: Callable[..., nn.Module]
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], train: bool) -> Float[Array, "b *out o"]:
        how = {"dilation": self.dilation, "groups": self.groups, "dtype": self.dtype}
        if self.deploy:
            y = Conv(self.width, 3, self.strides, use_bias=True, name="conv", **how)(x)
        else:
            how |= {"act": "none", "norm": self.norm}
            y = ConvNorm(self.width, 3, self.strides, name="conv3x3", **how)(x, train)
            y = y + ConvNorm(self.width, 1, self.strides, name="conv1x1", **how)(x, train)
            if x.shape[-1] == self.width and not self.shrinks:
                y = StochasticDepth(self.drop_path, name="drop_path")(y, train=train)
                y = y + self.norm(name="identity")(x, train=train)
        if self.attention == "se":
            y = SqueezeExcite(max(1, self.width // self.attention_reduction), dtype=self.dtype, name="se")(y)
        return nn.relu(y)


class RepVGG(Backbone):
    """The family; every stage strides, behind a stem that is a block too.

    Attributes:
      stage_sizes: blocks per stage.
      width, last_width: factors of the channels 64, 128, 256 and of 512 (the paper's a and b).
      groups: of every second convolution of a stage.
      attention: 'none' or 'se', behind the sum of each block; `attention_reduction`: its channels are so many
        times fewer inside.
      deploy: the fused form, for variables that `reparameterize` made.
    """

    stage_sizes: Sequence[int] = (4, 6, 16, 1)
    width: float = 1.0
    last_width: float = 2.5
    groups: int = 1
    attention: str = "none"
    attention_reduction: int = 16
    deploy: bool = False

    TINY: ClassVar = {
        "stage_sizes": (1, 2, 1),
        "width": 0.125,
        "last_width": 0.03125,
        "groups": 2,
        "attention": "se",
        "attention_reduction": 1,
    }

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise unknown("attention", self.attention, ATTENTION)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per stage."""
        return self.limited([4 * 2**stage for stage in range(len(self.stage_sizes))])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        last = len(self.stage_sizes) - 1
        factors = [self.width] * last + [self.last_width]
        return tuple(int(64 * 2**stage * factor) for stage, factor in enumerate(factors))

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        common = {"attention": self.attention, "attention_reduction": self.attention_reduction}
        common |= {"deploy": self.deploy, "norm": self.make_norm(), "dtype": self.dtype}
        resolution = Resolution(self.output_stride)
        rates = iter(self.drop_path_rates(sum(self.stage_sizes)))

        def block(stage: int, width: int, stride: int, groups: int, drop_path: float) -> Callable[..., nn.Module]:
            how = {"shrinks": stride > 1, "groups": groups, "drop_path": drop_path} | common
            how["strides"], how["dilation"] = resolution.step(stride)
            return partial(self.block(RepVGGBlock, stage), width=width, **how)

        x = block(0, min(64, int(64 * self.width)), 2, 1, 0.0)(name="stem")(x, train)
        out: Outputs = {}
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.feature_channels, strict=True), start=1):
            blocks = [
                block(stage, width, 1 if index else 2, self.groups if index % 2 else 1, next(rates))
                for index in range(size)
            ]
            x = out[f"stage{stage}"] = Stage(blocks, name=f"stage{stage}")(x, train)
        return self.classify(out, x, train)


def reparameterize(variables: Mapping[str, Any], epsilon: float = 1e-5) -> dict[str, Any]:
    """The variables of the deployed network that answers as the trained one does in evaluation.

    Args:
      variables: {'params', 'batch_stats'} of a RepVGG with deploy=False; epsilon: its `norm_epsilon`.

    Raises:
      UserError: there are no running statistics, so that the normalisation depends on the input.
    """
    if "batch_stats" not in variables:
        raise UserError("only norm='batch' can be re-parameterised: these variables have no batch_stats")
    params, stats = jax.tree.map(jnp.asarray, (variables["params"], variables["batch_stats"]))
    return {"params": _fused(params, stats, epsilon)}


def _fused(params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """The same tree with each block's branches as one convolution `conv`."""
    if "conv3x3" not in params:
        return {
            name: _fused(child, stats.get(name, {}), epsilon) if isinstance(child, Mapping) else child
            for name, child in params.items()
        }
    branches = {
        name: _scaled(params[name]["conv"]["kernel"], params[name]["bn"], stats[name]["bn"], epsilon)
        for name in ("conv3x3", "conv1x1")
    }
    (kernel, bias), (point, shift) = branches.values()
    centre = tuple(size // 2 for size in kernel.shape[:-2])
    kernel, bias = kernel.at[centre].add(point[(0,) * len(centre)]), bias + shift
    if "identity" in params:
        inputs, outputs = kernel.shape[-2:]
        # Output o of its group sees the input of the same place in the group.
        same = jnp.tile(jnp.eye(inputs), (1, outputs // inputs))
        same, shift = _scaled(same, params["identity"], stats["identity"], epsilon)
        kernel, bias = kernel.at[centre].add(same), bias + shift
    rest = {name: child for name, child in params.items() if name not in (*branches, "identity")}
    return {"conv": {"kernel": kernel, "bias": bias}, **rest}


def _scaled(
    kernel: Float[Array, "*window i o"], bn: Mapping[str, Array], stats: Mapping[str, Array], epsilon: float
) -> tuple[Float[Array, "*window i o"], Float[Array, " o"]]:
    """Kernel and bias that do what the convolution and the BatchNorm behind it do."""
    scale = bn["scale"] * lax.rsqrt(stats["var"] + epsilon)
    return kernel * over_channels(scale, kernel.ndim), bn["bias"] - stats["mean"] * scale


A, G4 = {"stage_sizes": (2, 4, 14, 1)}, {"groups": 4}

repvgg_a0 = partial(RepVGG, width=0.75, last_width=2.5, **A)
repvgg_a1 = partial(RepVGG, width=1.0, last_width=2.5, **A)
repvgg_a2 = partial(RepVGG, width=1.5, last_width=2.75, **A)
repvgg_b0 = partial(RepVGG, width=1.0, last_width=2.5)
repvgg_b1 = partial(RepVGG, width=2.0, last_width=4.0)
repvgg_b1g4 = partial(repvgg_b1, **G4)
repvgg_b2 = partial(RepVGG, width=2.5, last_width=5.0)
repvgg_b2g4 = partial(repvgg_b2, **G4)
repvgg_b3 = partial(RepVGG, width=3.0, last_width=5.0)
repvgg_b3g4 = partial(repvgg_b3, **G4)
repvgg_d2se = partial(repvgg_b2, stage_sizes=(8, 14, 24, 1), attention="se")
