"""The fused form of RepVGG answers as the trained one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.models import build_model
from cnn.models.repvgg import RepVGG, reparameterize


def random_variables(model, x):
    """Variables of which none is 0 or 1, and variances that are positive."""
    rng = np.random.default_rng(0)
    made = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) - 0.4, made)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fused_equals_trained(rank):
    model = RepVGG(num_classes=5, **RepVGG.TINY, norm_epsilon=1e-3)
    x = jax.random.normal(jax.random.key(1), (2, *(32, 16, 16)[:rank], 3))
    variables = random_variables(model, x)
    fused = reparameterize(variables, epsilon=1e-3)
    deployed = model.clone(deploy=True)
    made = jax.eval_shape(functools.partial(deployed.init, train=False), jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, fused) == jax.tree.map(jnp.shape, made)

    want = jax.jit(functools.partial(model.apply, train=False))(variables, x)
    found = jax.jit(functools.partial(deployed.apply, train=False))(fused, x)
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=key)


def test_the_real_network_is_a_plain_chain():
    """One convolution per block and the stem, whose count the paper's table 4 gives for A0."""
    model = build_model("repvgg_a0", {"num_classes": 1000, "deploy": True})
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    kernels = [leaf for leaf in jax.tree.leaves(made["params"]) if leaf.ndim == 4]
    assert len(kernels) == 1 + 2 + 4 + 14 + 1
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == pytest.approx(8.30e6, abs=0.01e6)
    assert set(made) == {"params"}


def test_only_batch_norm_can_be_fused():
    model = RepVGG(**RepVGG.TINY, norm="group")
    variables = random_variables(model, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(UserError, match="only norm='batch' can be re-parameterised"):
        reparameterize(variables)
