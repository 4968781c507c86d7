"""What a task is: everything that the trainer does not know about the problem.

A task is immutable and holds no arrays. `inputs`, `augment`, `loss`, `metrics` and `predictions` run inside
`jit`; the rest runs on the host. The trainer treats all names in their dicts as opaque.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from jaxtyping import Array, Float, Key

from cnn.shapes import Batch, Outputs, PerExample


class Task(Protocol):
    """One training step is: augment -> inputs -> model -> loss; an evaluation step leaves augment away.

    Attributes:
      proportions: metrics that are a share of the evaluated examples, which alone have Wilson's interval.
    """

    proportions: ClassVar[tuple[str, ...]]

    @property
    def num_outputs(self) -> int:
        """The model's `num_classes`."""

    def init_batch(self, input_shape: tuple[int, ...] | None = None) -> Batch:
        """A batch of one zero example, of the types that the pipeline delivers.

        Args:
          input_shape: of one input after the transforms; None is the data set's own.
        """

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """On-device augmentation that mixes examples. May replace the input and add soft targets."""

    def inputs(self, batch: Batch) -> Float[Array, "b *space c"]:
        """The model's input, float32, normalised. Values that are not finite stay so."""

    def loss(self, out: Outputs, batch: Batch) -> PerExample:
        """Loss of each example, float32. Only evaluation batches hold padding; `metrics` masks it."""

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """{name: (sum, count)} over the rows where `batch['valid']`; see `cnn.scoring.sums`."""

    def finalize(self, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """Sums of many batches -> {name: float, or nested lists for a matrix}; JSON-able."""

    def report(self, predictions: Mapping[str, Any], targets: Any) -> dict[str, Any]:
        """What no sums of batches give, of a whole split's `predictions` and targets; JSON-able like `finalize`."""

    def predictions(self, out: Outputs) -> dict[str, Array]:
        """What the host keeps of each example, [b, ...] each."""

    def describe(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """One row of `predictions` as a JSON-able dict in the user's words."""

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Whether `baselines` looks at inputs of this shape; where not, it needs no more than the rest."""

    def baselines(
        self, train: Mapping[str, Any], test: Mapping[str, Any], seed: int
    ) -> dict[str, dict[str, Any]]:
        """{name: {metric: value}} of strong trivial answers, from stacked raw examples.

        Without inputs in `train` and `test` there are only those answers that need none.
        """

    def draw(
        self, predictions: Mapping[str, Any], examples: Mapping[str, Any], directory: str
    ) -> list[str]:
        """Writes pictures of the results as PNG files into `directory`; returns their paths."""
