"""Optimizers and schedules from a config, as one Optax chain.

Order: clip -> precondition (momentum, Adam, ...) -> weight decay -> learning rate -> per-layer factors;
frozen parameters get no update at all. For SGD and RMSprop the decay is added to the gradient (L2, as in the ResNet
papers); for AdamW, LAMB, Lion and Muon it is decoupled (Loshchilov & Hutter 2019).
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cnn import tree
from cnn.config import steps
from cnn.errors import UserError, unknown

Schedule = Callable[[Any], Any]

SCHEDULES = ("constant", "step", "cosine", "linear", "one_cycle")
OPTIMIZERS = ("sgd", "rmsprop", "adamw", "lamb", "lion", "muon")


def make_schedule(
    config: ConfigDict, peak: float, total_steps: int, steps_per_epoch: float
) -> Schedule:
    """The learning rate as a pure function of the step: linear warm-up, then the named decay.

    'one_cycle' (Smith & Topin 2018) has its own rise, to `peak_fraction` of the run, and ignores warm-up.

    Raises:
      UserError: unknown name, or a warm-up that is longer than the run.
    """
    if config.name not in SCHEDULES:
        raise unknown("schedule", config.name, SCHEDULES)
    warmup = steps(config, "warmup", steps_per_epoch, unset=0)
    if warmup > total_steps:
        raise UserError(f"schedule: the warm-up of {warmup} steps is longer than the run ({total_steps})")
    rest = max(total_steps - warmup, 1)
    end = peak * config.final_fraction
    if config.name == "one_cycle":
        rise = max(round(config.peak_fraction * total_steps), 1)
        fall = optax.cosine_decay_schedule(peak, max(total_steps - rise, 1), config.final_fraction)
        climb = optax.cosine_onecycle_schedule(4 * rise, peak, pct_start=0.25)  # its first quarter
        return optax.join_schedules([climb, fall], [rise])
    boundaries = [max(round(b * total_steps) - warmup, 0) for b in config.boundaries]
    decay = {
        "constant": lambda: optax.constant_schedule(peak),
        "step": lambda: optax.piecewise_constant_schedule(
            peak,
            {at: config.factor**times for at, times in collections.Counter(boundaries).items()},
        ),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
    }[config.name]()
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(
    config: ConfigDict, schedule: Schedule, params: Any
) -> optax.GradientTransformation:
    """The whole chain for parameters shaped like `params` (arrays or ShapeDtypeStructs).

    Raises:
      UserError: unknown name, a regex that is none or matches nothing, everything frozen.
    """
    if config.name not in OPTIMIZERS:
        raise unknown("optimizer", config.name, OPTIMIZERS)
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.clip_adaptive is not None:  # Brock et al. 2021, section 4.1
        parts.append(optax.adaptive_grad_clip(config.clip_adaptive))
    decay = []
    if config.weight_decay:
        mask = tree.matching(params, config.decay_mask, "optim.decay_mask")
        decay.append(optax.add_decayed_weights(config.weight_decay, mask))
    parts += {
        "sgd": lambda: [*decay, _momentum(config)],
        "rmsprop": lambda: [
            *decay,
            optax.scale_by_rms(config.b2, eps=1e-8, eps_in_sqrt=False),  # as PyTorch's
            _momentum(config),
        ],
        "adamw": lambda: [optax.scale_by_adam(config.b1, config.b2), *decay],
        "lamb": lambda: [
            optax.scale_by_adam(config.b1, config.b2, eps=1e-6),
            *decay,
            optax.scale_by_trust_ratio(),
        ],
        "lion": lambda: [optax.scale_by_lion(config.b1, config.b2), *decay],
        "muon": lambda: [_muon(config, params), *decay],
    }[config.name]()
    parts.append(optax.scale_by_learning_rate(schedule))
    if config.lr_multipliers:
        parts.append(_scale_leaves(_factors(config.lr_multipliers, params)))
    tx = optax.chain(*parts)
    if not config.freeze:
        return tx
    frozen = tree.matching(params, config.freeze, "optim.freeze")
    if all(jax.tree.leaves(frozen)):
        raise UserError(f"optim.freeze '{config.freeze}' freezes every parameter: nothing is left to train")
    labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def _momentum(config: ConfigDict) -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, nesterov=config.nesterov)


def _muon(config: ConfigDict, params: Any) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for kernels, taken as [fan_in, out] matrices; Adam for vectors.

    The orthogonal update is scaled by 0.2 sqrt(max(rows, columns)), so that learning rates of Adam carry
    over (Liu et al. 2025, section 2.2).
    """
    dims = jax.tree.map(
        lambda p: optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)
        if p.ndim > 1
        else None,
        params,
    )
    labels = jax.tree.map(lambda p: "muon" if p.ndim > 1 else "adam", params)
    scales = jax.tree.map(
        lambda p: 0.2 * max(p.size // p.shape[-1], p.shape[-1]) ** 0.5 if p.ndim > 1 else 1.0, params
    )
    muon = optax.contrib.scale_by_muon(
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_dimension_numbers=lambda updates: jax.tree.map(
            lambda d, u: optax.MaskedNode() if isinstance(u, optax.MaskedNode) else d,
            dims,
            updates,
            is_leaf=lambda x: x is None or isinstance(x, optax.contrib.MuonDimensionNumbers),
        ),
    )
    return optax.chain(
        optax.partition({"muon": muon, "adam": optax.scale_by_adam(config.b1, config.b2)}, labels),
        _scale_leaves(scales),
    )


def _factors(multipliers: tuple, params: Any) -> Any:
    """The factor of the first regex that matches each parameter's name, else 1."""
    factors = jax.tree.map(lambda _: 1.0, params)
    for pattern, factor in reversed(multipliers):
        mask = tree.matching(params, pattern, "optim.lr_multipliers")
        factors = jax.tree.map(lambda hit, old, new=factor: new if hit else old, mask, factors)
    return factors


def _scale_leaves(factors: Any) -> optax.GradientTransformation:
    """Multiplies each update by its factor; what `optax.partition` masked out stays so."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda factor, update: jax.tree.map(lambda x: x * factor, update), factors, updates
        )
    )
