"""Plots of sequence labelling."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cnn.figures import figure


def draw(
    predicted: Int[np.ndarray, "n t"], true: Int[np.ndarray, "n t"], class_names: Sequence[str], directory: str
) -> list[str]:
    """Writes `labels.png`: accuracy along the series, and the first one's true and predicted classes."""
    made = figure(9.0, 5.0)
    top, bottom = made.subplots(2, 1, sharex=True)
    top.plot((predicted == true).mean(axis=0), lw=1)
    top.set(ylabel="accuracy", ylim=(-0.05, 1.05), title=f"{len(true):,} series")
    bottom.step(range(true.shape[1]), true[0], where="mid", color="#8c8c8c", lw=3, label="true")
    bottom.step(range(true.shape[1]), predicted[0], where="mid", color="#c0504d", lw=1, label="predicted")
    bottom.set(xlabel="step", ylabel="class", title="the first one")
    bottom.set_yticks(range(len(class_names)), class_names)
    bottom.legend(fontsize=8)
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "labels.png")
    made.savefig(path, dpi=110)
    return [path]
