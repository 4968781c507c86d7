"""What a task is: everything that the trainer does not know about the problem.

A task is immutable and holds no arrays. Its first half runs inside `jit`: a training step is augment -> inputs -> model
-> losses, an evaluation step leaves augment out and adds metrics and predictions. The second half runs on the host. The
trainer treats all names in their dicts as opaque.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from cnn.errors import UserError
from cnn.features import LENGTH, DatasetInfo
from cnn.scoring.scorer import Scorer
from cnn.shapes import Batch, Outputs
from cnn.tasks import inputs

Pair = tuple[Array, Array]  # (sum, count), both scalars or arrays of one shape
Examples = Mapping[str, Any]  # stacked raw examples of a split, or some of their entries


@runtime_checkable
class Apply(Protocol):
    """Calls the network again, on inputs of the task's choice: `model.apply` with its variables bound.

    Without a `method` the network is called with train=False, unless `train` says otherwise.
    """

    def __call__(self, *arguments: Any, method: Any = None, **keywords: Any) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Base class of all tasks; subclasses add their options as fields.

    Attributes:
      info: the data set's features and class names.
      mean, std: per channel, of the main input (images in [0, 1]); () leaves its scale.
    """

    TARGET: ClassVar[str] = ""  # the target that a data set must have; '' for any
    NEEDS: ClassVar[str] = ""  # what it is, for the message where it is missing

    info: DatasetInfo
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.TARGET and self.TARGET not in self.info.targets:
            raise UserError(
                f"this task needs {self.NEEDS} ('{self.TARGET}'); data set '{self.info.name}' provides "
                f"'{', '.join(self.info.targets)}'. Set task.name to another one: cnn list tasks"
            )
        inputs.check_normalisation(self.mean, self.std)
        self.check()

    def check(self) -> None:
        """Raises UserError for an option out of range, or a data set that does not fit."""

    @property
    def num_outputs(self) -> int:
        """The model's `num_classes`."""
        return self.info.num_classes

    # On the device

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Augmentation that mixes examples. May replace the input and add soft targets."""
        return batch

    def inputs(self, batch: Batch) -> Any:
        """The model's input, a tree of arrays: the main input as float32, minus `mean`, over `std`.

        Values that are not finite stay so.
        """
        return inputs.normalised(inputs.unit(batch[self.info.input_key]), self.mean, self.std)

    def losses(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """{term: (sum, count)}. The loss is the sum of weight x sum / count over the terms.

        The counts may be of examples, tokens, positive anchors or labels that are present: sums and counts are of the
        global batch, so the means are exact on any number of devices, with padding and with micro-batches. Where a
        count is 0, the term is 0. Rows that are not `valid` must not count.
        """
        raise NotImplementedError

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Weights of the terms; those that are missing have 1."""
        return {}

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """{name: (sum, count)} over the valid rows, for the scorer; evaluation adds the losses by itself."""
        return {}

    def predictions(self, out: Outputs, batch: Batch, apply: Apply) -> dict[str, Array]:
        """What can be kept of each example, [b, ...] each.

        Args:
          batch: with targets in evaluation, without them in prediction.
          apply: calls the network again: beam search, dropout as an ensemble, incremental decoding.
        """
        raise NotImplementedError

    # On the host

    def scorer(self, full: bool = True) -> Scorer:
        """What turns the sums and predictions of one evaluation into metrics.

        Args:
          full: everything that a report holds; else only what is cheap enough for every evaluation while training.
        """
        return Scorer()

    def describe(self, row: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """One row of `predictions` as a JSON-able dict in the user's words and units.

        Args:
          frame: of the raw input (`cnn.inference.preprocess.Frame`), for answers in its own geometry.
        """
        raise NotImplementedError

    def write(self, row: Mapping[str, Any], frame: Any, folder: Any) -> dict[str, Any]:
        """Writes what does not fit in a line, such as a mask, into `folder`; returns what `describe` adds about it."""
        raise UserError("this task has no files to write; leave --masks out")

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Whether `baselines` looks at inputs of this shape; where not, it needs no more than the targets."""
        return False

    def baselines(self, train: Examples, test: Examples, seed: int) -> dict[str, dict[str, Any]]:
        """{name: {metric: value}} of simple, strong methods, from stacked raw examples.

        Without inputs in `train` and `test` there are only the methods that need none.
        """
        return {}

    def plot(self, predictions: Mapping[str, Any], examples: Examples, directory: str) -> list[str]:
        """Draws the results of a split as PNG files into `directory`; returns their paths."""
        return []


def counted(values: Shaped[Array, "..."], where: Bool[Array, "..."]) -> Pair:
    """(sum, count) in float32 of the values at `where`; the others may be NaN."""
    # `where`, not a product: padding must not turn 0 * NaN into NaN.
    return jnp.sum(jnp.where(where, values.astype(jnp.float32), 0)), jnp.sum(where.astype(jnp.float32))


def per_example(values: Shaped[Array, " b"], batch: Batch) -> Pair:
    """(sum, count) over the valid rows of a batch."""
    return counted(values, batch["valid"])


def present(batch: Batch, name: str) -> Bool[Array, "b n"]:
    """Which rows of a ragged feature are there, padding of the batch included in what is not."""
    rows = jnp.arange(batch[name].shape[1])
    return (rows[None] < batch[name + LENGTH][:, None]) & batch["valid"][:, None]


def predicted_class(logits: Float[Array, "*b k"]) -> Int[Array, "*b"]:
    """The class of the largest logit; -1, which is none, where a logit is NaN: for `argmax` that is the largest."""
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, jnp.argmax(logits, axis=-1))


def mean_losses(terms: Mapping[str, Pair], counts: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
    """Each term's sum over its count, 0 where nothing was counted."""
    return {
        name: jnp.where(counts[name] > 0, value / jnp.where(counts[name] > 0, counts[name], 1), 0)
        for name, (value, _) in terms.items()
    }


def weighted(weights: Mapping[str, float], means: Mapping[str, Any]) -> Any:
    """The loss: the sum of the terms' means, JAX or NumPy numbers, each times its weight or 1."""
    return sum(weights.get(name, 1.0) * value for name, value in means.items())
