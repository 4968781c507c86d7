"""What the sweep does not see of LeNet-5, AlexNet, VGG, GoogLeNet, Inception v3, SqueezeNet, DenseNet and Darknet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.convert.rules import rearranged, targets
from cnn.convert.variables import abstract_variables, convert_state, leaves_in_order, tables_of
from cnn.errors import UserError
from cnn.models import build_model
from cnn.models.alexnet import AlexNet
from cnn.models.darknet import Darknet
from cnn.models.densenet import DenseNet
from cnn.models.googlenet import GoogLeNet
from cnn.models.inception_v3 import InceptionV3
from cnn.models.lenet import LeNet
from cnn.models.squeezenet import SqueezeNet
from cnn.models.vgg import VGG
from experiments.parity import formula


def small(family, **options):
    return family(**{**family.TINY, "num_classes": 3, **options})


def randomised(model, shape):
    """Variables of a model, every one a random number."""
    made = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), jnp.float32), made)


def outputs(model, shape, train=False):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda: model.init_with_output(rngs, jnp.zeros(shape), train=train))


@pytest.mark.parametrize("family", [VGG, GoogLeNet, DenseNet, Darknet])
def test_the_dilated_network_is_the_plain_one_between_its_pixels(family):
    x = jax.random.normal(jax.random.key(0), (1, 64, 32, 3))
    plain = small(family)
    variables = randomised(plain, x.shape)
    want, found = (
        jax.jit(functools.partial(model.apply, train=False))(variables, x)
        for model in (plain, small(family, output_stride=8))
    )
    for stage, stride in enumerate(plain.feature_strides, 1):
        step = max(stride // 8, 1)
        sampled = found[f"stage{stage}"][:, ::step, ::step]
        np.testing.assert_allclose(sampled, want[f"stage{stage}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [LeNet, AlexNet, VGG, GoogLeNet, SqueezeNet, DenseNet, Darknet])
@pytest.mark.parametrize("rank", [1, 3])
def test_every_rank(family, rank):
    model = small(family)
    out, _ = outputs(model, (2, *(64,) * rank, 1))
    assert out["logits"].shape == (2, 3)
    last = out[f"stage{len(model.feature_strides)}"]
    assert last.ndim == rank + 2 and last.shape[-1] == model.feature_channels[-1]


def test_flat_windows_need_pictures():
    with pytest.raises(UserError, match="is for 2 spatial axes, the input has 1"):
        outputs(small(InceptionV3), (1, 99, 3))


@pytest.mark.parametrize(
    ("family", "size", "heads"), [(GoogLeNet, 64, ["aux1", "aux2"]), (InceptionV3, 299, ["aux"])]
)
def test_auxiliary_heads(family, size, heads):
    """They answer while training only, their parameters are always there, and nobody else's change."""
    shape = (2, size, size, 3)
    plain, with_aux = small(family), small(family, aux=True)
    out, variables = outputs(with_aux, shape, train=True)
    scored, kept = outputs(with_aux, shape)
    assert kept == variables
    assert set(out) - set(scored) == set(heads)
    assert all(out[head].shape == (2, 3) and out[head].dtype == jnp.float32 for head in heads)
    without, ours = outputs(plain, shape)
    assert without == scored
    assert {name: tree for name, tree in kept["params"].items() if "aux" not in name} == ours["params"]
    headless, trunk = outputs(small(family, aux=True, num_classes=0), shape, train=True)
    assert not set(heads) & set(headless) and trunk["params"].keys() == ours["params"].keys() - {"head"}


def test_a_picture_that_is_too_small_is_named():
    for model, size in ((AlexNet, 32), (InceptionV3, 40)):
        with pytest.raises(UserError, match="the input is too small: a feature map of "):
            outputs(small(model), (1, size, size, 3))
    with pytest.raises(UserError, match="aux needs a feature map of 17x17 pixels"):
        outputs(small(InceptionV3, aux=True), (1, 224, 224, 3))


# One tensor of each kind that the auxiliary heads of torchvision's files have, and where it belongs.
AUX_TENSORS = {
    "googlenet": {
        "aux1.conv.conv.weight": ((128, 512, 1, 1), "aux1/conv/conv/kernel"),
        "aux1.conv.bn.bias": ((128,), "aux1/conv/bn/bias"),
        "aux2.fc1.weight": ((1024, 2048), "aux2/hidden/fc1/kernel"),
        "aux2.fc2.bias": ((1000,), "aux2/head/bias"),
    },
    "inception_v3": {
        "AuxLogits.conv0.conv.weight": ((128, 768, 1, 1), "aux_head/conv1/conv/kernel"),
        "AuxLogits.conv1.bn.bias": ((768,), "aux_head/conv2/bn/bias"),
        "AuxLogits.fc.weight": ((1000, 768), "aux_head/head/kernel"),
    },
}


@pytest.mark.parametrize("name", AUX_TENSORS)
def test_auxiliary_heads_of_files(name):
    """They fit ours, and are dropped where the network has none."""
    tables = tables_of(name)
    state = {key: np.zeros(shape, np.float32) for key, (shape, _) in AUX_TENSORS[name].items()}
    found = targets(tables["torchvision"], state, ())
    model = build_model(name, {"num_classes": 1000, "aux": True})
    ours = leaves_in_order(abstract_variables(model, lambda: jnp.zeros((1, 299, 299, 3))))
    for key, (_, want) in AUX_TENSORS[name].items():
        leaf = f"params/{want}"
        assert found[key].name == leaf
        assert rearranged(state[key], found[key], ours[leaf].shape).shape == ours[leaf].shape
    dropped = targets(tables["torchvision_without_aux"], state, ())
    assert set(dropped) == set(state) and not any(dropped.values())


def test_lenet_answers_what_numpy_answers():
    """Channels-first NumPy with the names of PyTorch's tutorials: the order of flattening is right."""
    shapes = {
        "conv1": (6, 1, 5, 5),
        "conv2": (16, 6, 5, 5),
        "fc1": (120, 400),
        "fc2": (84, 120),
        "fc3": (10, 84),
    }
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = formula.tensor(f"{name}.weight", shape)
        state[f"{name}.bias"] = formula.tensor(f"{name}.bias", shape[:1])
    image = formula.picture((32, 32, 1))
    model = build_model("lenet5", {"num_classes": 10})
    variables = convert_state("lenet5", "", state, abstract_variables(model, lambda: jnp.asarray(image)))
    found = jax.jit(functools.partial(model.apply, train=False))(variables, image)["logits"]

    x = image.transpose(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        patches = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("bihwyx,oiyx->bohw", patches, state[f"{name}.weight"])
        x = np.tanh(x + state[f"{name}.bias"][:, None, None])
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
    x = x.reshape(1, -1)
    for name in ("fc1", "fc2", "fc3"):
        x = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        x = x if name == "fc3" else np.tanh(x)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet5", {"pool": "mean"}, "unknown pool 'mean'"),
        ("googlenet", {"stages": ()}, "stages has 0 entries"),
        ("densenet121", {"compression": 0.0}, "compression 0.0 is not in"),
        ("densenet121", {"stem": "small"}, "unknown stem 'small'"),
        ("densenet121", {"layer_dropout": 1.0}, "layer_dropout is 1.0"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        build_model(name, options)


def test_a_recomputed_densenet_keeps_less_and_answers_the_same():
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    tall = {"stage_sizes": (5,), "growth_rate": 4}
    plain, recomputed = small(DenseNet, **tall), small(DenseNet, remat=True, **tall)
    variables = randomised(plain, x.shape)

    def run(model):
        def loss(params):
            out, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(out["logits"]))

        kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], variables["params"]))
        return jax.jit(jax.grad(loss))(variables["params"]), sum(leaf.size for leaf in kept)

    (want, much), (found, little) = run(plain), run(recomputed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, want)
    assert little < much / 2
