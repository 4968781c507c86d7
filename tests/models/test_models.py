"""Every entry of MODELS that gives classes keeps the backbone contract, and its numbers are the published ones.

Real sizes are only traced (`facts.measure`); what needs numbers runs on the small copy that each family names
in `TINY`. A new entry is tested without a line here; its published counts belong into published.csv. Coverage is
counted in the small copies only: it makes tracing twice as slow.
"""

import csv
import functools
import inspect
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from cnn.errors import UserError
from cnn.layers.norm import BatchNorm, GroupNorm, LayerNorm
from cnn.layers.std_conv import ScaledStdConv, StdConv
from cnn.models import MODELS, build_model, facts
from cnn.models.backbone import Backbone
from cnn.tables import option_names, resolve

CLASSES = 7
CLASSIFIERS = [name for name, entry in MODELS.items() if entry.gives == "classes"]  # the others: test_dense.py
with open(Path(__file__).with_name("published.csv"), newline="") as _file:
    PUBLISHED = list(csv.DictReader(_file))  # name ('+aux': with auxiliary heads), params, gmacs, input, source


def traced(model, size, train=False, known={}):  # noqa: B006 (remembers)
    """(outputs, variables) of a model as shapes: no number is computed. One trace serves all tests of a process."""
    key = (type(model), repr(model), size, train)
    if key not in known:
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        known[key] = jax.eval_shape(lambda: model.init_with_output(rngs, jnp.zeros((2, *size)), train=train))
    return known[key]


def randomised(model, x):
    """Parameters and running statistics. All weights are random: a zero would give zero gradients elsewhere."""
    _, made = traced(model, x.shape[1:])
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), made.get("batch_stats", {}))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.standard_normal(leaf.shape) / max(leaf.size, 9) ** 0.5, jnp.float32
        ),
        made["params"],
    )
    return params, stats


def families():
    """One small model per family, named after its first entry."""
    seen = {}
    for name in CLASSIFIERS:
        target = resolve("model", MODELS, name)
        family = getattr(target, "func", target)
        if family not in seen:
            size = getattr(family, "TINY_INPUT", MODELS[name].input)
            options = {**getattr(target, "keywords", {}), **getattr(family, "TINY", {})}
            seen[family] = pytest.param(functools.partial(family, **options), size, id=name)
    return list(seen.values())


def check_contract(model, size, out, variables, batch, classes):
    strides, channels = model.feature_strides, model.feature_channels
    assert len(strides) == len(channels)
    stages = [f"stage{stage}" for stage in range(1, len(strides) + 1)]
    assert set(out) == {*stages, "pre_logits", "logits"}
    assert out["logits"].shape == (batch, classes)
    assert out["pre_logits"].ndim == 2
    assert out["logits"].dtype == out["pre_logits"].dtype == jnp.float32
    for stage, stride, width in zip(stages, strides, channels, strict=True):
        space = out[stage].shape[1:-1]
        assert out[stage].shape == (batch, *space, width), stage
        assert len(space) == (len(size) - 1 if stride else 0)
        # Networks that pad less than half a window lose a border pixel at each of their windows; none gains any.
        for found, pixels in zip(space, size, strict=False):
            assert -1 < pixels / stride - found <= 4, (stage, found, pixels / stride)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables) <= {"params", "batch_stats"}


FIRST = {param.id for param in families()}  # `make test` keeps one of each family


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.exhaustive) for name in CLASSIFIERS]
)
def test_the_real_model(name):
    """Contract, chosen parameter names, the stored facts, the published counts, checked options."""
    entry = MODELS[name]
    found, out, variables = facts.measure(name)
    model = build_model(name, {"num_classes": entry.classes})
    check_contract(model, entry.input, out, variables, 1, entry.classes)
    for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]:
        assert not any(key.key[0].isupper() for key in path), f"auto-numbered name: {path}"
    assert facts.stored()[name] == found, "renew cnn/models/facts.csv: python -m cnn.models.facts"
    for row in PUBLISHED:
        if row["name"] == name:
            assert found.params == int(row["params"]), row
    with pytest.raises(UserError, match="unknown option of model"):
        build_model(name, {"num_clases": 10})
    assert {"num_classes", "dtype"} <= set(option_names(resolve("model", MODELS, name)))
    assert entry.about


def test_facts_are_of_the_models():
    assert list(facts.stored()) == list(MODELS), "renew cnn/models/facts.csv: python -m cnn.models.facts"


def stored_here(row):
    """Whether `facts.csv` has the row's network at the row's size: nothing is traced then."""
    return row["name"] in MODELS and MODELS[row["name"]].input[0] == int(row["input"])


def apart(row, macs):
    """How far multiply-adds are from those of the row beyond 1 % or half of its last printed digit, in 10^9."""
    want = float(row["gmacs"])
    return abs(macs / 1e9 - want) - max(0.01 * want, 0.5 * 10 ** -len(row["gmacs"].partition(".")[2]))


def usual(row):
    """Whether `make test` has it: those that cost nothing, those with auxiliary heads, and one of each family."""
    free = stored_here(row) and apart(row, facts.stored()[row["name"]].macs) <= 0
    return free or "+" in row["name"] or row["name"] in FIRST or row["name"] not in MODELS


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=() if usual(row) else pytest.mark.exhaustive) for row in PUBLISHED],
    ids=lambda row: f"{row['name']}-{row['input']}-{row['source']}",
)
def test_published_multiply_adds(row):
    """Within 1 % of the table, or of its last printed digit; where that fails, of what timm's counter counts."""
    name, _, option = row["name"].partition("+")
    if name not in MODELS:
        pytest.fail(f"{name} is published, but not in MODELS")
    if stored_here(row):
        found = facts.stored()[name]
    else:
        size = (int(row["input"]),) * 2 + (3,)
        found, _, _ = facts.measure(name, size, **({option: True} if option else {}))
    assert found.params == int(row["params"])
    macs = found.macs
    if apart(row, macs) > 0 and row["source"].startswith("timm"):
        macs += normalising(name, (int(row["input"]),) * 2 + (3,)) - UNCOUNTED.get(name, 0)
    assert apart(row, macs) <= 0


# timm's figures are fvcore's. It also counts operations per normalised value, be it of a kernel, and it has no rule
# for PyTorch's padding="same": ConvMixer's depthwise convolutions (depth x width x window x pixels) are missing there.
PER_VALUE = {
    (BatchNorm, "__call__"): 2,
    (LayerNorm, "__call__"): 5,
    (GroupNorm, "__call__"): 5,
    (StdConv, "prepared"): 4,
    (ScaledStdConv, "prepared"): 5,
}
UNCOUNTED = {
    "convmixer_768_32": 32 * 768 * 7**2 * 32**2,
    "convmixer_1536_20": 20 * 1536 * 9**2 * 32**2,
}


def normalising(name, size):
    """fvcore's operations of the normalisations for one example."""
    counts = []

    def watch(call, args, kwargs, context):
        kind = (type(context.module), context.method_name)
        if kind in PER_VALUE:
            counts.append(PER_VALUE[kind] * args[0].size)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        facts.measure(name, size)
    return sum(counts)


@pytest.mark.counted
@pytest.mark.checked
@pytest.mark.parametrize(("family", "size"), families())
def test_contract_of_the_family(family, size):
    """Another size, training, headless and bfloat16 keep the contract too."""
    model = family(num_classes=CLASSES)
    out, variables = traced(model, size)
    check_contract(model, size, out, variables, 2, CLASSES)
    assert traced(model, size, train=True) == (out, variables)
    if isinstance(model, Backbone) and len(size) == 3:
        other = (size[0] + 16, size[1] + 8, size[2])
        check_contract(model, other, *traced(model, other), 2, CLASSES)

    headless, backbone = traced(model.clone(num_classes=0), size)
    assert headless == {key: value for key, value in out.items() if key != "logits"}
    assert "head" not in backbone.get("params", {})

    half, kept = traced(model.clone(dtype=jnp.bfloat16), size)
    assert kept == variables
    assert half["logits"].dtype == half["pre_logits"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.bfloat16 for key, leaf in half.items() if key.startswith("stage"))


BACKBONES = [
    param for param in families() if issubclass(param.values[0].func, Backbone)
]  # the dense baselines have no space to keep


@pytest.mark.parametrize(("family", "size"), BACKBONES)
def test_dilation_keeps_resolution_and_parameters(family, size):
    plain = family(num_classes=CLASSES)
    _, variables = traced(plain, size)
    for output_stride in (8, 16):
        dilated = family(num_classes=CLASSES, output_stride=output_stride)
        assert dilated.feature_strides == tuple(min(stride, output_stride) for stride in plain.feature_strides)
        out, kept = traced(dilated, size)
        assert kept == variables
        check_contract(dilated, size, out, kept, 2, CLASSES)


@pytest.mark.parametrize(("family", "size"), BACKBONES)
def test_remat_drop_path_and_group_norm_are_taken(family, size):
    plain = family(num_classes=CLASSES)
    out, variables = traced(plain, size, train=True)
    for options in ({"remat": True, "drop_path": 0.1, "bn": "frozen"}, {"remat": (1,), "bn": "group:2"}):
        assert traced(plain.clone(**options), size, train=True) == (out, variables), options
    grouped, parameters = traced(plain.clone(norm="group"), size, train=True)
    assert grouped == out and "batch_stats" not in parameters


@pytest.mark.parametrize(("family", "size"), BACKBONES)
def test_nothing_is_behind_the_last_stage_of_a_backbone(family, size):
    """With `features_only`: the same stages, and no parameter that none of them sees."""
    model = family(num_classes=CLASSES)
    out, variables = traced(model, size)
    bare = model.clone(features_only=True)
    found, fewer = traced(bare, size)
    assert found == {key: value for key, value in out.items() if key.startswith("stage")}
    assert set(fewer["params"]) <= set(variables["params"]) - {"head"}
    leaves, tree = jax.tree.flatten(fewer)

    def features(*leaves):
        return bare.apply(jax.tree.unflatten(tree, leaves), jnp.zeros((2, *size)), train=False)

    jaxpr = jax.make_jaxpr(features)(*leaves).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(fewer)[0]]
    assert not [path for path, is_used in zip(paths, used, strict=True) if not is_used]


@pytest.mark.parametrize(("family", "size"), families())
def test_numbers(family, size):
    """Finite in training and evaluation; every parameter gets a gradient; statistics move in training only."""
    model = family(num_classes=CLASSES)
    x = jax.random.normal(jax.random.key(0), (8, *size))  # of few examples, all rectifiers of a tiny branch may be dead
    aim = jax.random.normal(jax.random.key(1), (8, CLASSES))
    params, stats = randomised(model, x)

    @jax.jit
    def run(params, key):
        def loss(params):
            out, new = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return jnp.sum(jnp.sin(out["logits"]) * aim), (out, new.get("batch_stats", {}))

        grads, (out, moved) = jax.grad(loss, has_aux=True)(params)
        state = {"params": params, "batch_stats": moved}
        scored, kept = model.apply(state, x, train=False, mutable=["batch_stats"])
        return grads, out, moved, scored, kept.get("batch_stats", {})

    grads, out, moved, scored, kept = jax.device_get(run(params, jax.random.key(3)))
    for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.isfinite(grad).all(), path
        assert np.any(grad), f"no gradient: {jax.tree_util.keystr(path)}"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, scored)))
    before = jax.device_get(stats)
    for path, old in jax.tree_util.tree_flatten_with_path(before)[0]:
        new = functools.reduce(lambda tree, key: tree[key.key], path, moved)
        assert not np.array_equal(old, new), f"not moved: {jax.tree_util.keystr(path)}"
    jax.tree.map(np.testing.assert_array_equal, moved, kept)


def test_variants_are_callables_with_their_own_name():
    for name, entry in MODELS.items():
        assert entry.target.endswith(f":{name}")
        assert "parent" in inspect.signature(resolve("model", MODELS, name)).parameters
