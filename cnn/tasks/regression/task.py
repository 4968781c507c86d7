"""Regression: some numbers per series or picture."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnn.errors import UserError, unknown
from cnn.features import DatasetInfo
from cnn.figures import figure
from cnn.scoring import sums as metric_sums
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks import inputs

LOSSES = ("mse", "mae", "huber")
FIT_EXAMPLES = 10_000  # ridge regression fits at most so many, drawn with the seed
MAX_FEATURES = 3_000  # per example, for ridge regression
RIDGE = 1e-3  # of the mean variance of the features


@dataclasses.dataclass(frozen=True)
class Regression:
    """The task; `regression` builds it and describes the options.

    A batch holds the input and `target` float32 [b, n].
    """

    info: DatasetInfo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    objective: str

    def __post_init__(self) -> None:
        if self.objective not in LOSSES:
            raise unknown("loss", self.objective, LOSSES)
        if self.info.target_key != "target":
            raise UserError(f"data set '{self.info.name}' has no numbers to predict; its task is another one")
        inputs.check_normalisation(self.mean, self.std)

    @property
    def num_outputs(self) -> int:
        """Numbers per example: the model's `num_classes`."""
        return self.info.target_shape[0]

    def init_batch(self, input_shape: tuple[int, ...] | None = None) -> Batch:
        """See `inputs.one_zero`."""
        return inputs.one_zero(self.info, input_shape)

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Nothing is mixed."""
        return batch

    def inputs(self, batch: Batch) -> Float[Array, "b *space c"]:
        """float32, minus `mean`, over `std`."""
        return inputs.normalised(inputs.unit(batch[self.info.input_key]), self.mean, self.std)

    def loss(self, out: Outputs, batch: Batch) -> PerExample:
        """The chosen loss, averaged over the numbers of each example; Huber's changes over at 1."""
        away = self._away(out, batch)
        value = {
            "mse": jnp.square(away),
            "mae": jnp.abs(away),
            "huber": jnp.where(jnp.abs(away) < 1, 0.5 * jnp.square(away), jnp.abs(away) - 0.5),
        }[self.objective]
        return value.mean(axis=-1)

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """loss, mse and mae; `rmse` comes from `finalize`."""
        valid, away = batch["valid"], self._away(out, batch)
        count = jnp.sum(valid.astype(jnp.float32))
        found = {
            "loss": self.loss(out, batch),
            "mse": jnp.square(away).mean(axis=-1),
            "mae": jnp.abs(away).mean(axis=-1),
        }
        return {name: (jnp.sum(jnp.where(valid, value, 0)), count) for name, value in found.items()}

    def _away(self, out: Outputs, batch: Batch) -> Float[Array, "b n"]:
        said, target = out["logits"].astype(jnp.float32), batch["target"]
        if said.shape != target.shape:
            raise UserError(f"the model answers with {said.shape[1:]} per example, the target is {target.shape[1:]}")
        return said - target

    def predictions(self, out: Outputs) -> dict[str, Array]:
        """`prediction` [b, n]."""
        return {"prediction": out["logits"].astype(jnp.float32)}

    # On the host

    def finalize(self, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """Means, and the root of the mean squared error."""
        found = metric_sums.means(sums)
        return found | {"rmse": math.sqrt(found["mse"]) if found["mse"] >= 0 else found["mse"]}

    def report(self, predictions: Mapping[str, Any], targets: Any) -> dict[str, Any]:
        """`r2`: share of the targets' variance that is explained, all numbers of an example together."""
        said, target = np.asarray(predictions["prediction"], np.float64), np.asarray(targets, np.float64)
        spread = np.sum((target - target.mean(axis=0, keepdims=True)) ** 2)
        return {"r2": float(1 - np.sum((said - target) ** 2) / spread) if spread else float("nan")}

    def describe(self, prediction: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """{'prediction': [numbers]}."""
        return {"prediction": [float(value) for value in np.asarray(prediction["prediction"])]}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """Ridge regression reads inputs of up to MAX_FEATURES numbers."""
        return math.prod(input_shape) <= MAX_FEATURES

    def baselines(self, train: Mapping[str, Any], test: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
        """'mean' of the training targets; 'ridge' regression on the raw, standardised features."""
        y, want = (np.asarray(part["target"], np.float64) for part in (train, test))

        def scores(said: np.ndarray, examples: int) -> dict[str, Any]:
            away = said - want
            mse = float(np.mean(away**2))
            return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.abs(away).mean()), "train_examples": examples}

        result = {"mean": scores(np.broadcast_to(y.mean(axis=0, keepdims=True), want.shape), len(y))}
        key = self.info.input_key
        if key not in train or math.prod(train[key].shape[1:]) > MAX_FEATURES:
            return result
        rows = np.arange(len(y))
        if len(rows) > FIT_EXAMPLES:
            rows = np.random.default_rng(seed).choice(len(rows), FIT_EXAMPLES, replace=False)
        x = np.asarray(train[key][rows], np.float64).reshape(len(rows), -1)
        other = np.asarray(test[key], np.float64).reshape(len(want), -1)
        centre, spread = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True)
        spread[spread == 0] = 1
        x, other, offset = (x - centre) / spread, (other - centre) / spread, y[rows].mean(axis=0, keepdims=True)
        gram = x.T @ x + RIDGE * len(rows) * np.eye(x.shape[1])
        result["ridge"] = scores(other @ np.linalg.solve(gram, x.T @ (y[rows] - offset)) + offset, len(rows))
        return result

    def draw(self, predictions: Mapping[str, Any], examples: Mapping[str, Any], directory: str) -> list[str]:
        """`predicted.png`: said against true, and the errors."""
        said, true = np.ravel(predictions["prediction"]), np.ravel(examples["target"])
        made = figure(9.0, 4.2)
        left, right = made.subplots(1, 2)
        left.plot(true, said, ".", ms=3, alpha=0.5)
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        left.plot(ends, ends, "--", color="#8c8c8c")
        left.set(xlabel="true", ylabel="predicted", title=f"{len(true):,} predictions")
        rmse = np.sqrt(np.mean((said - true) ** 2))
        right.hist(said - true, bins=50, color="#3b6ea5")
        right.set(xlabel="predicted - true", ylabel="examples", title=f"RMSE {rmse:.3g}")
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "predicted.png")
        made.savefig(path, dpi=110)
        return [path]


def regression(
    info: DatasetInfo, mean: tuple[float, ...] = (), std: tuple[float, ...] = (), loss: str = "mse"
) -> Regression:
    """Builds the task; `loss` is the option of `config.task`: 'mse', 'mae' or 'huber'.

    Raises:
      UserError: another loss, or a data set without numbers to predict.
    """
    return Regression(info, tuple(mean), tuple(std), loss)
