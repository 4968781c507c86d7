"""What a run will do, before anything is computed: data, network, optimizer, durations, placement."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from cnn import distributed, invariant, step, tree
from cnn.build import Built, build, eval_batches, network_spec
from cnn.card import make_card
from cnn.config import check, steps
from cnn.data import Dataset, open_dataset
from cnn.data.pipeline import EvalBatches, TrainBatches
from cnn.data.sources import Source
from cnn.errors import UserError, unknown
from cnn.mesh import (
    batch_sharding,
    data_parallel_size,
    on_cpu,
    process_share,
    replicated,
    state_sharding,
    to_global,
)
from cnn.optim import Schedule, make_optimizer, make_schedule
from cnn.state import TrainState, new_state
from cnn.transforms import build_transforms


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked config, with everything that it names made.

    Attributes:
      batches: endless training batches, by step.
      watched: the split scored during training, or None; `test`: the one scored at the end, or None.
      total, eval_every, save_every: in steps.
      schedule: learning rate by step.
      abstract: the state's shapes, types and shardings.
    """

    config: ConfigDict
    dataset: Dataset
    built: Built
    batches: TrainBatches
    watched: EvalBatches | None
    test: Source | None
    total: int
    eval_every: int
    save_every: int
    schedule: Schedule
    tx: optax.GradientTransformation
    abstract: TrainState

    def __str__(self) -> str:
        """One line: what is trained, on what, for how long, where."""
        mesh = self.built.mesh
        return (
            f"{self.config.model.name}: {tree.size(self.abstract.params):,} parameters; "
            f"{self.batches.size:,} examples, {self.total:,} steps of {self.config.input.batch_size} on "
            f"{mesh.size} {mesh.devices.flat[0].platform} device(s)"
        )

    @property
    def placement(self) -> Any:
        """One sharding per leaf of the state."""
        return jax.tree.map(lambda x: x.sharding, self.abstract)

    @property
    def patience(self) -> float:
        """Evaluations without improvement before stopping early."""
        return self.config.eval.patience or math.inf

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's rows of a batch on the devices."""
        return to_global(batch, self.built.mesh)

    def meta(self, step: int) -> dict[str, Any]:
        """What a checkpoint of `step` says besides its arrays; `position` counts examples drawn."""
        return {
            "step": step,
            "position": step * self.config.input.batch_size,
            "config": self.config.to_dict(),
            "card": make_card(self.config, self.built.info, self.built.spec),
            "data": self.dataset.fingerprint,
        }

    def seen(self) -> Source:
        """All that a run may learn from: the training split and the one that chooses the best checkpoint."""
        parts = [self.config.input.train_split, self.config.eval.split]
        return self.dataset.source("+".join(dict.fromkeys(part for part in parts if part)))

    def new_state(self, variables: dict[str, Any] | None = None) -> TrainState:
        """The state before the first step, placed; from fresh variables or from given ones."""
        ema = self.config.optim.ema_decay > 0
        if variables is None:
            make = jax.jit(
                lambda: new_state(self.built.init(), self.tx, ema),
                out_shardings=self.placement,
                # Runs once: optimizing the random numbers of a ResNet takes XLA:CPU half a minute.
                compiler_options={"xla_backend_optimization_level": 0} if on_cpu(self.built.mesh) else None,
            )
            return make()
        make = jax.jit(lambda v: new_state(v, self.tx, ema), out_shardings=self.placement)
        return make(distributed.whole(variables) if distributed.several() else variables)

    def _invariant(self) -> dict[str, Any]:
        if self.config.deterministic != "invariant":
            return {}
        shards = self.config.mesh.virtual_shards
        return {"in_shards": functools.partial(invariant.in_shards, mesh=self.built.mesh, shards=shards)}

    def train_step(self) -> Callable[..., Any]:
        """The compiled update; it donates its state."""
        optim, mesh = self.config.optim, self.built.mesh
        # Over `space` arrays are split by their shapes: as they come.
        batch = batch_sharding(mesh) if mesh.size == data_parallel_size(mesh) else None
        return jax.jit(
            step.make_train_step(
                self.built.model,
                self.built.task,
                self.tx,
                self.schedule,
                seed=self.config.seed,
                accumulate_steps=optim.accumulate_steps,
                ema_decay=optim.ema_decay,
                freeze=optim.freeze,
                unroll=on_cpu(mesh),
                **self._invariant(),
            ),
            donate_argnums=0,
            in_shardings=(self.placement, batch),
            out_shardings=(self.placement, replicated(mesh)),
        )


def make_plan(config: ConfigDict, devices: Sequence[Any] | None = None) -> Plan:
    """Checks a config by making everything that it names; computes nothing.

    Args:
      devices: that it will run on; None for this machine's.

    Raises:
      UserError: whatever is wrong with it.
    """
    check(config)
    with distributed.main_first("open the data"):
        dataset = open_dataset(config.input)
        source = dataset.source(config.input.train_split)
    built = build(config, dataset.info, network_spec(config, dataset.info, source), devices)
    _check_metric(built)
    _check_batch_size(config, built)
    if config.deterministic:
        invariant.check(config, built.mesh)
    batches = TrainBatches(
        source,
        build_transforms(config.input.train_transforms),
        config.input.batch_size,
        config.seed,
        *process_share(built.mesh),
        shuffle=config.input.shuffle,
    )
    total = steps(config, "total", batches.steps_per_epoch, unset=0)
    if total < 1:
        raise UserError("set total_epochs or total_steps to a positive number")
    eval_every = steps(config.eval, "every", batches.steps_per_epoch, unset=max(total // 10, 1))
    save_every = steps(config.checkpoint, "every", batches.steps_per_epoch, unset=eval_every)
    schedule = make_schedule(config.schedule, config.optim.lr, total, batches.steps_per_epoch)
    tx = make_optimizer(config.optim, schedule, built.shapes["params"])
    abstract = jax.eval_shape(lambda v: new_state(v, tx, config.optim.ema_decay > 0), built.shapes)
    placement = state_sharding(abstract, built.mesh, config.mesh.fsdp)
    return Plan(
        config=config,
        dataset=dataset,
        built=built,
        batches=batches,
        watched=eval_batches(built, dataset.source(config.eval.split)) if config.eval.split else None,
        test=dataset.source(config.eval.test_split) if config.eval.test_split else None,
        total=total,
        eval_every=max(eval_every, 1),
        save_every=max(save_every, 1),
        schedule=schedule,
        tx=tx,
        abstract=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placement
        ),
    )


def _check_batch_size(config: ConfigDict, built: Built) -> None:
    """Raises UserError unless the batch divides over the devices and the micro-batches."""
    cut = data_parallel_size(built.mesh)
    devices = f"{cut} device(s)" if cut == built.mesh.size else f"{cut} parts of {built.mesh.size} devices"
    every = cut * config.optim.accumulate_steps
    if config.input.batch_size < 1 or config.input.batch_size % every:
        raise UserError(
            f"input.batch_size {config.input.batch_size} must be a multiple of {every}: {devices} x "
            f"{config.optim.accumulate_steps} optim.accumulate_steps"
        )


def _check_metric(built: Built) -> None:
    """Raises UserError unless the task finalizes `eval.metric` as a number."""
    eval_step = step.make_eval_step(built.model, built.task)
    sums, _ = jax.eval_shape(eval_step, built.shapes, built.zeros())
    found = built.task.finalize(jax.tree.map(lambda x: np.zeros(x.shape), sums))
    scalars = [name for name, value in found.items() if isinstance(value, float)]
    if built.config.eval.metric not in scalars:
        raise unknown("eval.metric", built.config.eval.metric, scalars)
