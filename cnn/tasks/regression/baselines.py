"""Simple methods for regression, which every network is compared with."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FIT_EXAMPLES = 10_000  # ridge regression fits at most so many, drawn with the seed
MAX_FEATURES = 3_000  # per example, for ridge regression
RIDGE = 1e-3  # of the mean variance of the features


def predict(train: Mapping[str, Any], test: Mapping[str, Any], key: str, seed: int) -> dict[str, dict[str, Any]]:
    """'mean' of the training targets; 'ridge' regression on the raw, standardised features.

    Args:
      train, test: stacked raw examples with `target` [n, c]; without the input `key` there is no ridge.

    Returns:
      {name: {mse, rmse, mae, train_examples}}.
    """
    y, want = (np.asarray(part["target"], np.float64) for part in (train, test))

    def scores(predicted: np.ndarray, examples: int) -> dict[str, Any]:
        error = predicted - want
        mse = float(np.mean(error**2))
        return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.abs(error).mean()), "train_examples": examples}

    result = {"mean": scores(np.broadcast_to(y.mean(axis=0, keepdims=True), want.shape), len(y))}
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
