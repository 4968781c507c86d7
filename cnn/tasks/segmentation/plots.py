"""Pictures of segmentation results: the worst and the best examples with their errors, and bars per class."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, Num, UInt8

from cnn.features import IGNORE
from cnn.figures import class_colours, figure, grey_or_rgb, overlay
from cnn.scoring import overlap

EACH = 4  # worst and best examples
RED, BLUE, GREY = (0.85, 0.15, 0.15), "#3b6ea5", "#8c8c8c"
NAMED_CLASSES = 40  # with more, class names on an axis overlap


def draw(
    said: Integer[np.ndarray, "n *space"],
    mask: Integer[np.ndarray, "n *space"],
    inputs: Num[np.ndarray, "n *space c"],
    names: Sequence[str],
    background: bool,
    directory: str,
) -> list[str]:
    """Writes `examples.png` and `per_class.png`; returns their paths. Of a volume it shows the slice with most objects.

    Args:
      said, mask: class ids; the latter with IGNORE. Pictures or volumes; of other ranks only the bars.
      inputs: raw; bytes, or floats that are stretched from their least to their greatest.
      background: whether class 0 is one; how well an example went is then the mean Dice of the others.
      directory: is made where it does not exist.
    """
    os.makedirs(directory, exist_ok=True)
    counts = overlap.count(said, mask, len(names))
    figures = {"per_class": _per_class(counts.sum(axis=0), names)}
    if mask.ndim in (3, 4):
        score = np.array([overlap.mean(row) for row in overlap.dice(counts)[:, int(background) :]])
        figures["examples"] = _examples(said, mask, inputs, names, score)
    paths = []
    for name, made in figures.items():
        paths.append(os.path.join(directory, f"{name}.png"))
        made.savefig(paths[-1], dpi=110)
    return paths


def _slice(true: np.ndarray, said: np.ndarray) -> Any:
    """Which part of an example is drawn: all of a picture, of a volume the slice with most pixels of a class."""
    if true.ndim == 2:
        return slice(None)
    objects = ((true != 0) & (true != IGNORE)) | (said != 0)
    return int(objects.sum(axis=(1, 2)).argmax())


def _chosen(score: np.ndarray) -> list[int]:
    """The worst and the best, each example once; those without any object are last."""
    order = [int(i) for i in np.argsort(score, kind="stable") if not np.isnan(score[i])]
    order = order or list(range(len(score)))
    return order if len(order) <= 2 * EACH else order[:EACH] + order[-EACH:]


def _examples(said: Any, mask: Any, inputs: Any, names: Sequence[str], score: np.ndarray) -> Any:
    chosen = _chosen(score)
    made = figure(8.6, 2.15 * len(chosen) + 0.8)
    axes = made.subplots(len(chosen), 4, squeeze=False)
    for axis, title in zip(axes[0], ("image", "truth", "prediction", "errors (red)"), strict=True):
        axis.set_title(title, fontsize=10)
    shown = set()
    for line, index in zip(axes, chosen, strict=True):
        part = _slice(mask[index], said[index])
        image, true, guess = grey_or_rgb(inputs[index][part]), mask[index][part], said[index][part]
        shown |= set(np.unique(true)) | set(np.unique(guess))
        pictures = (image, overlay(image, true), overlay(image, guess), _errors(image, true, guess))
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(f"example {index}\nDice {score[index]:.3f}", fontsize=9)
    colours = class_colours(len(names))
    handles = [_patch(colours[k] / 255, names[k]) for k in sorted(shown) if 0 < k < len(names)]
    if IGNORE in shown:
        handles.append(_patch((1.0, 1.0, 1.0), "ignored"))
    handles = handles[:24]
    if handles:
        made.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    made.suptitle("Worst examples first" if len(chosen) == len(score) else f"The {EACH} worst and the {EACH} best")
    return made


def _patch(colour: Any, name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="black", linewidth=0.5, label=name)


def _errors(image: UInt8[np.ndarray, "h w 3"], true: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The picture, pale, with wrong pixels in red and ignored ones in white."""
    shown = 0.4 * image / 255 + 0.5
    shown[(said != true) & (true != IGNORE)] = RED
    shown[true == IGNORE] = 1.0
    return shown


def _per_class(counts: np.ndarray, names: Sequence[str]) -> Any:
    rows = overlap.per_class(counts, names)
    where = np.arange(len(names))
    made = figure(max(5.0, min(3.0 + 0.5 * len(names), 16.0)), 4.2)
    axes = made.subplots()
    for shift, name, colour in ((-0.2, "IoU", BLUE), (0.2, "Dice", GREY)):
        axes.bar(where + shift, [row[name.lower()] or 0 for row in rows], 0.4, color=colour, label=name)
    if len(names) <= NAMED_CLASSES:
        axes.set_xticks(where, names, rotation=0 if max(map(len, names)) <= 4 else 45)
    axes.set_ylim(0, 1)
    scores = overlap.scores(counts, False)
    axes.set_title(f"Mean IoU {scores['miou']:.3f}, {scores['accuracy']:.2%} of the pixels right")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", fontsize=8)
    return made
