"""Pictures of a data set: examples as the network sees them, and how many there are per class."""

from pathlib import Path
from typing import Any

import numpy as np

from cnn.data import Dataset
from cnn.data.order import indices
from cnn.data.pipeline import load
from cnn.data.sources import Example, Source
from cnn.draws import Draws
from cnn.figures import figure, grey_or_rgb, overlay


def _some_of_each_class(source: Source, classes: int, count: int) -> dict[int, list[int]]:
    """{label: indices of up to `count` examples}, from the beginning of a shuffled epoch."""
    found: dict[int, list[int]] = {}
    for i in indices(0, len(source), np.arange(min(5_000, len(source)))):
        have = found.setdefault(int(source[int(i)]["label"]), [])
        if len(have) < count:
            have.append(int(i))
        if len(found) == classes and all(len(rows) == count for rows in found.values()):
            break
    return dict(sorted(found.items()))


def contact_sheet(
    dataset: Dataset, split: str, transforms: list[Any], path: Path, columns: int = 8, rows: int = 10
) -> Path:
    """One row per class (at most `rows`): an example, then augmented draws of it.

    Without transforms, the other columns are other examples of the class. Examples with masks have a row each, with
    the classes' colours laid over them.
    """
    source, info = dataset.source(split), dataset.info
    key, wanted = info.input_key, 1 if transforms else columns + 1
    masked = info.target_key == "mask"
    if masked:
        order = indices(0, len(source), np.arange(min(rows * wanted, len(source)))).tolist()
        chosen = [(row, order[row : row + wanted]) for row in range(0, len(order), wanted)]
    else:
        chosen = list(_some_of_each_class(source, info.num_classes, wanted).items())[:rows]
    side = 1.1 if key == "image" else 1.6
    width, height = side * (columns + 1) + 1.5, 1.15 * len(chosen) + 0.7
    sheet = figure(width, height, layout="none")  # the automatic one takes seconds for so many axes
    axes = sheet.subplots(len(chosen), columns + 1, squeeze=False)
    sheet.subplots_adjust(1.4 / width, 0.1 / height, 1 - 0.1 / width, 1 - 0.6 / height, 0.06, 0.06)
    for line, (label, found) in zip(axes, chosen, strict=True):
        values = [_shown(source[i], key) for i in found]
        for column in range(1, columns + 1) if transforms else ():
            draws = Draws(0, np.array([column * 1_000_003 + found[0]]))
            drawn = load(source, transforms, np.array(found), draws)
            values.append(_shown({name: value[0] for name, value in drawn.items()}, key))
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(key == "series")
        for axis, value in zip(line, values, strict=False):
            if key == "image":
                grey = value.shape[-1] == 1
                axis.imshow(value[..., 0] if grey else value, cmap="gray", vmin=0, vmax=255)
            else:
                axis.plot(value, linewidth=1)
                axis.set_ylim(*_limits(values[0]))
        name = f"example {found[0]}" if masked else info.class_names[label]
        line[0].set_ylabel(name[:16], rotation=0, ha="right", va="center", fontsize=9)
    if transforms:
        axes[0, 0].set_title("original", fontsize=9)
    names = ", ".join(type(transform).__name__ for transform in transforms) or "no transforms"
    sheet.suptitle(f"{info.name} '{split}': {names}", fontsize=10)
    sheet.savefig(path, dpi=110)
    return path


def _shown(example: Example, key: str) -> np.ndarray:
    """The input as it is drawn: an image with a mask in the colours of its classes."""
    if "mask" not in example:
        return example[key]
    return overlay(grey_or_rgb(example[key]), example["mask"])


def _limits(value: np.ndarray) -> tuple[float, float]:
    room = 0.4 * float(np.ptp(value)) + 1e-6
    return float(value.min()) - room, float(value.max()) + room


def class_balance(dataset: Dataset, counts: dict[str, list[int]], path: Path) -> Path:
    """Share of each class in every split, as bars; the classes by their label."""
    names = dataset.info.class_names
    many = len(names) > 40
    bars = figure(8.0 if many else max(5.0, 0.5 * len(names) + 2), 4.0)
    axis = bars.subplots()
    x, width = np.arange(len(names)), 0.8 / max(len(counts), 1)
    for k, (split, numbers) in enumerate(counts.items()):
        share = 100 * np.array(numbers) / max(sum(numbers), 1)
        place = x + (k - (len(counts) - 1) / 2) * width
        text = f"{split} (n = {sum(numbers)}, {min(numbers)} to {max(numbers)} per class)"
        axis.bar(place, share, width, label=text)
    if many:
        axis.set_xlabel("label")
    else:
        axis.set_xticks(x, [name[:16] for name in names], rotation=45, ha="right")
    axis.set_ylabel("share of the split / %")
    axis.set_title(f"{dataset.info.name}: class balance")
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
    axis.legend(fontsize=8, loc="upper left")
    bars.savefig(path, dpi=110)
    return path
