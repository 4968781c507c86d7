"""Pictures of classification results."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn.figures import figure
from cnn.scoring import classification as scores

BLUE, RED, GREY = "#3b6ea5", "#c0504d", "#8c8c8c"
NAMED_CLASSES = 40  # with more, class names on an axis overlap
NUMBERED_CLASSES = 15  # with more, numbers in the confusion matrix overlap
TABLED_CLASSES = 20  # with more, the table under the bars is too long to read
MISTAKES = 20


def draw(
    probs: np.ndarray,
    label: np.ndarray,
    inputs: np.ndarray,
    class_names: Sequence[str],
    directory: str,
) -> list[str]:
    """Writes `confusion.png`, `per_class.png`, `reliability.png`, `risk_coverage.png` and, where there are mistakes,
    `mistakes.png`.

    Args:
      probs: [n, k].
      label: [n], true classes.
      inputs: raw images [n, h, w, c] (uint8, or float in [0, 1]) or series [n, t, c]; other ranks are left
        out. May hold fewer rows than `probs`; mistakes are then picked among these.
      directory: is made where it does not exist.

    Returns:
      The paths of the PNG files.
    """
    probs, label = np.asarray(probs), np.asarray(label)
    os.makedirs(directory, exist_ok=True)
    k = len(class_names)
    confusion = scores.confusion_matrix(probs.argmax(axis=1), label, k)
    figures = {
        "confusion": _confusion(confusion, class_names),
        "per_class": _per_class(confusion, class_names),
        "reliability": _reliability(scores.reliability(probs, label)),
        "risk_coverage": _risk_coverage(scores.risk_coverage(probs, label)),
    }
    mistakes = _mistakes(probs, label, np.asarray(inputs), class_names)
    if mistakes is not None:
        figures["mistakes"] = mistakes
    paths = []
    for name, made in figures.items():
        paths.append(os.path.join(directory, f"{name}.png"))
        made.savefig(paths[-1], dpi=110)
    return paths


def _confusion(confusion: np.ndarray, names: Sequence[str]) -> Any:
    k = len(names)
    size = min(4.0 + 0.42 * k, 12.0)
    made = figure(size, size)
    axes = made.add_subplot()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    made.colorbar(image, ax=axes, shrink=0.75, label="share of the true class")
    if k <= NUMBERED_CLASSES:
        for row, column in np.argwhere(confusion):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    if k <= NAMED_CLASSES:
        axes.set_xticks(range(k), names, rotation=90)
        axes.set_yticks(range(k), names)
    accuracy = np.trace(confusion) / max(confusion.sum(), 1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"Confusion matrix: {accuracy:.2%} of {confusion.sum():,} right")
    return made


def _per_class(confusion: np.ndarray, names: Sequence[str]) -> Any:
    k = len(names)
    actual, guessed, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    recall, precision = hits / np.maximum(actual, 1), hits / np.maximum(guessed, 1)
    tabled = k <= TABLED_CLASSES
    made = figure(max(5.0, min(3.0 + 0.6 * k, 16.0)), 4.5 + 0.22 * k * tabled)
    axes, below = made.subplots(2, 1, height_ratios=[3.2, 0.22 * k + 0.5]) if tabled else (made.subplots(), None)
    where = np.arange(k)
    axes.bar(where - 0.2, recall, 0.4, color=BLUE, label="recall")
    axes.bar(where + 0.2, precision, 0.4, color=GREY, label="precision")
    # Bars between 0.9 and 1 all look alike, so the axis starts just below the lowest one.
    lowest = np.concatenate([recall[actual > 0], precision[guessed > 0], [1.0]]).min()
    axes.set_ylim(max(0.0, np.floor(lowest * 10 - 1) / 10), 1.0)
    if k <= NAMED_CLASSES:
        axes.set_xticks(where, names, rotation=0 if max(map(len, names)) <= 4 else 45)
    start = axes.get_ylim()[0]
    note = f" (axis starts at {start:.1f})" if start else ""
    axes.set_title("Recall and precision per class" + note)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", fontsize=8)
    if below is not None:
        _table(below, scores.per_class(confusion, names))
    return made


def _table(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.axis("off")
    head = ("class", "precision", "recall", "f1", "support")

    def text(value: Any) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    cells = [[text(row[key]) for key in head] for row in rows]
    table = axes.table(cells, colLabels=head, loc="upper center", cellLoc="right", bbox=(0, 0, 1, 1))
    table.auto_set_font_size(False)
    table.set_fontsize(8)


def _reliability(found: scores.Reliability) -> Any:
    made = figure(4.6, 5.2)
    top, bottom = made.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    width = np.diff(found.edges)
    centre = found.edges[:-1] + width / 2
    top.bar(centre, np.nan_to_num(found.accuracy), 0.92 * width, color=BLUE, label="share of right answers")
    top.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    seen = found.count > 0
    top.plot(found.confidence[seen], found.accuracy[seen], "o", ms=4, color=RED, label="mean confidence of the bin")
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.set_title(f"Reliability: ECE {found.ece:.3f} ({len(found.count)} bins, {found.count.sum():,} examples)")
    top.legend(fontsize=8, loc="upper left")
    bottom.bar(centre, found.count / max(found.count.sum(), 1), 0.92 * width, color=GREY)
    bottom.set(xlabel="confidence of the answer", ylabel="examples")
    bottom.yaxis.set_major_formatter("{x:.0%}")
    return made


def _risk_coverage(found: scores.RiskCoverage) -> Any:
    made = figure(4.6, 3.6)
    axes = made.add_subplot()
    axes.plot(found.coverage, found.risk, color=BLUE, label="most confident answers first")
    axes.axhline(found.risk[-1], ls="--", color=GREY, label="all answered, or a confidence that says nothing")
    axes.set(xlabel="share of examples answered", ylabel="share of them wrong", xlim=(0, 1))
    axes.set_ylim(0, max(1.15 * float(found.risk.max()), 0.01))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.1%}")
    axes.set_title(f"Risk and coverage: area {found.area:.4f}")
    axes.legend(fontsize=8, loc="upper left")
    return made


def _mistakes(
    probs: np.ndarray, label: np.ndarray, inputs: np.ndarray, names: Sequence[str]
) -> Any:
    if inputs.ndim not in (3, 4):
        return None
    probs, label = probs[: len(inputs)], label[: len(inputs)]
    predicted = probs.argmax(axis=1)
    confidence = probs.max(axis=1)
    wrong = np.flatnonzero(predicted != label)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    if not len(wrong):
        return None
    columns = min(5, len(wrong))
    rows = -(-len(wrong) // columns)
    made = figure(2.1 * columns, 2.3 * rows + 0.4)
    for place, index in enumerate(wrong):
        axes = made.add_subplot(rows, columns, place + 1)
        example = inputs[index]
        if example.ndim == 2:
            axes.plot(example, linewidth=1)
        else:
            grey = example.shape[-1] == 1
            axes.imshow(
                example[..., 0] if grey else example[..., :3], cmap="gray" if grey else None
            )
        axes.set_xticks([])
        axes.set_yticks([])
        guess, truth = names[predicted[index]], names[label[index]]
        axes.set_title(
            f"said: {guess} ({confidence[index]:.0%})\ntrue: {truth}", fontsize=9, color=RED
        )
    made.suptitle("Most confident mistakes")
    return made
