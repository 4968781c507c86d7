"""What a run will do, before anything is computed: data, network, optimizer, durations, placement."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
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
)
from cnn.optim import Schedule, make_optimizer, make_schedule
from cnn.state import TrainState, new_state
from cnn.transforms import build_transforms


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One of the evaluations during training.

    Attributes:
      name: '' for the main one.
      title: for messages.
      batches: every example of its split once.
      every: steps between two of them.
      metric: the one that chooses the best checkpoint, where this is the evaluation that does.
      full: whether that metric needs the full scorer.
    """

    name: str
    title: str
    batches: EvalBatches
    every: int
    metric: str = ""
    full: bool = False

    def logged(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The scalars, by the names that metrics.jsonl has for them."""
        root = f"eval/{self.name}/" if self.name else "eval/"
        return {root + key: value for key, value in scores.items() if isinstance(value, int | float)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked config, with everything that it names made.

    Attributes:
      batches: endless training batches, by step.
      evaluations: during training, the main one first.
      test: the split scored at the end, or None.
      total, save_every: in steps.
      schedule: learning rate by step.
      abstract: the state's shapes, types and shardings.
    """

    config: ConfigDict
    dataset: Dataset
    built: Built
    batches: TrainBatches
    evaluations: tuple[Evaluation, ...]
    test: Source | None
    total: int
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
        return self.built.place(batch)

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
        return {"shards": functools.partial(invariant.in_shards, mesh=self.built.mesh, shards=shards)}

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
        ragged=dataset.info.ragged,
        buckets=config.input.buckets,
    )
    total = steps(config, "total", batches.steps_per_epoch, unset=0)
    if total < 1:
        raise UserError("set total_epochs or total_steps to a positive number")
    eval_every = max(steps(config.eval, "every", batches.steps_per_epoch, unset=max(total // 10, 1)), 1)
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
        evaluations=make_evaluations(built, dataset, eval_every, batches.steps_per_epoch),
        test=dataset.source(config.eval.test_split) if config.eval.test_split else None,
        total=total,
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


def make_evaluations(built: Built, dataset: Dataset, every: int, steps_per_epoch: float) -> tuple[Evaluation, ...]:
    """The main evaluation and those of `eval.also`.

    Raises:
      UserError: a metric that the task does not have, an evaluation that is misspelt, or data that do not fit.
    """
    c = built.config.eval
    owner, _, metric = c.metric.rpartition("/")
    if owner not in c.also:  # a metric of the main evaluation may have a slash as well: loss/ce
        owner, metric = "", c.metric
    full = _needs_full(built, metric)
    chooses = {"metric": metric, "full": full}
    found = []
    if c.split:
        batches = eval_batches(built, dataset.source(c.split))
        found.append(Evaluation("", c.split, batches, every, **(chooses if not owner else {})))
    for name, one in c.also.items():
        unknown_fields = set(one) - {"split", "dataset", "data_dir", "batch_size", "every_epochs", "every_steps"}
        if unknown_fields:
            raise unknown(f"field of eval.also.{name}", min(unknown_fields), ("split", "dataset", "data_dir"))
        other = _opened(built, dataset, name, one)
        batches = eval_batches(built, other.source(one.get("split", c.split)), one.get("batch_size", 0))
        pace = max(steps(one, "every", steps_per_epoch, unset=every), 1)
        found.append(Evaluation(name, name, batches, pace, **(chooses if owner == name else {})))
    return tuple(found)


def _needs_full(built: Built, metric: str) -> bool:
    """Whether `eval.metric` needs the full scorer; refuses one that the task does not have."""
    light, everything = (built.task.scorer(full).names for full in (False, True))
    terms = jax.eval_shape(step.make_eval_step(built.model, built.task), built.shapes, built.zeros())[0]
    losses = ("loss", *(f"loss/{name}" for name in terms if len(terms) > 1))
    if metric not in (*everything, *losses):
        raise unknown("eval.metric", metric, (*everything, *losses))
    return metric not in (*light, *losses)


def _opened(built: Built, dataset: Dataset, name: str, one: ConfigDict) -> Dataset:
    """The data of one of `eval.also`: those of the training, or another data set of the same features and classes."""
    if not one.get("dataset") and not one.get("data_dir"):
        return dataset
    how = built.config.input.copy_and_resolve_references()
    how.dataset, how.data_dir = one.get("dataset") or how.dataset, one.get("data_dir", "")
    other = open_dataset(how)
    if other.info.features.keys() != built.info.features.keys() or other.info.class_names != built.info.class_names:
        raise UserError(
            f"eval.also.{name}: data set '{other.info.name}' has other features or classes than '{built.info.name}'"
        )
    return other
