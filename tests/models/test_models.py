"""Every entry of MODELS keeps the backbone contract.

Real sizes go through `jax.eval_shape`; what needs numbers runs on a shrunken copy of each family. A new entry
is tested without a line here; a new big family wants one in SHRINK, and an exact count in PARAMETERS.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.models import MODELS, build_model
from cnn.tables import option_names, resolve

CLASSES = 7
SIZES = ((32, 32, 3), (48, 40, 3))
SHRINK = {
    "ResNet": {"width": 4, "stage_sizes": (1, 2)},
    "WideResNet": {"depth": 10, "widen": 1},
    "MLP": {"width": 8},
}
PICTURE, SERIES = SIZES[0], (40, 1)
PARAMETERS = {  # name: (input, classes, count); sources: torchvision, the papers and their code
    "resnet18": (PICTURE, 1000, 11_689_512),
    "resnet34": (PICTURE, 1000, 21_797_672),
    "resnet50": (PICTURE, 1000, 25_557_032),
    "resnet101": (PICTURE, 1000, 44_549_160),
    "resnet152": (PICTURE, 1000, 60_192_808),
    "resnet18_cifar": (PICTURE, 10, 11_173_962),
    "fashion_cnn": ((28, 28, 1), 10, 19_706),
    "wrn_16_4": (PICTURE, 10, 2_748_890),
    "wrn_28_10": (PICTURE, 10, 36_479_194),
    "wrn_40_4": (PICTURE, 10, 8_949_210),
    "mnist1d_cnn": (SERIES, 10, 5_210),
    "mnist1d_mlp": (SERIES, 10, 15_210),
    "mnist1d_logistic": (SERIES, 10, 410),
}


def traced(model, size, train=False):
    """(outputs, variables) of a model as shapes: no number is computed."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda: model.init_with_output(rngs, jnp.zeros((2, *size)), train=train))


@functools.cache
def shapes(name, size=SIZES[0], classes=CLASSES):
    """`traced` of the real model."""
    return traced(build_model(name, {"num_classes": classes}), size)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shrunken():
    """One small model per family and set of options, each named after its first entry."""
    seen = {}
    for name in MODELS:
        target = resolve("model", MODELS, name)
        family = getattr(target, "func", target)
        options = {**getattr(target, "keywords", {}), **SHRINK.get(family.__name__, {})}
        seen.setdefault((family, repr(sorted(options.items()))), (name, family, options))
    return [pytest.param(family, options, id=name) for name, family, options in seen.values()]


def check_contract(model, size, out, variables):
    strides, channels = model.feature_strides, model.feature_channels
    assert len(strides) == len(channels)
    stages = [f"stage{stage}" for stage in range(1, len(strides) + 1)]
    assert set(out) == {*stages, "pre_logits", "logits"}
    assert out["logits"].shape == (2, CLASSES)
    assert out["pre_logits"].ndim == 2
    assert out["logits"].dtype == out["pre_logits"].dtype == jnp.float32
    for stage, stride, width in zip(stages, strides, channels, strict=True):
        space = out[stage].shape[1:-1]
        assert out[stage].shape == (2, *space, width)
        assert len(space) == (len(size) - 1 if stride else 0)
        # Networks that pad less than half a window lose a border pixel.
        for found, pixels in zip(space, size, strict=False):
            assert abs(found - pixels / stride) <= 1
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables) <= {"params", "batch_stats"}


@pytest.mark.parametrize("name", MODELS)
def test_contract(name):
    check_contract(build_model(name, {"num_classes": CLASSES}), SIZES[0], *shapes(name))


@pytest.mark.parametrize(("family", "options"), shrunken())
def test_contract_of_the_family(family, options):
    """Another size, training, headless and bfloat16 keep the contract too."""
    model = family(num_classes=CLASSES, **options)
    out, variables = traced(model, SIZES[1])
    check_contract(model, SIZES[1], out, variables)
    assert traced(model, SIZES[1], train=True) == (out, variables)

    headless, backbone = traced(model.clone(num_classes=0), SIZES[1])
    assert headless == {key: value for key, value in out.items() if key != "logits"}
    assert "head" not in backbone.get("params", {})

    half, kept = traced(model.clone(dtype=jnp.bfloat16), SIZES[1])
    assert kept == variables
    assert half["logits"].dtype == half["pre_logits"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.bfloat16 for key, leaf in half.items() if key.startswith("stage"))


@pytest.mark.parametrize("name", MODELS)
def test_parameter_names_are_chosen(name):
    paths = jax.tree_util.tree_flatten_with_path(shapes(name)[1])[0]
    for path, _ in paths:
        assert not any(key.key[0].isupper() for key in path), f"auto-numbered name: {path}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    size, classes, want = PARAMETERS[name]
    assert count(shapes(name, size, classes)[1]["params"]) == want


@pytest.mark.parametrize("name", ["resnet18", "wrn_16_4", "fashion_cnn"])
def test_parameter_count_does_not_depend_on_the_size(name):
    assert count(shapes(name)[1]["params"]) == count(shapes(name, SIZES[1])[1]["params"])


def test_fashion_cnn_stays_small():
    assert count(shapes("fashion_cnn", (28, 28, 1), 10)[1]["params"]) <= 30_000


@pytest.mark.parametrize("name", MODELS)
def test_options_are_checked(name):
    with pytest.raises(UserError, match="unknown option of model"):
        build_model(name, {"num_clases": 10})
    assert {"num_classes", "dtype"} <= set(option_names(resolve("model", MODELS, name)))


@pytest.mark.parametrize(("family", "options"), shrunken())
def test_numbers(family, options):
    """Finite in training and evaluation; every parameter gets a gradient; statistics move in training only."""
    model = family(num_classes=CLASSES, **options)
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    aim = jax.random.normal(jax.random.key(1), (4, CLASSES))
    made = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(2), x[:1])
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), made.get("batch_stats", {}))
    # Zero initialisation gives true zero gradients elsewhere, so every weight is a random number.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.standard_normal(leaf.shape) / max(leaf.size, 9) ** 0.5, jnp.float32
        ),
        made["params"],
    )

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


def test_tables_name_what_exists():
    for name, entry in MODELS.items():
        assert callable(resolve("model", MODELS, name))
        assert entry.about
        assert "parent" in inspect.signature(resolve("model", MODELS, name)).parameters
