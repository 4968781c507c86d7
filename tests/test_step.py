"""The training step: accumulation, averages, randomness, bad values, precision; exact BatchNorm statistics."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn import state as states
from cnn import tree
from cnn.build import build
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.layers.norm import BatchNorm
from cnn.models import build_model
from cnn.plan import make_plan
from cnn.recalibrate import make_moments_step, pooled_statistics, recalibrated
from cnn.state import init_variables
from cnn.step import make_train_step
from cnn.tasks import build_task
from cnn.tasks.base import counted
from tests.support.runs import tiny

INFO = DatasetInfo("made", {"image": Feature.image(16, 16, 3)}, {"label": LABEL}, tuple("abcd"))
TASK = build_task("classification", INFO)
RATE = optax.constant_schedule(0.1)  # only reported by the step
RATE = optax.constant_schedule(0.1)  # only reported; each optimizer here has its own


def network(**options):
    given = {"num_classes": 4, "stage_sizes": (1,), "width": 8, "norm": "group"} | options
    return build_model("resnet_small", given)


def made_batch(size=64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.uint8),
        "label": rng.integers(0, 4, size).astype(np.int32),
        "valid": np.ones(size, bool),
    }


def fresh(model, tx, ema=False):
    return states.new_state(init_variables(model, jnp.zeros((1, 16, 16, 3)), 0), tx, ema)


def largest_difference(one, other):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)))


def test_accumulation_equals_the_whole_batch_in_less_memory(capsys):
    model, tx, batch = network(), optax.sgd(0.1), made_batch()
    state = fresh(model, tx)
    results, memory = {}, {}
    for name, count, unroll in (("1 x 64", 1, False), ("4 x 16 looped", 4, False), ("4 x 16 unrolled", 4, True)):
        update = make_train_step(model, TASK, tx, RATE, seed=0, accumulate_steps=count, unroll=unroll)
        compiled = jax.jit(update).lower(state, batch).compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes
        results[name] = compiled(state, batch)
    with capsys.disabled():
        print("\n  compiled memory:", ", ".join(f"{k}: {v / 2**20:.2f} MiB" for k, v in memory.items()))
    whole, aux = results.pop("1 x 64")
    for name, (other, other_aux) in results.items():
        assert largest_difference(whole.params, other.params) < 1e-6
        np.testing.assert_allclose(other_aux["loss"], aux["loss"], rtol=1e-6)
        np.testing.assert_allclose(other_aux["grad_norm"], aux["grad_norm"], rtol=1e-5)
        assert memory[name] < 0.5 * memory["1 x 64"], name


@pytest.mark.parametrize("unroll", [True, False])
def test_means_of_what_is_there_are_exact_with_accumulation(unroll):
    """A term per example and one per token: with micro-batches of unequal counts, both are those of the whole batch."""

    class Tokens(type(TASK)):
        def losses(self, out, batch):
            each = super().losses(out, batch)
            error = jnp.abs(out["logits"]) * jnp.arange(4)[None]
            return each | {"token": counted(error, jnp.arange(4)[None] < batch["length"][:, None])}

        @property
        def loss_weights(self):
            return {"token": 0.5}

    model, tx = network(), optax.sgd(0.1)
    state, task = fresh(model, tx), Tokens(info=INFO)
    batch = made_batch(16) | {"length": np.array([0, 4] * 7 + [1, 0], np.int32)}
    found = [
        jax.jit(make_train_step(model, task, tx, RATE, seed=0, accumulate_steps=count, unroll=unroll))(state, batch)
        for count in (1, 2, 8)  # of 8 micro-batches, some have no token at all
    ]
    (whole, aux), *others = found
    assert float(aux["loss"]) == pytest.approx(float(aux["loss/softmax"] + 0.5 * aux["loss/token"]))
    for other, other_aux in others:
        assert largest_difference(whole.params, other.params) < 1e-6
        for name in ("loss", "loss/softmax", "loss/token", "grad_norm"):
            np.testing.assert_allclose(other_aux[name], aux[name], rtol=1e-5, err_msg=name)


def test_accumulation_moves_batch_statistics_once_per_micro_batch():
    model, tx, batch = network(norm="batch"), optax.sgd(0.0), made_batch(8)
    state = fresh(model, tx)
    found, _ = jax.jit(make_train_step(model, TASK, tx, RATE, seed=0, accumulate_steps=2))(state, batch)
    stats = state.batch_stats
    for part in (slice(0, None, 2), slice(1, None, 2)):  # every other row: each device splits its own rows
        images = {"image": batch["image"][part]}
        variables = {"params": state.params, "batch_stats": stats}
        _, changed = model.apply(variables, TASK.inputs(images), train=True, mutable=["batch_stats"])
        stats = changed["batch_stats"]
    assert largest_difference(found.batch_stats, stats) < 1e-6


def test_averages_follow_numpy_with_their_warm_up():
    model, tx = network(norm="batch"), optax.sgd(0.1)
    state = fresh(model, tx, ema=True)
    update = jax.jit(make_train_step(model, TASK, tx, RATE, seed=0, ema_decay=0.3))
    wanted = tree.flatten({"params": state.params, "batch_stats": state.batch_stats})
    for step in range(4):
        state, _ = update(state, made_batch(8, seed=step))
        decay = min(0.3, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, then 0.3
        new = tree.flatten({"params": state.params, "batch_stats": state.batch_stats})
        wanted = {k: decay * np.asarray(v) + (1 - decay) * np.asarray(new[k]) for k, v in wanted.items()}
    found = tree.flatten(state.ema)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert state.variables() is state.ema


def test_without_averages_there_is_no_copy():
    state = fresh(network(), optax.sgd(0.1))
    assert state.ema == {} and state.variables()["params"] is state.params


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_a_bad_value_freezes_the_state_at_that_step(accumulate_steps):
    model, tx = network(norm="batch"), optax.sgd(0.1, momentum=0.9)
    update = jax.jit(
        make_train_step(model, TASK, tx, RATE, seed=0, accumulate_steps=accumulate_steps, ema_decay=0.5, unroll=True)
    )
    state = fresh(model, tx, ema=True)
    good = made_batch(8) | {"image": made_batch(8)["image"].astype(np.float32) / 255}
    bad = good | {"image": good["image"].copy()}
    bad["image"][3, 0, 0, 0] = np.nan
    state, aux = update(state, good)
    assert (int(state.step), int(state.bad_step)) == (1, -1) and np.isfinite(aux["loss"])
    frozen, aux = update(state, bad)
    assert not np.isfinite(list(aux.values())).all()  # XLA:CPU can lose a NaN in a fused softmax
    later, _ = update(frozen, good)  # steps that were already on their way change nothing either
    for found in (frozen, later):
        assert int(found.bad_step) == 1
        assert largest_difference(found.replace(bad_step=state.bad_step), state) == 0


def randomness(seed, step, accumulate_steps=1):
    """(augment's draw, the draws of the dropout of each micro-batch) that a step really hands out."""

    class Model:
        def apply(self, variables, x, *, train, rngs, mutable):
            return {"logits": jax.random.uniform(rngs["dropout"]) + 0 * variables["params"]["w"]}, {}

    task = types.SimpleNamespace(
        augment=lambda batch, rng: batch | {"drawn": jnp.full((4,), jax.random.uniform(rng))},
        inputs=lambda batch: batch["drawn"],
        losses=lambda out, batch: {"mean": (out["logits"] + batch["drawn"][0], jnp.float32(2.0))},
        loss_weights={},
    )
    tx = optax.sgd(0.0)
    state = states.new_state({"params": {"w": jnp.zeros(())}, "batch_stats": {}}, tx, False)
    update = make_train_step(Model(), task, tx, RATE, seed=seed, accumulate_steps=accumulate_steps)
    _, aux = update(state.replace(step=jnp.asarray(step, jnp.int32)), {"x": jnp.zeros(4)})
    return float(aux["loss"])


def test_randomness_is_a_function_of_seed_and_step():
    for seed, step in ((0, 0), (0, 7), (3, 7)):
        augment, model = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        wanted = (jax.random.uniform(augment) + jax.random.uniform(model)) / 2
        assert randomness(seed, step) == pytest.approx(float(wanted), rel=1e-6)
        drops = np.mean([jax.random.uniform(jax.random.fold_in(model, i)) for i in range(2)])
        wanted = (float(jax.random.uniform(augment)) + drops) / 2
        assert randomness(seed, step, accumulate_steps=2) == pytest.approx(wanted, rel=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    model, tx, batch = network(dtype=jnp.bfloat16, norm="batch"), optax.sgd(0.1), made_batch(8)
    state = fresh(model, tx)
    out = model.apply(state.variables(), TASK.inputs(batch), train=False)
    assert out["stage1"].dtype == jnp.bfloat16
    assert out["logits"].dtype == out["pre_logits"].dtype == jnp.float32
    new, aux = jax.jit(make_train_step(model, TASK, tx, RATE, seed=0))(state, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((new.params, new.batch_stats, aux))} == {jnp.float32.dtype}
    full = network(norm="batch")
    _, exact = jax.jit(make_train_step(full, TASK, tx, RATE, seed=0))(state, batch)
    np.testing.assert_allclose(aux["loss"], exact["loss"], rtol=0.02)


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("auto", jnp.float32), ("float32", jnp.float32), ("bfloat16", jnp.bfloat16)]
)
def test_the_compute_type_of_a_config(dtype, wanted):
    built = build(tiny(dtype=dtype), DatasetInfo(
        "digits", {"image": Feature.image(8, 8, 1)}, {"label": LABEL}, tuple("0123456789")
    ))
    assert built.model.dtype == wanted


def test_remat_changes_memory_and_nothing_else():
    tx, batch = optax.sgd(0.1), made_batch()
    results, memory = [], []
    for remat in (False, True):
        model = network(remat=remat)
        state = fresh(model, tx)
        compiled = jax.jit(make_train_step(model, TASK, tx, RATE, seed=0)).lower(state, batch).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
        results.append(compiled(state, batch)[0])
    assert tree.names(results[0].params) == tree.names(results[1].params)
    assert largest_difference(results[0].params, results[1].params) < 1e-6
    assert memory[1] <= memory[0]


class OneNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return {"logits": BatchNorm(name="bn")(x, train=train)}


def test_pooled_statistics_equal_numpy_over_all_batches():
    batches = [made_batch(16, seed) for seed in range(5)]
    for number, batch in enumerate(batches):  # means that differ between batches are what is easily lost
        batch["image"] = (batch["image"] // 4 + 40 * number).astype(np.uint8)
    model = OneNorm()
    variables = init_variables(model, jnp.zeros((1, 16, 16, 3)), 0)
    measure = jax.jit(make_moments_step(model, TASK))
    found = pooled_statistics([measure(variables, batch) for batch in batches])["bn"]
    pixels = np.concatenate([batch["image"] for batch in batches]).reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["var"], pixels.var(axis=0), rtol=1e-5)


def test_recalibration_measures_parameters_and_their_averages_each_with_their_own():
    plan = make_plan(tiny(task__mixup_alpha=0.0))
    state = plan.new_state()
    state = state.replace(ema=jax.tree.map(lambda x: 2 * x, state.ema))
    found = recalibrated(plan, state, 3)
    inputs = np.concatenate([np.asarray(plan.built.task.inputs(plan.batches[i])) for i in range(3)])
    for params, stats in ((state.params, found.batch_stats), (state.ema["params"], found.ema["batch_stats"])):
        kernel = params["stem"]["conv1"]["kernel"]
        numbers = ("NHWC", "HWIO", "NHWC")
        x = np.asarray(jax.lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=numbers))
        x = x.reshape(-1, x.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(stats["stem"]["bn1"]["mean"], x.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["stem"]["bn1"]["var"], x.var(axis=0), rtol=1e-4)
    assert largest_difference(found.params, state.params) == 0
    assert jax.tree.map(lambda x: x.sharding, found) == plan.placement


def test_recalibration_leaves_networks_without_batch_norm_alone():
    plan = make_plan(tiny_mlp())
    state = plan.new_state()
    assert recalibrated(plan, state, 2).batch_stats == {}


def test_below_frozen_parameters_there_is_no_backward_pass():
    model, tx, batch = network(), optax.sgd(0.1), made_batch(16)
    state = fresh(model, tx)
    steps = {
        freeze: jax.jit(make_train_step(model, TASK, tx, RATE, seed=0, freeze=freeze)).lower(state, batch).compile()
        for freeze in ("", "(?!head/).*")
    }
    (free, _), (probed, aux) = (step(state, batch) for step in steps.values())
    for name, before in tree.flatten(state.params).items():
        wanted = tree.flatten(free.params)[name] if name.startswith("head/") else before
        np.testing.assert_allclose(tree.flatten(probed.params)[name], wanted, rtol=1e-6, atol=1e-7, err_msg=name)
    flops = [step.cost_analysis()["flops"] for step in steps.values()]
    assert flops[1] < 0.5 * flops[0]  # a third is the forward pass
    moved = jax.tree.map(jnp.subtract, free.params["head"], state.params["head"])
    assert float(aux["grad_norm"]) == pytest.approx(10 * float(optax.tree.norm(moved)), rel=1e-3)  # of the head


def tiny_mlp():
    c = tiny().copy_and_resolve_references()
    c.unlock()
    c.model = {"name": "mlp", "width": 64}
    c.task.mixup_alpha, c.task.label_smoothing = 0.0, 0.0
    return c


def test_the_plan_s_step_trains_and_donates():
    plan = make_plan(tiny_mlp())
    update, state = plan.train_step(), plan.new_state()
    losses = []
    for step in range(30):
        before = state
        state, aux = update(state, plan.place(plan.batches[step]))
        losses.append(float(aux["loss"]))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
