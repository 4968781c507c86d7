"""Pictures of volumes: slices through the middle of what is labelled, with the outline of the mask."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from cnn.data import Dataset
from cnn.data.pipeline import load
from cnn.draws import Draws
from cnn.features import IGNORE
from cnn.figures import figure

PLANES = ("d", "h", "w")  # the axis that a slice is across
COLOURS = ("#ffb000", "#648fff", "#dc267f", "#2ca02c", "#fe6100", "#17becf")  # of classes 1, 2, ...


def middle_of(mask: UInt8[np.ndarray, "d h w"]) -> tuple[int, int, int]:
    """The slices along d, h, w with the most voxels of a class other than the background; else the middle ones."""
    labelled = (mask > 0) & (mask != IGNORE)
    if not labelled.any():
        d, h, w = (n // 2 for n in mask.shape)
        return d, h, w
    d, h, w = (int(labelled.sum(tuple(j for j in range(3) if j != i)).argmax()) for i in range(3))
    return d, h, w


def draw_slice(
    axes: Any,
    volume: Float32[np.ndarray, "d h w c"],
    mask: UInt8[np.ndarray, "d h w"] | None,
    axis: int,
    index: int,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> None:
    """One slice of the first channel, its lower axis upwards (as one stands), with the outline of each class.

    Grey goes from the 1st to the 99.5th percentile of the volume.
    """
    plane = np.take(volume[..., 0], index, axis)
    low, high = np.percentile(volume[..., 0], (1, 99.5))
    down, across = (size for i, size in enumerate(spacing) if i != axis)
    axes.imshow(plane, cmap="gray", origin="lower", aspect=down / across, vmin=low, vmax=max(high, low + 1e-6))
    axes.set_xticks([])
    axes.set_yticks([])
    if mask is None:
        return
    cut = np.take(mask, index, axis)
    for k in np.unique(cut):
        if k not in (0, IGNORE):
            colour = COLOURS[(int(k) - 1) % len(COLOURS)]
            axes.contour(cut == k, levels=[0.5], colors=[colour], linewidths=0.9)


def slice_sheet(
    dataset: Dataset, split: str, transforms: list[Any], path: Path, columns: int = 4, rows: int = 3
) -> Path:
    """One row per example (at most `rows`): a slice across each axis, then slices of augmented draws."""
    source, info = dataset.source(split), dataset.info
    chosen = np.unique(np.linspace(0, len(source) - 1, min(rows, len(source))).astype(int))
    count = len(PLANES) + (columns if transforms else 0)
    sheet = figure(1.7 * count, 1.8 * len(chosen) + 0.9)
    grid = sheet.subplots(len(chosen), count, squeeze=False)
    for line, i in zip(grid, chosen.tolist(), strict=True):
        example = source[i]
        mask = example.get("mask")
        middle = middle_of(mask) if mask is not None else tuple(n // 2 for n in example["volume"].shape[:3])
        spacing = tuple(np.asarray(example.get("spacing", (1.0, 1.0, 1.0))).tolist())
        for axis, name in enumerate(PLANES):
            draw_slice(line[axis], example["volume"], mask, axis, middle[axis], spacing)
            line[axis].set_title(f"{name} = {middle[axis]}", fontsize=8)
        for column in range(columns if transforms else 0):
            drawn = load(source, transforms, np.array([i]), Draws(0, np.array([column * 1_000_003 + i])))
            mask = drawn["mask"][0] if "mask" in drawn else None
            index = middle_of(mask)[0] if mask is not None else drawn["volume"].shape[1] // 2
            draw_slice(line[len(PLANES) + column], drawn["volume"][0], mask, 0, index)
            line[len(PLANES) + column].set_title("augmented", fontsize=8)
        shape = "x".join(map(str, example["volume"].shape[:3]))
        size = " x ".join(f"{mm:.3g}" for mm in spacing) + " mm" if "spacing" in example else "voxels of unknown size"
        line[0].set_ylabel(f"{shape}\n{size}", fontsize=8)
    for k, name in enumerate(info.class_names[1 : len(COLOURS) + 1]):
        sheet.text(0.01 + 0.16 * k, 0.005, name[:18], color=COLOURS[k], fontsize=9, weight="bold")
    names = ", ".join(type(transform).__name__ for transform in transforms) or "no transforms"
    sheet.suptitle(f"{info.name} '{split}': {names}", fontsize=10)
    sheet.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))
    sheet.savefig(path, dpi=110)
    return path
