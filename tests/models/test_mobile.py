"""The mobile families: what the papers' tables become, any spatial rank, stages that end where the resolution does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.models import build_model
from cnn.models.efficientnet import EfficientNet
from cnn.models.mnasnet import MNASNet
from cnn.models.mobile import Row, lay_out
from cnn.models.mobilenet_v1 import MobileNetV1
from cnn.models.mobilenet_v2 import MobileNetV2
from cnn.models.mobilenet_v3 import MobileNetV3
from cnn.models.shufflenet_v2 import ShuffleNetV2, interleave

FAMILIES = (EfficientNet, MobileNetV1, MobileNetV2, MobileNetV3, MNASNet, ShuffleNetV2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("rank", [1, 3])
def test_every_rank(family, rank):
    model = family(num_classes=3, **family.TINY)
    x = jnp.zeros((2, *(32,) * rank, 2))
    out, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x, train=False)
    )
    for stage, (stride, channels) in enumerate(
        zip(model.feature_strides, model.feature_channels, strict=True), 1
    ):
        assert out[f"stage{stage}"].shape == (2, *(32 // stride,) * rank, channels)
    assert variables["params"]["stem"]["conv"]["kernel"].shape[:rank] == (3,) * rank


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("efficientnet_b0", [1, 2, 2, 6, 5]),
        ("efficientnet_b7", [4, 7, 7, 20, 17]),
        ("efficientnet_lite4", [1, 4, 4, 12, 9]),  # the first and the last row are not deepened
        ("efficientnet_v2_s", [2, 4, 4, 15, 15]),
        ("mobilenetv1_100", [1, 2, 2, 6, 2]),
        ("mobilenetv2_100", [1, 2, 3, 7, 4]),
        ("mobilenetv3_large_100", [1, 2, 3, 6, 4]),
        ("mobilenetv3_small_100", [0, 1, 2, 5, 4]),  # stage 1 is the stem
        ("mnasnet_100", [1, 3, 3, 5, 5]),
    ],
)
def test_blocks_of_each_stage(name, blocks):
    assert [len(stage) for stage in build_model(name, {}).plan().stages()] == blocks


def test_sizes_inside_the_blocks():
    """The published sizes that a count of parameters sums up."""
    b0 = build_model("efficientnet_b0", {}).plan()
    assert [block.reduced for block in b0.blocks[:4]] == [8, 4, 6, 6]
    assert [block.expanded for block in b0.blocks[:4]] == [0, 96, 144, 144]
    v3 = build_model("mobilenetv3_large_100", {}).plan()
    assert [block.expanded for block in v3.blocks[1:10]] == [
        64,
        72,
        72,
        120,
        120,
        240,
        200,
        184,
        184,
    ]
    assert [block.reduced for block in v3.blocks if block.reduced][:2] == [24, 32]
    # 19.2 channels: timm's networks round them up, the authors' v2-B down.
    assert build_model("tf_efficientnetv2_b3", {}).feature_channels[0] == 16
    assert build_model("efficientnet_b3", {}).feature_channels[0] == 24


def test_the_kinds_of_rows():
    rows = ((1, 3, 1, 8, 1), (4, 5, 2, 16, 2), (1, 3, 1, 16, 1, True), (4, 3, 2, 16, 1, True))
    blocks = lay_out(rows, 8, lambda channels: channels, depth=1.5, fixed_ends=True, se=True)
    assert [block.stride for block in blocks] == [1, 2, 1, 1, 1, 1, 2]
    assert [block.fused for block in blocks] == [False] * 4 + [True] * 3
    assert [block.last_act for block in blocks] == ["none"] * 4 + ["relu6"] * 2 + ["none"]
    assert [block.reduced for block in blocks] == [2, 2, 4, 4, 0, 0, 0]
    assert lay_out([Row(*rows[0])], 8, lambda c: c) == [dataclasses.replace(blocks[0], reduced=0)]


def test_the_first_block_of_mnasnet_has_no_shortcut():
    blocks = MNASNet(width=0.25).plan().blocks
    assert (
        blocks[0].channels == 8 and not blocks[0].skip and all(block.skip for block in blocks[1:])
    )


def test_interleave_is_the_shuffle_of_two_groups():
    x = np.arange(24.0, dtype=np.float32).reshape(1, 3, 8)
    shuffled = x.reshape(1, 3, 2, 4).swapaxes(-1, -2).reshape(x.shape)
    np.testing.assert_array_equal(interleave(*map(jnp.asarray, np.split(x, 2, axis=-1))), shuffled)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("efficientnet_b0", {"width": 0.0}, "width 0.0 is not a factor"),
        ("mobilenetv2_100", {"depth": -1.0}, "depth -1.0 is not a factor"),
        ("mnasnet_100", {"layout": ()}, "layout has no rows"),
        ("mobilenetv3_large_100", {"layout": ((3, 16),)}, "missing 4 required"),
        ("shufflenet_v2_x1_0", {"channels": (24, 116, 232, 1024)}, "not 5 even numbers"),
        ("shufflenet_v2_x1_0", {"channels": (24, 115, 232, 464, 1024)}, "not 5 even numbers"),
    ],
)
def test_mistakes_are_named(name, options, said):
    with pytest.raises(UserError, match=said):
        build_model(name, options)
