"""Options of the ResNet families."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.residual import STEMS
from cnn.models import build_model
from cnn.models.resnet import ResNet
from cnn.models.wide_resnet import WideResNet

TINY = {"num_classes": 3, "width": 4, "stage_sizes": (1, 1)}


def outputs(model, shape, train=False):
    return jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros(shape), train=train)
    )


def init(model, x):
    # This generator is one instruction, where the default one takes seconds to compile per model.
    key = jax.random.key(1, impl="unsafe_rbg")
    return jax.jit(functools.partial(model.init, train=False))(key, x)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_rank(rank, stem):
    """Also the kinds of shortcut and attention that the sweep's small copy is without."""
    options = {"bottleneck": True, "cardinality": 2, "base_width": 32, "attention": "eca"}
    shortcut = "conv3x3" if stem == "deep" else "avg_pool"
    model = ResNet(**TINY, **options, stem=stem, shortcut=shortcut)
    out, _ = outputs(model, (2, *(16,) * rank, 2))
    for stage, (stride, channels) in enumerate(
        zip(model.feature_strides, model.feature_channels, strict=True)
    ):
        assert out[f"stage{stage + 1}"].shape == (2, *(16 // stride,) * rank, channels)


@pytest.mark.parametrize(
    "options", [{"norm": "group"}, {"bn": "group:2"}, {"bn": "frozen"}, {"remat": True}]
)
def test_options_keep_the_parameters(options):
    def described(tree):
        return jax.tree.map(lambda leaf: leaf.shape, tree["params"])

    for family, tiny in ((ResNet, TINY), (WideResNet, {"num_classes": 3, "depth": 10, "widen": 1})):
        _, plain = outputs(family(**tiny), (2, 16, 16, 3))
        _, other = outputs(family(**tiny, **options), (2, 16, 16, 3))
        assert described(plain) == described(other)
        assert ("batch_stats" in other) == (options.get("norm") != "group")


@pytest.mark.parametrize("bottleneck", [False, True])
def test_blocks_start_as_the_identity(bottleneck):
    model = ResNet(**TINY, stem="cifar", bottleneck=bottleneck, zero_init=True)
    variables = init(model, jnp.zeros((1, 8, 8, 3)))
    for stage in ("stage1", "stage2"):
        block = variables["params"][stage]["block1"]
        last = "bn3" if bottleneck else "bn2"
        assert not np.any(block[last]["scale"])
        assert np.all(block["bn1"]["scale"] == 1)


def test_remat_changes_no_number():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    plain = ResNet(**TINY, stem="cifar", zero_init=False)
    variables = init(plain, x)

    def run(model):
        def loss(params):
            out, new = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out["logits"] ** 2), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        run(plain),
        run(plain.clone(remat=True)),
    )


def test_drop_path_and_dropout_act_in_training_only():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    model = ResNet(**TINY, stem="cifar", zero_init=False, norm="group", drop_path=0.5, dropout=0.5)
    variables = init(model, x)
    run = jax.jit(
        lambda key: model.apply(variables, x, train=True, rngs={"dropout": key})["pre_logits"]
    )
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.isfinite(model.apply(variables, x, train=False)["logits"]).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"stem": "cifr"}, "unknown stem 'cifr'"),
        ("resnet18", {"bn": "local"}, "bn 'local'"),
        ("resnet18", {"norm": "layers"}, "norm 'layers'"),
        ("resnet18", {"shortcut": "conv"}, "unknown shortcut 'conv'"),
        ("resnet18", {"attention": "sea"}, "unknown attention 'sea'"),
        ("resnet18", {"width": (64, 128)}, "width .* is not for 4 stages"),
        ("resnet18", {"cardinality": 32}, "bottleneck=True"),
        ("resnet18", {"output_stride": 4}, "output_stride 4"),
        ("resnet18", {"drop_path": 1.5}, "drop_path is 1.5"),
        ("wrn_28_10", {"depth": 27}, "depth 27"),
        ("mlp", {"initializer": "xavier"}, "initializer 'xavier'"),
        ("resnet18", {"widht": 3}, "Did you mean 'width'"),
        ("resnet19", {}, "Did you mean 'resnet1"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        build_model(name, options)
