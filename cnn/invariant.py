"""Gradients that are the same to the last bit on any number of devices: `deterministic=invariant`.

Sums of floats depend on their order, and the usual all-reduce has another order on every device count. Here the batch
is cut into a fixed number of virtual shards. Each device takes its shards one after the other, in a loop, so that the
program for a shard is the same everywhere; their gradients are gathered, and every device adds them up in the order of
the shards.

The price: BatchNorm normalises within a virtual shard and not over the batch, running statistics are the means of the
shards' own, dropout and mixup are drawn per shard, every device holds the batch and a copy of the gradients per shard,
and a step is slower (3 to 8 times in a first trial, small networks on a CPU), because nothing is computed over the
whole batch at once. Native convolutions use one thread each, because oneDNN's sums depend on their number: see
`cnn.process.follow`.

The promise is for one kind of hardware and one version of JAX, and it has a known hole: with the Dice loss, one device
differs in the last bits from two, four and eight, which agree. XLA:CPU compiles a program for one device through other
passes, and these fuse the sums of areas otherwise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from cnn.errors import UserError
from cnn.mesh import DATA, data_parallel_size
from cnn.native import onednn
from cnn.shapes import Batch


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError unless this config can be trained so on this mesh."""
    shards, batch = config.mesh.virtual_shards, config.input.batch_size
    for field, value, only in (
        ("mesh.fsdp", config.mesh.fsdp, ""),
        ("mesh.space", config.mesh.space, 1),
        ("optim.accumulate_steps", config.optim.accumulate_steps, 1),
        ("eval.recalibrate_batches", config.eval.recalibrate_batches, 0),
    ):
        if value != only:
            raise UserError(f"deterministic is 'invariant', which takes no {field}: leave it at {only!r}")
    if shards % data_parallel_size(mesh):
        raise UserError(f"mesh.virtual_shards {shards} must be a multiple of the {data_parallel_size(mesh)} device(s)")
    if batch % shards:
        raise UserError(f"input.batch_size {batch} must be a multiple of mesh.virtual_shards {shards}")
    if onednn.threads() != 1:
        raise UserError("deterministic is 'invariant', which needs one thread per native convolution: "
                        "call cnn.process.prepare(config) first")  # fmt: skip


def in_shards(
    counts_of: Callable[..., Any], loss_and_grads: Callable[..., tuple], *, mesh: Mesh, shards: int
) -> Callable[..., tuple]:
    """`loss_and_grads(params, stats, batch, rng)` from `shards` blocks of the batch, added up in a fixed order.

    Args:
      counts_of: (params, stats, batch, rng) -> the counts of the loss's terms; those of all blocks are what each
        block's sums are divided by.
    """
    count, add = summed(counts_of, mesh, shards), summed(loss_and_grads, mesh, shards)

    def whole(params: Any, stats: Any, batch: Batch, rng: jax.Array) -> tuple:
        counts = count(params, stats, batch, rng)
        *found, stats = add(params, stats, batch, rng, counts)
        return *found, jax.tree.map(lambda x: x / shards, stats)

    return whole


def summed(function: Callable[..., Any], mesh: Mesh, shards: int) -> Callable[..., Any]:
    """`function(params, stats, batch, rng, *more)` of `shards` blocks of the batch, added up in a fixed order."""
    share = shards // data_parallel_size(mesh)

    def added(params: Any, stats: Any, batch: Batch, rng: jax.Array, *more: Any) -> Any:
        cut = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)

        def local(params: Any, stats: Any, key: jax.Array, cut: Batch, *more: Any) -> Any:
            def one(index: jax.Array) -> Any:
                rows = jax.tree.map(lambda x: x[index], cut)
                rng = jax.random.fold_in(jax.random.wrap_key_data(key), index)
                return function(params, stats, rows, rng, *more)

            def body(index: jax.Array, found: Any) -> Any:
                return jax.tree.map(lambda whole, new: whole.at[index].set(new), found, one(index))

            empty = jax.tree.map(lambda x: jnp.zeros((shards, *x.shape), x.dtype), jax.eval_shape(one, 0))
            first = lax.axis_index(DATA) * share
            # A loop of known length may be unrolled, and then be fused, and rounded, otherwise than a longer one. This
            # number is 0, which XLA cannot know.
            hidden = jnp.minimum((key[0] >> 1).astype(jnp.int32), 0)
            found = lax.fori_loop(first, first + share + hidden, body, empty)
            mine = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, share), found)
            every = jax.tree.map(lambda x: lax.all_gather(x, DATA, tiled=True), mine)
            return jax.tree.map(sum_in_order, every)

        everywhere = PartitionSpec()
        return jax.shard_map(local, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)(
            params, stats, jax.random.key_data(rng), cut, *more
        )

    return added


def sum_in_order(x: jax.Array) -> jax.Array:
    """Sum over the leading axis, pairwise in an order that the program spells out: [v, ...] -> [...]."""
    parts = list(x)
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return parts[0]
