"""Classification losses: per example (or step, or pixel), float32, from logits and soft targets."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn.draws import Number
from cnn.shapes import Logits, PerExample

Targets = Float[Array, "*b k"]  # probabilities that sum to 1; axes between example and class: labelling, segmentation
Values = Float[Array, "*b"]


def smooth(targets: Targets, smoothing: float) -> Targets:
    """Label smoothing: (1 - s) * targets + s / k (Szegedy et al. 2016, arXiv 1512.00567)."""
    return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def softmax_cross_entropy(logits: Targets, targets: Targets) -> Values:
    """-sum_k t_k log softmax(logits)_k, in nats."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def binary_cross_entropy(logits: Logits, targets: Targets) -> PerExample:
    """Sum over classes of the binary cross entropy of sigmoid(logits): each class is its own question.

    "ResNet strikes back" (Wightman et al. 2021, arXiv 2110.00476). timm averages over the classes instead,
    a constant factor 1 / k.
    """
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(targets * positive + (1 - targets) * negative, axis=-1)


def focal(logits: Targets, targets: Targets, gamma: Number) -> Values:
    """-sum_k t_k (1 - p_k)^gamma log p_k with p = softmax(logits): easy examples weigh less.

    Lin et al. 2017 (arXiv 1708.02002, equation 4) for several classes; gamma 0 is the cross entropy.
    """
    log_p = jax.nn.log_softmax(logits)
    if gamma == 0:
        return -jnp.sum(targets * log_p, axis=-1)
    # 1 - p underflows to 0 for a sure example, where x^gamma has no finite slope below gamma 1.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(jnp.float32).tiny)
    return -jnp.sum(targets * rest**gamma * log_p, axis=-1)
