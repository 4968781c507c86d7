"""Schedules against closed forms; optimizers against independent NumPy formulas; masks and clipping."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import config, optim, tree
from cnn.errors import UserError

TOTAL, PEAK = 100, 0.5


def schedule(name, **fields):
    c = config.default().schedule
    c.name = name
    for field, value in fields.items():
        c[field] = value
    return optim.make_schedule(c, PEAK, TOTAL, steps_per_epoch=10.0)


def cosine(fraction, end=0.0):
    return end + (1 - end) * (1 + math.cos(math.pi * fraction)) / 2


# --- schedules: (name, fields, {step: wanted / peak})
SCHEDULES = [
    ("constant", {}, {0: 1, 50: 1, 100: 1}),
    ("constant", {"warmup_steps": 10}, {0: 0, 5: 0.5, 10: 1, 100: 1}),
    ("cosine", {}, {0: 1, 25: cosine(0.25), 50: 0.5, 100: 0, 200: 0}),
    ("cosine", {"warmup_epochs": 2.0}, {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
    ("cosine", {"final_fraction": 0.1}, {0: 1, 50: 0.55, 100: 0.1, 200: 0.1}),
    ("linear", {}, {0: 1, 50: 0.5, 100: 0}),
    ("linear", {"warmup_steps": 20, "final_fraction": 0.2}, {0: 0, 20: 1, 60: 0.6, 100: 0.2}),
    ("step", {"boundaries": (0.5, 0.75)}, {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 100: 0.01}),
    ("step", {"boundaries": (0.3,), "factor": 0.2, "warmup_steps": 10}, {5: 0.5, 10: 1, 29: 1, 30: 0.2}),
    (
        "one_cycle",
        {"peak_fraction": 0.3},
        {0: 0.04, 15: 0.52, 30: 1, 65: 0.5, 100: 0},  # rises along a cosine from 1/25
    ),
    ("one_cycle", {"peak_fraction": 0.5, "final_fraction": 0.1}, {50: 1, 75: 0.55, 100: 0.1}),
]


@pytest.mark.parametrize(("name", "fields", "wanted"), SCHEDULES)
def test_schedules_against_closed_forms(name, fields, wanted):
    made = schedule(name, **fields)
    for step, value in wanted.items():
        assert float(made(step)) == pytest.approx(PEAK * value, abs=1e-6), step


def test_every_schedule_is_tested_and_traceable():
    assert {name for name, _, _ in SCHEDULES} == set(optim.SCHEDULES)
    every = [schedule(name, **fields) for name, fields, _ in SCHEDULES]
    rates = jax.jit(jax.vmap(lambda step: jnp.stack([made(step) for made in every])))(jnp.arange(TOTAL + 1))
    assert rates.min() >= 0
    np.testing.assert_allclose(rates.max(axis=0), PEAK, rtol=1e-6)


def test_boundaries_on_the_same_step_both_count():
    made = schedule("step", boundaries=(0.5, 0.501), warmup_steps=0)
    assert float(made(60)) == pytest.approx(PEAK * 0.01)


def test_schedules_that_are_refused():
    with pytest.raises(UserError, match="unknown schedule 'cosin'. Did you mean 'cosine'"):
        schedule("cosin")
    with pytest.raises(UserError, match="warm-up of 200 steps is longer than the run"):
        schedule("cosine", warmup_epochs=20.0)


# --- optimizers

RNG = np.random.default_rng(0)
PARAMS = {
    "stem": {"kernel": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)},
    "head": {
        "kernel": RNG.normal(size=(4, 3)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    },
}
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape).astype(np.float32), PARAMS) for _ in range(3)]
LR, DECAY = 0.1, 0.01


def run(name, grads=GRADS, params=PARAMS, **fields):
    """The parameters after one update per tree of `grads`."""
    c = config.default().optim
    c.name, c.weight_decay = name, DECAY
    for field, value in fields.items():
        c[field] = value
    tx = optim.make_optimizer(c, lambda _: LR, params)
    update = jax.jit(tx.update)
    state = tx.init(params)
    for grad in grads:
        updates, state = update(grad, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return tree.flatten(params)


def by_hand(rule):
    """`rule(params, grads, decay, memory, step) -> params` over the same gradients, in float64."""
    result = {}
    for name, p in tree.flatten(PARAMS).items():
        p, memory = p.astype(np.float64), {}
        for step, grads in enumerate(GRADS, 1):
            g = tree.flatten(grads)[name].astype(np.float64)
            p = rule(p, g, DECAY if name.endswith("kernel") else 0.0, memory, step)
        result[name] = p
    return result


def sgd(p, g, decay, memory, step):
    g = g + decay * p  # coupled: the decay goes through the momentum
    memory["v"] = 0.9 * memory.get("v", 0) + g
    return p - LR * (g + 0.9 * memory["v"])


def heavy_ball(p, g, decay, memory, step):
    memory["v"] = 0.9 * memory.get("v", 0) + g + decay * p
    return p - LR * memory["v"]


def plain(p, g, decay, memory, step):
    return p - LR * (g + decay * p)


def rmsprop(p, g, decay, memory, step):  # as PyTorch: epsilon outside of the root; b2 is its alpha
    g = g + decay * p
    memory["s"] = 0.99 * memory.get("s", 0) + 0.01 * g**2
    return p - LR * g / (np.sqrt(memory["s"]) + 1e-8)


def adam_direction(g, memory, step, eps=1e-8, b1=0.9, b2=0.999):
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return memory["m"] / (1 - b1**step) / (np.sqrt(memory["v"] / (1 - b2**step)) + eps)


def adamw(p, g, decay, memory, step):
    return p - LR * (adam_direction(g, memory, step) + decay * p)


def lamb(p, g, decay, memory, step):  # You et al. 2020, algorithm 2
    r = adam_direction(g, memory, step, eps=1e-6) + decay * p
    return p - LR * np.linalg.norm(p) / np.linalg.norm(r) * r


def lion(p, g, decay, memory, step):  # Chen et al. 2023, algorithm 2
    m = memory.get("m", 0)
    memory["m"] = 0.99 * m + 0.01 * g
    return p - LR * (np.sign(0.9 * m + 0.1 * g) + decay * p)


@pytest.mark.parametrize(
    ("name", "fields", "rule"),
    [
        ("sgd", {}, sgd),
        ("sgd", {"nesterov": False}, heavy_ball),
        ("sgd", {"momentum": 0.0}, plain),
        ("rmsprop", {"b2": 0.99, "momentum": 0.0}, rmsprop),
        ("adamw", {}, adamw),
        ("lamb", {}, lamb),
        ("lion", {"b2": 0.99}, lion),
    ],
)
def test_optimizers_against_numpy(name, fields, rule):
    found = run(name, **fields)
    for leaf, wanted in by_hand(rule).items():
        np.testing.assert_allclose(found[leaf], wanted, rtol=2e-5, atol=2e-6, err_msg=leaf)


def test_muon_makes_orthogonal_updates_of_the_scale_of_adam():
    params = {"conv": {"kernel": RNG.normal(size=(3, 3, 2, 6)).astype(np.float32), "bias": np.ones(6, np.float32)}}
    grads = jax.tree.map(lambda p: RNG.normal(size=p.shape).astype(np.float32), params)
    found = run("muon", [grads], params, weight_decay=0.0)
    update = (params["conv"]["kernel"] - found["conv/kernel"]).reshape(18, 6) / LR
    wanted = 0.2 * math.sqrt(18)  # every singular value, up to what five Newton-Schulz steps leave
    values = np.linalg.svd(update, compute_uv=False)
    assert (values > 0.6 * wanted).all() and (values < 1.3 * wanted).all()
    # The same singular vectors as the gradient: U^T G V is diagonal.
    left, _, right = np.linalg.svd(grads["conv"]["kernel"].reshape(18, 6), full_matrices=False)
    inside = left.T @ update @ right.T
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 0.02 * wanted
    bias = adam_direction(grads["conv"]["bias"], {}, 1)
    np.testing.assert_allclose(found["conv/bias"], 1 - LR * bias, rtol=1e-5)


def test_muon_decays_kernels_beside_the_update():
    kernel = PARAMS["head"]["kernel"]
    with_decay, without = run("muon", GRADS[:1]), run("muon", GRADS[:1], weight_decay=0.0)
    np.testing.assert_allclose(without["head/kernel"] - with_decay["head/kernel"], LR * DECAY * kernel, atol=1e-6)
    np.testing.assert_array_equal(without["head/bias"], with_decay["head/bias"])


# --- masks


def test_the_decay_mask_is_a_regex_over_whole_names():
    zero = [jax.tree.map(np.zeros_like, PARAMS)]
    for mask, decayed in ((".*/kernel", {"stem/kernel", "head/kernel"}), ("head/.*", {"head/kernel", "head/bias"})):
        found = run("adamw", zero, decay_mask=mask)
        for name, p in tree.flatten(PARAMS).items():
            np.testing.assert_allclose(found[name], p * (1 - LR * DECAY * (name in decayed)), rtol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_frozen_parameters_do_not_move(name):
    free, found = run(name), run(name, freeze="stem/.*")
    np.testing.assert_array_equal(found["stem/kernel"], PARAMS["stem"]["kernel"])
    for leaf in ("head/kernel", "head/bias"):
        if name == "muon":  # its matrix products are rounded otherwise in another program
            np.testing.assert_allclose(found[leaf], free[leaf], rtol=1e-5)
        else:
            np.testing.assert_array_equal(found[leaf], free[leaf])


def test_lr_multipliers_take_the_first_match():
    rules = (("stem/.*", 0.0), (".*/kernel", 0.5), ("stem/kernel", 9.0))
    free, found = run("sgd", GRADS[:1]), run("sgd", GRADS[:1], lr_multipliers=rules)
    np.testing.assert_array_equal(found["stem/kernel"], PARAMS["stem"]["kernel"])
    kernel = PARAMS["head"]["kernel"]
    half = 0.5 * (free["head/kernel"] - kernel)
    np.testing.assert_allclose(found["head/kernel"] - kernel, half, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found["head/bias"], free["head/bias"])


def test_freezing_and_multipliers_go_together():
    found = run("sgd", freeze="stem/.*", lr_multipliers=(("head/bias", 0.0),))
    np.testing.assert_array_equal(found["stem/kernel"], PARAMS["stem"]["kernel"])
    np.testing.assert_array_equal(found["head/bias"], PARAMS["head"]["bias"])
    assert (found["head/kernel"] != PARAMS["head"]["kernel"]).any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"freeze": "stem/("}, r"optim.freeze 'stem/\(' is not a regular expression"),
        ({"freeze": "steam/.*"}, "'steam/.*' matches no parameter; names look like head/bias"),
        ({"freeze": ".*"}, "freezes every parameter"),
        ({"decay_mask": "kernel"}, "optim.decay_mask 'kernel' matches no parameter"),
        ({"lr_multipliers": (("x", 0.1),)}, "optim.lr_multipliers 'x' matches no parameter"),
    ],
)
def test_masks_that_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        run("sgd", **fields)


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="unknown optimizer 'adam'. Did you mean 'adamw'"):
        run("adam")


# --- clipping


def test_clipping_by_the_global_norm():
    norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(GRADS[0])))
    free, found = run("sgd", GRADS[:1], weight_decay=0.0), run("sgd", GRADS[:1], weight_decay=0.0, clip_norm=0.5)
    for name, p in tree.flatten(PARAMS).items():
        np.testing.assert_allclose(found[name] - p, (free[name] - p) * 0.5 / norm, rtol=1e-4, atol=1e-6)
    loose = run("sgd", GRADS[:1], weight_decay=0.0, clip_norm=10 * norm)
    for name in free:
        np.testing.assert_allclose(loose[name], free[name], rtol=3e-6)  # rounding: another program


def test_adaptive_clipping_is_per_unit_and_relative_to_the_weights():
    ratio, found = 0.1, run("sgd", GRADS[:1], momentum=0.0, weight_decay=0.0, clip_adaptive=0.1)
    for name in ("stem/kernel", "head/kernel", "head/bias"):  # Brock et al. 2021, equation 3
        p, g = tree.flatten(PARAMS)[name], tree.flatten(GRADS[0])[name]
        axes = tuple(range(p.ndim - 1)) if p.ndim > 1 else None
        limit = ratio * np.maximum(np.sqrt((p**2).sum(axes, keepdims=True)), 1e-3)
        norm = np.sqrt((g**2).sum(axes, keepdims=True))
        clipped = np.where(norm > limit, g * limit / norm, g)
        np.testing.assert_allclose(found[name], p - LR * clipped, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_chain_takes_shapes_instead_of_arrays():
    c = ConfigDict(config.default().optim)
    c.weight_decay, c.freeze = DECAY, "stem/.*"
    shapes = jax.eval_shape(lambda: PARAMS)
    for c.name in optim.OPTIMIZERS:
        jax.eval_shape(optim.make_optimizer(c, lambda _: LR, shapes).init, shapes)
