"""Dense baselines: logistic regression and multi-layer perceptrons on the flattened input."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.layers.conv import fan_in_uniform
from cnn.layers.drop import Dropout, check_rate
from cnn.shapes import Outputs


class MLP(nn.Module):
    """`depth` hidden layers of `width` with ReLU; depth 0 is logistic regression.

    Hidden layer i is `stage{i}` [b, c]. There is no space left in it, which `feature_strides` says with 0.

    Attributes:
      widths: of each hidden layer, in place of `depth` times `width`.
      residual: from the second hidden layer on h + relu(W h + b).
      initializer: 'he' (kernels He et al. 2015, biases 0) or 'torch' (PyTorch's default for both).
    """

    num_classes: int = 0
    width: int = 256
    depth: int = 2
    widths: tuple[int, ...] = ()
    residual: bool = False
    dropout: float = 0.0
    initializer: str = "he"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.initializer not in ("he", "torch"):
            raise ValueError(f"initializer '{self.initializer}' is not 'he' or 'torch'")
        if self.depth < 0 or self.width < 1:
            raise ValueError(f"depth {self.depth} and width {self.width} must be positive")
        if self.residual and len(set(self.widths)) > 1:
            raise ValueError(f"residual layers have one width, not {tuple(self.widths)}")
        check_rate("dropout", self.dropout)
        super().__post_init__()

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """0 for every stage: no spatial axis is left."""
        return (0,) * len(self.feature_channels)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels, one number per stage."""
        return tuple(self.widths) or (self.width,) * self.depth

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Outputs:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(self.dtype)
        out: Outputs = {}
        for layer, width in enumerate(self.feature_channels, start=1):
            y = nn.relu(self._dense(x, width, f"stage{layer}", self.dtype))
            y = Dropout(self.dropout, name=f"dropout{layer}")(y, train=train)
            x = x + y if self.residual and layer > 1 else y
            out[f"stage{layer}"] = x
        out["pre_logits"] = x.astype(jnp.float32)
        if self.num_classes:
            out["logits"] = self._dense(out["pre_logits"], self.num_classes, "head", jnp.float32)
        return out

    def _dense(self, x: Array, features: int, name: str, dtype: Any) -> Array:
        if self.initializer == "torch":
            kernel_init = bias_init = fan_in_uniform(x.shape[-1])
        else:
            kernel_init, bias_init = nn.initializers.he_normal(), nn.initializers.zeros
        return nn.Dense(
            features, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name
        )(x)


logistic = partial(MLP, depth=0)
mlp = partial(MLP, depth=2, width=256)
residual_mlp = partial(MLP, depth=4, width=256, residual=True)
