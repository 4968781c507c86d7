"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) and 3-D U-Net (Cicek et al. 2016, arXiv 1606.06650).

One family for series, pictures and volumes of any size. Both papers let the borders go; here convolutions keep the
size, as in nearly all later forms, and every pixel gets its answer.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.layers.blocks import ConvNorm, Stage
from cnn.layers.conv import Conv, ConvTranspose, Sizes, per_axis
from cnn.layers.drop import Dropout
from cnn.layers.pool import max_pool
from cnn.layers.resample import depth_to_space, resize, space_to_depth
from cnn.models.dense import Classifier, DensePrediction
from cnn.shapes import Outputs

UPS = ("transposed", "linear")


class Up(nn.Module):
    """A coarse map in the size of a finer one, behind whose channels it is put.

    Attributes:
      width: channels that the coarse map gets.
      strides: from the finer map to the coarse one.
      up: one of UPS.
    """

    width: int
    strides: Sizes
    up: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b *coarse c"], fine: Float[Array, "b *fine f"]) -> Float[Array, "b *fine o"]:
        # Each result sees one place of the coarse map, whatever the window: signals keep their size.
        window = tuple(range(x.ndim - 2))
        inputs, outputs = (-2, -1) if self.up == "linear" else (-1, -2)
        init = nn.initializers.lecun_normal(inputs, outputs, window)
        how = {"use_bias": True, "dtype": self.dtype, "kernel_init": init, "name": "conv"}
        if self.up == "linear":  # the two commute, and so the convolution has few pixels
            x = resize(Conv(self.width, 1, **how)(x), fine.shape[1:-1])
        else:
            x = ConvTranspose(self.width, self.strides, self.strides, **how)(x)
            # The way down keeps a last window that is partly filled: what comes up is at least as large as `fine`.
            x = x[(slice(None), *map(slice, fine.shape[1:-1]))]
        return jnp.concatenate([fine, x], axis=-1)


class EncoderDecoder(DensePrediction):
    """What all U-Nets have: levels of the way down, which are `stage1` .. `stageN`, and one less on the way up.

    Attributes:
      widths: channels of each level.
      strides: from each level to the next one, a number or one per axis; () is 2 everywhere. Thick slices want 1
        along their axis at first.
      kernel_sizes: of each level's convolutions, a number or one per axis; () is 3 everywhere.
      patch: the input's pixels per pixel of the finest level, along each axis: patches of them become channels
        (space to depth), and the classifier answers for each of them (sub-pixel convolution, Shi et al. 2016, arXiv
        1609.05158). Convolutions on few channels are slow everywhere, most of all on a TPU.
      up: how the way up gets finer: 'transposed' (a transposed convolution whose window is its stride) or 'linear'
        (a 1x1 convolution and interpolation).
      dropout: behind the coarsest level, as in the paper of 2015.
      aux: deep supervision (Lee et al. 2014, arXiv 1409.5185): while training, each level of the way up but the
        finest gives logits too, interpolated to the input's pixels: `aux1` at half the resolution, `aux2` at a
        quarter, ...
      remat: levels (1, 2, ...) that are recomputed, on both ways.
    """

    widths: Sequence[int] = (64, 128, 256, 512, 1024)
    strides: Sequence[Sizes] = ()
    kernel_sizes: Sequence[Sizes] = ()
    patch: int = 1
    up: str = "transposed"
    up_convs: ClassVar[int] = 2  # per level of the way up

    TINY: ClassVar[Mapping[str, Any]] = {"widths": (8, 8, 16, 16), "aux": True}

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if levels < 2 or min(self.widths) < 1:
            raise UserError(f"widths {tuple(self.widths)} must be two or more positive numbers, one per level")
        if self.strides and len(self.strides) != levels - 1:
            raise UserError(f"strides has {len(self.strides)} entries; between {levels} levels there are {levels - 1}")
        if self.kernel_sizes and len(self.kernel_sizes) != levels:
            raise UserError(f"kernel_sizes has {len(self.kernel_sizes)} entries; there are {levels} levels")
        if self.up not in UPS:
            raise unknown("up", self.up, UPS)
        if self.aux and levels < 3:
            raise UserError(f"aux needs a level between the finest and the coarsest; widths has {levels}")
        if self.patch < 1:
            raise UserError(f"patch is {self.patch}; it must be at least 1")
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Input pixels per feature pixel, one number per level: along the axis where they are most."""
        rank = max((len(stride) for stride in self.strides if not isinstance(stride, int)), default=1)
        total, found = [self.patch] * rank, [self.patch]
        for level in range(1, len(self.widths)):
            step = per_axis(self.stride(level), rank, "strides")
            total = [pixels * more for pixels, more in zip(total, step, strict=True)]
            found.append(max(total))
        return tuple(found)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per level."""
        return tuple(self.widths)

    def stride(self, level: int) -> Sizes:
        """From this level (1, 2, ...) to the next one."""
        return self.strides[level - 1] if self.strides else 2

    def conv(self, level: int) -> partial:
        """Makes a ConvNorm of this level, given its channels."""
        size = self.kernel_sizes[level - 1] if self.kernel_sizes else 3
        return partial(
            ConvNorm, kernel_size=size, norm=self.make_norm(), use_bias=self.norm == "none", dtype=self.dtype
        )

    def up_width(self, level: int) -> int:
        """Channels that come up to this level."""
        return self.widths[level - 1]

    def down(self, x: Float[Array, "b *space c"], level: int, train: bool) -> Float[Array, "b *out o"]:
        """One level of the way down, as the module `stage{level}`; it strides, but for the first."""
        raise NotImplementedError  # every family says it

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        space, out = x.shape[1:-1], {}
        x = space_to_depth(x, self.patch)
        for level in range(1, len(self.widths) + 1):
            x = out[f"stage{level}"] = self.down(x, level, train)
        x = Dropout(self.dropout, name="dropout")(x, train=train)
        for level in range(len(self.widths) - 1, 0, -1):
            up = Up(self.up_width(level), self.stride(level), self.up, self.dtype, name=f"up{level}")
            x = up(x, out[f"stage{level}"])
            convs = [partial(self.conv(level), self.widths[level - 1])] * self.up_convs
            x = self.block(Stage, level)(convs, "conv", name=f"decoder{level}")(x, train)
            if level > 1 and self.makes_aux(train):
                aux = Classifier(self.num_classes, name=f"aux{level - 1}")(x)
                out |= {f"aux{level - 1}": resize(aux, space)} if train else {}
        logits = Classifier(self.num_classes * self.patch ** len(space), name="classifier")(x)
        out["logits"] = depth_to_space(logits, self.patch, space)
        return out


class UNet(EncoderDecoder):
    """Two convolutions per level, max pooling between them. There is no residual branch: `drop_path` does nothing.

    Attributes:
      narrow_first: as in the paper of 2016, the first convolution of a level on the way down has half its channels,
        and what comes up keeps those of the level that it comes from.
      norm: 'none' is the paper of 2015.
    """

    narrow_first: bool = False

    def up_width(self, level: int) -> int:
        """Channels that come up to this level."""
        return self.widths[level] if self.narrow_first else self.widths[level - 1]

    def down(self, x: Float[Array, "b *space c"], level: int, train: bool) -> Float[Array, "b *out o"]:
        """One level of the way down."""
        width, conv = self.widths[level - 1], self.conv(level)
        if level > 1:
            x = max_pool(x, self.stride(level - 1), ceil=True)
        convs = [partial(conv, width // 2 if self.narrow_first else width), partial(conv, width)]
        return self.block(Stage, level)(convs, "conv", name=f"stage{level}")(x, train)


unet = partial(UNet)
unet3d = partial(UNet, widths=(64, 128, 256, 512), narrow_first=True)
