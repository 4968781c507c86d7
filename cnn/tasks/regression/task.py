"""Regression: numbers per example."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn.errors import UserError, unknown
from cnn.scoring import sums as pairs
from cnn.scoring.scorer import Rows, Scorer
from cnn.shapes import Batch, Outputs
from cnn.tasks.base import Apply, Examples, Pair, Task, per_example
from cnn.tasks.regression import baselines, plots

LOSSES = ("mse", "mae", "huber")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """A batch holds the input and `target` float32 [b, c].

    Attributes:
      loss: 'mse', 'mae' or 'huber', which changes over from squares to absolute values at 1.
    """

    TARGET: ClassVar[str] = "target"
    NEEDS: ClassVar[str] = "numbers per example"

    loss: str = "mse"

    def check(self) -> None:
        """See the base class."""
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)

    @property
    def num_outputs(self) -> int:
        """Numbers per example: the model's `num_classes`."""
        return self.info.targets["target"].shape[0]

    # On the device

    def losses(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """The chosen loss, averaged over the numbers of each example."""
        error = self._error(out, batch)
        value = {
            "mse": jnp.square(error),
            "mae": jnp.abs(error),
            "huber": jnp.where(jnp.abs(error) < 1, 0.5 * jnp.square(error), jnp.abs(error) - 0.5),
        }[self.loss]
        return {self.loss: per_example(value.mean(axis=-1), batch)}

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """mse and mae."""
        error = self._error(out, batch)
        found = {"mse": jnp.square(error).mean(axis=-1), "mae": jnp.abs(error).mean(axis=-1)}
        return {name: per_example(value, batch) for name, value in found.items()}

    def _error(self, out: Outputs, batch: Batch) -> Float[Array, "b c"]:
        predicted, target = out["logits"].astype(jnp.float32), batch["target"]
        if predicted.shape != target.shape:
            raise UserError(
                f"the model predicts {predicted.shape[1:]} per example, the target is {target.shape[1:]}"
            )
        return predicted - target

    def predictions(self, out: Outputs, batch: Batch, apply: Apply) -> dict[str, Array]:
        """`prediction` [b, c]."""
        return {"prediction": out["logits"].astype(jnp.float32)}

    # On the host

    def scorer(self, full: bool = True) -> Scorer:
        """See `RegressionScorer` and, in full, `ReportScorer`."""
        return ReportScorer() if full else RegressionScorer()

    def describe(self, row: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """{'prediction': [numbers]}."""
        return {"prediction": [float(value) for value in np.asarray(row["prediction"])]}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Ridge regression reads inputs of up to MAX_FEATURES numbers."""
        return math.prod(input_shape) <= baselines.MAX_FEATURES

    def baselines(self, train: Examples, test: Examples, seed: int) -> dict[str, dict[str, Any]]:
        """See `baselines.predict`."""
        return baselines.predict(train, test, self.info.input_key, seed)

    def plot(self, predictions: Mapping[str, Any], examples: Examples, directory: str) -> list[str]:
        """Predicted against true."""
        return plots.draw(np.asarray(predictions["prediction"]), np.asarray(examples["target"]), directory)


class RegressionScorer(Scorer):
    """mse, mae and rmse."""

    names = ("mse", "mae", "rmse")

    def result(self) -> dict[str, Any]:
        """See the class."""
        found = pairs.means(self.sums)
        return found | {"rmse": math.sqrt(found["mse"]) if found["mse"] >= 0 else found["mse"]}


class ReportScorer(RegressionScorer):
    """Also r2: the share of the targets' variance that is explained, all numbers of an example together."""

    names = (*RegressionScorer.names, "r2")
    predictions, batch = ("prediction",), ("target",)

    def __init__(self) -> None:
        super().__init__()
        self._error, self._count = 0.0, 0
        self._mean: Any = 0.0
        self._spread: Any = 0.0  # sum of squares about the mean, merged batch by batch (Chan et al. 1983)

    def add(self, sums: Mapping[str, tuple[Any, Any]], predictions: Rows, batch: Rows) -> None:
        """Merges the moments of one batch."""
        super().add(sums, predictions, batch)
        predicted, target = (np.asarray(x, np.float64) for x in (predictions["prediction"], batch["target"]))
        if not len(target):
            return
        mean, count = target.mean(axis=0), self._count + len(target)
        step = mean - self._mean
        self._spread = self._spread + ((target - mean) ** 2).sum(axis=0)
        self._spread = self._spread + step**2 * (self._count * len(target) / count)
        self._mean, self._count = self._mean + step * (len(target) / count), count
        self._error += float(np.sum((predicted - target) ** 2))

    def result(self) -> dict[str, Any]:
        """See the class."""
        spread = float(np.sum(self._spread))
        return super().result() | {"r2": 1 - self._error / spread if spread else float("nan")}
