"""Plots of regression."""

import os

import numpy as np
from jaxtyping import Float

from cnn.figures import figure


def draw(predicted: Float[np.ndarray, "n c"], target: Float[np.ndarray, "n c"], directory: str) -> list[str]:
    """Writes `predicted.png`: predicted against true, and the errors; returns its path."""
    predicted, true = np.ravel(predicted), np.ravel(target)
    made = figure(9.0, 4.2)
    left, right = made.subplots(1, 2)
    left.plot(true, predicted, ".", ms=3, alpha=0.5)
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    left.plot(ends, ends, "--", color="#8c8c8c")
    left.set(xlabel="true", ylabel="predicted", title=f"{len(true):,} predictions")
    rmse = np.sqrt(np.mean((predicted - true) ** 2))
    right.hist(predicted - true, bins=50, color="#3b6ea5")
    right.set(xlabel="predicted - true", ylabel="examples", title=f"RMSE {rmse:.3g}")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "predicted.png")
    made.savefig(path, dpi=110)
    return [path]
