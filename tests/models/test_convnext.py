"""ConvNeXt beyond the sweep: other ranks, dilation in numbers, channels that are dead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.layers.attention import GlobalResponseNorm
from cnn.models.convmixer import convmixer_1024_20_ks9_p14
from cnn.models.convnext import ConvNeXt

TINY = {**ConvNeXt.TINY, "num_classes": 3}


@pytest.mark.parametrize("rank", [1, 3])
def test_kernels_have_the_rank_of_the_input(rank):
    model, x = ConvNeXt(**TINY), jnp.ones((2, *(32,) * rank, 2))
    out, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x, train=False)
    )
    assert variables["params"]["stage3"]["block1"]["depthwise"]["kernel"].shape == (3,) * rank + (1, 16)
    assert [out[f"stage{i}"].shape[1:-1] for i in (1, 2, 3, 4)] == [(n,) * rank for n in (8, 4, 2, 1)]
    assert out["logits"].shape == (2, 3)


def test_a_dilated_network_answers_as_the_plain_one_where_both_have_pixels():
    x = jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
    options = {**ConvNeXt.TINY, "grn": False, "layer_scale": 1.0}  # GRN looks at the whole picture
    plain = ConvNeXt(**options)
    variables = plain.init(jax.random.key(1), x, train=False)
    want = plain.apply(variables, x, train=False)
    for output_stride in (8, 16):
        found = plain.clone(output_stride=output_stride).apply(variables, x, train=False)
        for stage, stride in (("stage3", 16), ("stage4", 32)):
            step = stride // min(stride, output_stride)
            at = found[stage][:, ::step, ::step]
            np.testing.assert_allclose(at, want[stage], rtol=1e-4, atol=1e-5)


def test_a_dead_channel_has_a_gradient_of_zero():
    """GELU in bfloat16 makes whole channels exactly zero, where a norm has no derivative."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)).at[..., 1].set(0)
    model = GlobalResponseNorm()
    params = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(model.apply(params, x))))(x)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ConvNeXt(depths=(1, 1)), "a number per stage each"),
        (lambda: ConvNeXt(kernel_size=4), "must be odd"),
        (lambda: ConvNeXt(act="gelo"), "gelu"),
        (lambda: convmixer_1024_20_ks9_p14(output_stride=8), "14 pixels wide"),
    ],
)
def test_mistakes(make, text):
    with pytest.raises(UserError, match=text):
        make()
