"""Gradients that are the same to the last bit on any number of devices: `deterministic=invariant`.

Sums of floats depend on their order, and the usual all-reduce has another order on every device count. Here the batch
is cut into a fixed number of virtual shards. Each device takes its shards one after the other, in a loop, so that the
program for a shard is the same everywhere; their gradients are gathered, and every device adds them up in the order of
the shards.

The price: BatchNorm normalises within a virtual shard and not over the batch, running statistics are the means of the
shards' own, dropout is drawn per shard, memory holds one copy of the gradients per shard, and a step is slower (3 to 8
times, small networks on a CPU), because nothing is computed over the whole batch at once. Native convolutions use one
thread each, because oneDNN's sums depend on their number. At least two shards per device: a loop of one pass is
compiled into something else, with other roundings.

Tested on a ResNet and a TCN; a U-Net still differs between 1 and 8 devices (tests/test_invariant.py).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from cnn.errors import UserError
from cnn.mesh import DATA, parts
from cnn.native import onednn
from cnn.shapes import Batch

LEAST = 2  # virtual shards per device


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
    if shards % parts(mesh) or shards < LEAST * parts(mesh):
        raise UserError(
            f"mesh.virtual_shards {shards} must be a multiple of the {parts(mesh)} device(s), at least {LEAST} for each"
        )
    if batch % shards:
        raise UserError(f"input.batch_size {batch} must be a multiple of mesh.virtual_shards {shards}")
    onednn.use_threads(1)


def in_shards(loss_and_grads: Callable[..., tuple], mesh: Mesh, shards: int) -> Callable[..., tuple]:
    """`loss_and_grads(params, stats, batch, rng)` as the mean over `shards` blocks of the batch, in a fixed order."""

    def summed(params: Any, stats: Any, batch: Batch, rng: jax.Array) -> tuple:
        cut = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)

        def local(params: Any, stats: Any, key: jax.Array, index: jax.Array, cut: Batch) -> tuple:
            def one(shard: tuple[jax.Array, Batch]) -> tuple:
                index, rows = shard
                return loss_and_grads(params, stats, rows, jax.random.fold_in(jax.random.wrap_key_data(key), index))

            found = jax.tree.map(lambda x: lax.all_gather(x, DATA, tiled=True), lax.map(one, (index, cut)))
            zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), found)
            return lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, part), None), zero, found)[0]

        one, split = PartitionSpec(), PartitionSpec(DATA)
        total = jax.shard_map(
            local, mesh=mesh, in_specs=(one, one, one, split, split), out_specs=one, check_vma=False
        )(params, stats, jax.random.key_data(rng), jnp.arange(shards), cut)
        return jax.tree.map(lambda x: x / shards, total)

    return summed
