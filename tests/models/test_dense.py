"""Every entry of MODELS that gives pixels keeps the contract of dense networks, on any backbone and rank.

Real sizes are only traced; what needs numbers runs on the small copy that each family names in `TINY`. A new entry is
tested without a line here; its published counts belong into published.csv (test_models.py compares them).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.models import MODELS, build_model, facts
from cnn.models.dense import HeadOnBackbone
from cnn.models.residual_unet import ResidualUNet
from cnn.models.unet import EncoderDecoder, UNet
from cnn.tables import resolve
from tests.models.test_models import randomised, traced

CLASSES = 3
DENSE = [name for name, entry in MODELS.items() if entry.gives == "pixels"]
BACKBONES = {
    "resnet18": {"stage_sizes": (1, 1, 1, 1), "width": 8},
    "convnext_atto": {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16)},
    "mobilenetv3_small_100": {"width": 0.25},
    "efficientnet_b0": {"width": 0.25, "depth": 0.25},
    "vgg11_bn": {"stage_sizes": (1, 1, 1, 1, 1), "width": 8},
    "densenet121": {"stage_sizes": (1, 1, 1, 1), "growth_rate": 8},
}


def families():
    """One small model per family, named after its first entry."""
    seen = {}
    for name in DENSE:
        target = resolve("model", MODELS, name)
        family = getattr(target, "func", target)
        if family not in seen:
            seen[family] = pytest.param(functools.partial(family, **family.TINY, num_classes=CLASSES), id=name)
    return list(seen.values())


FAMILIES = families()
FIRST = {param.id for param in FAMILIES}  # `make test` keeps one of each family
HEADS = [param for param in FAMILIES if issubclass(param.values[0].func, HeadOnBackbone)]
UNETS = [param for param in FAMILIES if issubclass(param.values[0].func, EncoderDecoder)]


def aux_of(model):
    """Names of the auxiliary outputs."""
    if not model.aux:
        return set()
    return {"aux"} if isinstance(model, HeadOnBackbone) else {f"aux{n}" for n in range(1, len(model.widths) - 1)}


def check_contract(model, size, out, variables, batch, classes, train):
    strides, channels = model.feature_strides, model.feature_channels
    stages = [f"stage{stage}" for stage in range(1, len(strides) + 1)]
    logits = {"logits"} | (aux_of(model) if train else set())
    assert set(out) == {*stages, *logits}
    for name in logits:
        assert out[name].shape == (batch, *size[:-1], classes), name
        assert out[name].dtype == jnp.float32, name
    for name, stride, width in zip(stages, strides, channels, strict=True):
        assert out[name].shape[0] == batch and out[name].shape[-1] == width, name
        assert len(out[name].shape) == len(size) + 1, name
        for found, pixels in zip(out[name].shape[1:-1], size[:-1], strict=True):
            assert -1 < pixels / stride - found < 1, (name, found, pixels / stride)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables) <= {"params", "batch_stats"}
    for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]:
        assert not any(key.key[0].isupper() for key in path), f"auto-numbered name: {path}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.exhaustive) for name in DENSE]
)
def test_the_real_model(name):
    entry = MODELS[name]
    found, out, variables = facts.measure(name)
    model = build_model(name, {"num_classes": entry.classes})
    check_contract(model, entry.input, out, variables, 1, entry.classes, train=False)
    assert facts.stored()[name] == found, "renew cnn/models/facts.csv: python -m cnn.models.facts"
    assert "pixels" in entry.about
    with pytest.raises(UserError, match="unknown option of model"):
        build_model(name, {"num_clases": 10})
    with pytest.raises(UserError, match="num_classes is 0"):
        build_model(name, {})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(33,), (37, 51), (19, 24, 33)], ids=str)
def test_logits_have_the_input_s_pixels(family, size):
    """At every rank, for odd sizes."""
    model, size = family(), (*size, 2)
    check_contract(model, size, *traced(model, size, train=True), 2, CLASSES, train=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_training_and_bfloat16_have_the_same_parameters(family):
    model, size = family(), (40, 32, 2)
    out, variables = traced(model, size)
    check_contract(model, size, out, variables, 2, CLASSES, train=False)
    assert traced(model, size, train=True)[1] == variables
    plain, fewer = traced(model.clone(aux=False), size, train=True)
    assert plain == out
    assert set(variables["params"]) - set(fewer["params"]) == aux_of(model) != set()
    half, kept = traced(model.clone(dtype=jnp.bfloat16), size, train=True)
    assert kept == variables
    check_contract(model, size, half, kept, 2, CLASSES, train=True)
    assert all(leaf.dtype == jnp.bfloat16 for key, leaf in half.items() if key.startswith("stage"))


@pytest.mark.parametrize("family", FAMILIES)
def test_options_are_taken(family):
    plain, size = family(), (32, 40, 3)
    out, variables = traced(plain, size, train=True)
    for options in ({"remat": True, "drop_path": 0.1, "bn": "frozen"}, {"remat": (1,), "dropout": 0.3}):
        assert traced(plain.clone(**options), size, train=True) == (out, variables), options
    for norm in ("group", "instance", "none"):
        other, fewer = traced(plain.clone(norm=norm), size, train=True)
        assert other == out
        at_backbone = {"backbone"} if isinstance(plain, HeadOnBackbone) else set()
        assert set(fewer.get("batch_stats", {})) == at_backbone


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=() if "resnet" in name else pytest.mark.exhaustive) for name in BACKBONES]
)
def test_every_head_runs_on_every_backbone(family, backbone):
    model = family(backbone={"name": backbone, **BACKBONES[backbone]})
    size = (64, 72, 3)
    out, variables = traced(model, size)
    check_contract(model, size, out, variables, 2, CLASSES, train=False)
    for stride in (8, 16, 32):
        dilated = model.clone(output_stride=stride)
        assert max(dilated.feature_strides) == stride
        found, same = traced(dilated, size)
        check_contract(dilated, size, found, same, 2, CLASSES, train=False)
        assert same["params"]["backbone"] == variables["params"]["backbone"]


def check_numbers(model, size):
    """Finite in training and evaluation; every parameter gets a gradient; statistics move in training only."""
    x = jax.random.normal(jax.random.key(0), (2, *size))
    aims = jax.random.normal(jax.random.key(1), (2, *size[:-1], model.num_classes))
    params, stats = randomised(model, x)

    @jax.jit
    def run(params, key):
        def loss(params):
            state = {"params": params, "batch_stats": stats}
            out, new = model.apply(state, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            answers = [out["logits"], *(out[name] for name in aux_of(model))]
            return sum(jnp.sum(jnp.sin(logits) * aims) for logits in answers), (out, new.get("batch_stats", {}))

        grads, (out, moved) = jax.grad(loss, has_aux=True)(params)
        state = {"params": params, "batch_stats": moved}
        scored, kept = model.apply(state, x, train=False, mutable=["batch_stats"])
        return grads, out, moved, scored, kept.get("batch_stats", {})

    grads, out, moved, scored, kept = jax.device_get(run(params, jax.random.key(3)))
    for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.isfinite(grad).all(), path
        assert np.any(grad), f"no gradient: {jax.tree_util.keystr(path)}"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, scored)))
    before = jax.tree_util.tree_flatten_with_path(jax.device_get(stats))[0]
    assert before
    for (path, old), new in zip(before, jax.tree.leaves(moved), strict=True):
        assert not np.array_equal(old, new), f"not moved: {jax.tree_util.keystr(path)}"
    jax.tree.map(np.testing.assert_array_equal, moved, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers(family):
    check_numbers(family(norm="batch"), (32, 40, 3))


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param("convnext_atto"),
        pytest.param("mobilenetv3_small_100", marks=pytest.mark.exhaustive),
        pytest.param("efficientnet_b0", marks=pytest.mark.exhaustive),
    ],
)
def test_numbers_on_other_backbones(backbone):
    fcn = functools.partial(HEADS[0].values[0])
    check_numbers(fcn(backbone={"name": backbone, **BACKBONES[backbone]}), (64, 64, 3))


@pytest.mark.parametrize("family", UNETS)
def test_numbers_of_volumes(family):
    blocks = {"blocks": (1, 1, 1)} if family.func is ResidualUNet else {}
    check_numbers(family(widths=(4, 8, 8), norm="batch", **blocks), (9, 8, 6, 1))


@pytest.mark.parametrize(
    "family",
    [pytest.param(*p.values, id=p.id, marks=pytest.mark.exhaustive if "residual" in p.id else ()) for p in UNETS],
)
def test_recomputing_changes_no_number(family):
    model, x = family(), jax.random.normal(jax.random.key(0), (2, 24, 20, 3))
    params, stats = randomised(model, x)

    def loss(params, remat):
        state = {"params": params, "batch_stats": stats}
        out, _ = model.clone(remat=remat).apply(state, x, train=True, mutable=["batch_stats"])
        return jnp.square(out["logits"]).sum()

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in (False, True))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), again, plain)


def test_the_published_u_nets():
    """31,030,658: the layers of the paper's figure 1 with biases, counted by hand. 19,069,955: the 3-D paper's number,
    section 2, for 3 channels and 3 classes; it has one number per channel and no bias where the way up gets finer."""
    found, _, _ = facts.measure("unet", (572, 572, 1), norm="none")
    convs = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024)]
    convs += [(1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128)]
    convs += [(128, 64), (64, 64)]
    ups = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    by_hand = sum(9 * i * o + o for i, o in convs) + sum(4 * i * o + o for i, o in ups) + 64 * 2 + 2
    assert found.params == by_hand == 31_030_658
    found, _, _ = facts.measure("unet3d", (132, 132, 116, 3), num_classes=3, norm="none")
    assert found.params - (512 + 256 + 128) == 19_069_955


def test_thick_slices():
    """Strides and windows per axis: the first levels leave the thick axis alone."""
    how = {"strides": ((1, 2, 2), 2), "kernel_sizes": ((1, 3, 3), 3, 3)}
    for model in (UNet(2, widths=(4, 8, 8), **how), ResidualUNet(2, widths=(4, 8, 8), blocks=(1, 1, 1), **how)):
        assert model.feature_strides == (1, 2, 4)
        out, variables = traced(model, (5, 16, 18, 1))
        assert [out[f"stage{level}"].shape[1:-1] for level in (1, 2, 3)] == [(5, 16, 18), (5, 8, 9), (3, 4, 5)]
        assert out["logits"].shape == (2, 5, 16, 18, 2)
        kernel = jax.tree.leaves(variables["params"]["stage1"])[-1]
        assert kernel.shape[:3] == (1, 3, 3)


def test_interpolation_on_the_way_up():
    out, _ = traced(UNet(2, widths=(4, 8, 8), up="linear"), (17, 23, 3))
    assert out["logits"].shape == (2, 17, 23, 2)


def test_patches_are_channels():
    """The finest level has a pixel per patch, and every pixel of the input gets its answer, also at a ragged border."""
    model = UNet(2, widths=(4, 8, 8), patch=2, aux=True)
    assert model.feature_strides == (2, 4, 8)
    out, variables = traced(model, (17, 22, 3), train=True)
    assert [out[f"stage{level}"].shape[1:-1] for level in (1, 2, 3)] == [(9, 11), (5, 6), (3, 3)]
    assert out["logits"].shape == out["aux1"].shape == (2, 17, 22, 2)
    assert variables["params"]["classifier"]["kernel"].shape[-2:] == (4, 2 * 2**2)


WRONG = {
    "no name": ("fcn_resnet50", {"backbone": {"width": 8}}, "backbone has no name"),
    "unknown": ("fcn_resnet50", {"backbone": {"name": "resnet51"}}, "unknown backbone 'resnet51'. Did you mean"),
    "its option": ("fcn_resnet50", {"backbone": {"name": "resnet50", "widht": 8}}, "unknown option of backbone"),
    "no space": ("fcn_resnet50", {"backbone": {"name": "mlp"}}, "backbone 'mlp' has no stages"),
    "pixels": ("fcn_resnet50", {"backbone": {"name": "unet"}}, "backbone 'unet' has no stages"),
    "output_stride": ("fcn_resnet50", {"output_stride": 4}, "output_stride 4 is not 8, 16 or 32"),
    "aux_stage": ("fcn_resnet50", {"aux": True, "aux_stage": 5}, "not one of the backbone's 4 stages"),
    "fine stage": (
        "deeplabv3plus_resnet50",
        {"backbone": {"name": "convmixer_768_32"}},
        "needs a stage at stride 4; the backbone's are",
    ),
    "rates": ("deeplabv3_resnet50", {"rates": (0, 1)}, "must be positive"),
    "widths": ("unet", {"widths": (8,)}, "two or more positive numbers"),
    "strides": ("unet", {"strides": (2, 2)}, "between 5 levels there are 4"),
    "kernel_sizes": ("unet", {"kernel_sizes": (3, 3)}, "there are 5 levels"),
    "patch": ("unet", {"patch": 0}, "patch is 0; it must be at least 1"),
    "up": ("unet", {"up": "bilinear"}, "unknown up 'bilinear'"),
    "aux": ("unet", {"widths": (8, 8), "aux": True}, "aux needs a level between"),
    "blocks": ("residual_unet", {"blocks": (1, 2)}, "must be 6 positive numbers"),
    "norm": ("unet", {"norm": "batchnorm"}, "unknown norm"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named(case):
    name, options, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        build_model(name, {"num_classes": 2, **options})
    assert "\n" not in str(caught.value)
