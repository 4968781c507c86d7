"""The pictures of an inspection. Series are lines, images pictures, volumes one of their slices."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn.figures import figure
from cnn.inspect.activity import Patch
from cnn.inspect.attribution import EFFECTIVE
from cnn.inspect.findings import Findings
from cnn.inspect.network import Layer
from cnn.inspect.receptive import Number

BLUE, RED, GREY, GREEN = "#3b6ea5", "#c0504d", "#8c8c8c", "#4f9d69"
FILTERS = 64
PRINTED = 12  # positions of an axis up to which a picture's numbers are written into it
TOP = 10  # classes in a bar chart


class Painter:
    """Draws [*space] and [*space, c] of any spatial rank.

    Args:
      at: where a volume is cut along its first axis, in [0, 1).
    """

    def __init__(self, at: float = 0.5):
        self.at = at

    def cut(self, values: np.ndarray, rank: int) -> np.ndarray:
        """A volume's slice; other ranks as they are. The first `rank` axes are space."""
        return values[int(self.at * len(values))] if rank == 3 else values

    def map(
        self, axes: Any, values: np.ndarray, title: str = "", signed: bool = False, **options: Any
    ) -> None:
        """One value per position. Signed ones are red and blue around a white 0."""
        shown = self.cut(values, values.ndim)
        if shown.ndim == 1:
            axes.plot(shown, color=BLUE, lw=1.2, marker="o" if len(shown) < 12 else "", ms=3)
            axes.axhline(0, color=GREY, lw=0.6)
            axes.tick_params(labelsize=7)
        else:
            most = max(float(np.abs(shown).max()), 1e-12)
            scale = (
                {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "viridis"}
            )
            axes.imshow(shown, **(scale | options))
            bare(axes)
        axes.set_title(title, fontsize=9)

    def raw(self, axes: Any, values: np.ndarray, title: str = "", faint: bool = False) -> None:
        """An input [*space, c] as a person sees it; `faint` lets something be laid over it."""
        shown = self.cut(values, values.ndim - 1)
        if shown.ndim == 2:
            axes.plot(shown, lw=1.2, **({"color": GREY} if faint else {}))
            axes.tick_params(labelsize=7)
        else:
            picture = as_picture(shown)
            axes.imshow(picture, cmap="gray", alpha=0.45 if faint else 1.0)
            bare(axes)
        axes.set_title(title, fontsize=9)


def as_picture(values: np.ndarray) -> np.ndarray:
    """[h, w, c] for imshow: grey for one channel, else the first three as colours in [0, 1]."""
    if values.shape[-1] != 3:
        return values[..., 0]
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12)


def bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def grid(
    count: int, columns: int, width: float = 1.6, height: float = 1.75, **options: Any
) -> tuple[Any, list[Any]]:
    """A figure with `count` axes in rows of `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = figure(width * columns, height * rows, **options)
    return sheet, [sheet.add_subplot(rows, columns, i + 1) for i in range(count)]


def the_input(f: Findings, paint: Painter) -> Any:
    """The input, and where it is small the numbers that it is."""
    flat = f.raw.ndim == 3 and f.raw.shape[-1] == 1 and max(f.raw.shape) <= PRINTED
    sheet, axes = grid(2 if flat else 1, 2, 3.6, 3.6 if f.raw.ndim > 2 else 2.4)
    paint.raw(axes[0], f.raw, f"what you gave: {'x'.join(map(str, f.raw.shape))}")
    if flat:
        paint.raw(axes[1], f.raw, "what the network gets: numbers", faint=True)
        for (row, column), value in np.ndenumerate(f.raw[..., 0]):
            axes[1].text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7)
    return sheet


def filters(f: Findings, layer: Layer, paint: Painter) -> Any | None:
    """The kernels of a convolution, one per output channel."""
    kernel = f.parameter(layer, "kernel")
    if kernel is None:
        return None
    rank, count = kernel.ndim - 2, min(kernel.shape[-1], FILTERS)
    columns = 8 if count <= 32 else 12
    sheet, axes = grid(count, columns, 0.95, 1.05 if rank > 1 else 0.9)
    for i, one in enumerate(axes):
        values = kernel[..., i]
        if rank == 1:
            one.plot(values, marker="o", ms=2.5, lw=1)
            one.axhline(0, color=GREY, lw=0.5)
            one.set_ylim(kernel.min(), kernel.max())
        elif rank == 2 and values.shape[-1] == 3:
            one.imshow(as_picture(values))
        else:
            shown = paint.cut(values, rank).mean(axis=-1)
            most = np.abs(shown).max()
            one.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most)
        bare(one)
        one.set_title(str(i), fontsize=7, pad=2)
    return sheet


def worked(f: Findings, conv: Layer, after: Layer | None, channel: int, paint: Painter) -> Any:
    """One filter at work: the input, the filter, its map, and the map behind the activation."""
    kernel = f.parameter(conv, "kernel")
    parts: list[tuple[str, Callable[[Any, str], None]]] = [
        ("input", lambda a, t: paint.raw(a, f.raw, t))
    ]
    if kernel is not None and kernel.ndim - 2 < 3:
        weights = kernel[..., channel].mean(axis=-1)
        parts.append((f"filter {channel}", lambda a, t: paint.map(a, weights, t, signed=True)))
    parts.append(
        (
            f"channel {channel} of {conv.name}",
            lambda a, t: paint.map(a, f.values[conv.name][..., channel], t, True),
        )
    )
    if after is not None:
        before = f.values[f"{after.name}:in"][..., channel]
        if not np.array_equal(before, f.values[conv.name][..., channel]):
            parts.append((f"into {after.kind}", lambda a, t: paint.map(a, before, t, True)))
        out = f.values[after.name][..., channel]
        parts.append((f"after {after.kind}", lambda a, t: paint.map(a, out, t, signed=True)))
    sheet, axes = grid(len(parts), 5, 2.4, 2.6 if f.raw.ndim > 2 else 1.9)
    for one, (title, draw) in zip(axes, parts, strict=True):
        draw(one, title)
    return sheet


def pooled(f: Findings, before: Layer, after: Layer, channel: int, paint: Painter) -> Any:
    """One channel on both sides of a pooling layer (or of a layer that strides)."""
    sheet, axes = grid(2, 2, 3.0, 3.2 if f.raw.ndim > 2 else 2.2)
    for one, layer in zip(axes, (before, after), strict=True):
        size = "x".join(map(str, layer.shape[:-1]))
        paint.map(one, f.values[layer.name][..., channel], f"{layer.name}: {size}")
    return sheet


def maps(f: Findings, layer: Layer, paint: Painter) -> Any:
    """The most active channels of a layer."""
    chosen = f.channels[layer.name]
    sheet, axes = grid(len(chosen), 4, 2.0, 2.2 if f.raw.ndim > 2 else 1.6)
    for one, channel in zip(axes, chosen, strict=True):
        values = f.values[layer.name][..., channel]
        paint.map(one, values, f"channel {channel}, up to {values.max():.3g}")
    return sheet


def excited(f: Findings, layer: Layer, paint: Painter) -> Any:
    """For each channel the made input, and below it what excites it most among real ones."""
    made, chosen = f.excited[layer.name], f.channels[layer.name]
    patches = f.patches.get(layer.name, {})
    count = len(made.inputs)
    below = max((len(row) for row in patches.values()), default=0)
    high = 1.9 if f.raw.ndim > 2 else 1.4
    sheet = figure(2.0 * count, high * (1 + below) + 0.3)
    low, top = made.inputs.min(), made.inputs.max()
    for column, (channel, picture) in enumerate(zip(chosen, made.inputs, strict=False)):
        axes = sheet.add_subplot(1 + below, count, column + 1)
        if f.raw.ndim > 2:
            picture = (picture - low) / max(top - low, 1e-12)
        paint.raw(axes, picture, f"channel {channel}\nmade: {made.after[column]:.3g}")
        for row, patch in enumerate(patches.get(channel, ())):
            axes = sheet.add_subplot(1 + below, count, (1 + row) * count + column + 1)
            paint.raw(axes, _filled(f, layer, patch), f"found: {patch.value:.3g}")
    return sheet


def _filled(f: Findings, layer: Layer, patch: Patch) -> np.ndarray:
    """What a position sees of an input: grey where it looks over the border, so that all are of one size."""
    found = f.examples[patch.index][patch.window]
    full = [
        int(min(size, whole)) for size, whole in zip(layer.field, f.raw.shape[:-1], strict=True)
    ]
    sides = []
    for have, want, part in zip(found.shape[:-1], full, patch.window, strict=True):
        missing = max(want - have, 0)
        sides.append((missing, 0) if part.start == 0 else (0, missing))
    middle = 127 if found.dtype == np.uint8 else float(found.mean())
    return np.pad(found, [*sides, (0, 0)], constant_values=middle)


def evidence(f: Findings, contributions: dict[str, np.ndarray], features: str) -> Any:
    """What the largest features add to the logits of the most probable class and of the runner-up."""
    first = next(iter(contributions.values()))
    order = np.argsort(-np.abs(first), kind="stable")[:12]
    sheet = figure(7.5, 3.2)
    axes = sheet.add_subplot()
    for i, (name, values) in enumerate(contributions.items()):
        axes.bar(
            np.arange(len(order)) + 0.4 * i - 0.2,
            values[order],
            0.38,
            color=(BLUE, GREY)[i],
            label=name,
        )
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xticks(range(len(order)), [str(i) for i in order])
    axes.set(xlabel=f"{features} (largest first)", ylabel="weight x feature")
    axes.legend(title="adds to the logit of", fontsize=8, title_fontsize=8)
    return sheet


def softmax(f: Findings) -> Any:
    """Logits and the probabilities that they become."""
    logits = f.values[f.trace.outputs["logits"]]
    order = np.argsort(-logits, kind="stable")[:TOP][::-1]
    names = [f.classes[i] if f.classes else str(i) for i in order]
    sheet = figure(8.0, 0.9 + 0.27 * len(order))
    left, right = sheet.subplots(1, 2)
    for axes, values, title in (
        (left, logits, "logits"),
        (right, f.probs, "probabilities (softmax)"),
    ):
        colours = [BLUE if i == f.target else GREY for i in order]
        axes.barh(range(len(order)), values[order], color=colours)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(order)), names if axes is left else [""] * len(names), fontsize=8)
        axes.axvline(0, color="black", lw=0.6)
    right.set_xlim(0, 1.12)
    for row, i in enumerate(order):
        right.text(f.probs[i] + 0.01, row, f"{f.probs[i]:.3f}", va="center", fontsize=8)
    return sheet


def overlaid(
    f: Findings, overlays: Sequence[tuple[str, np.ndarray]], paint: Painter, signed: bool = False
) -> Any:
    """The input, and maps of its own size laid over it."""
    flat = f.raw.ndim == 2
    sheet, axes = grid(
        1 + len(overlays), 1 if flat else 4, 8.0 if flat else 2.6, 1.6 if flat else 2.8
    )
    paint.raw(axes[0], f.raw, "input")
    for one, (title, values) in zip(axes[1:], overlays, strict=True):
        paint.raw(one, f.raw, title, faint=True)
        most = max(float(np.abs(values).max()), 1e-12)
        if flat:
            twin = one.twinx()
            twin.fill_between(np.arange(len(values)), values, color=RED, alpha=0.4, lw=0)
            twin.set_ylim(-most if signed else 0, most * 1.05)
            twin.tick_params(labelsize=7, colors=RED)
        else:
            low, colours = (-most, "RdBu_r") if signed else (0, "inferno")
            one.imshow(paint.cut(values, values.ndim), cmap=colours, vmin=low, vmax=most, alpha=0.6)
    return sheet


def fields(f: Findings, paint: Painter) -> Any:
    """What the middle position of each stage depends on: how strongly, and how far it could."""
    sheet, axes = grid(
        len(f.stages), 4, 2.6 if f.raw.ndim > 2 else 4.0, 2.8 if f.raw.ndim > 2 else 2.2
    )
    for one, layer in zip(axes, f.stages, strict=True):
        field = f.effective[layer.name]
        shown, at = paint.cut(field, field.ndim), [size // 2 for size in layer.shape[:-1]]
        edges = [
            (r.low + r.jump * p - 0.5, r.high + r.jump * p + 0.5)
            for r, p in zip(layer.reach, at, strict=True)
        ][-shown.ndim :]
        edges = [
            np.clip(edge, -0.5, size - 0.5) for edge, size in zip(edges, shown.shape, strict=True)
        ]
        title = f"{title_of(layer)}\ncould see {'x'.join(format_field(x) for x in layer.field)}"
        if shown.ndim == 1:
            one.fill_between(range(len(shown)), shown, color=BLUE, alpha=0.6)
            one.axvspan(edges[0][0], edges[0][1], color=RED, alpha=0.12)
            one.set_xlim(-0.5, len(shown) - 0.5)
        else:
            one.imshow(shown, cmap="magma", vmin=0, vmax=1)
            if min(shown.shape) > PRINTED:
                one.contour(shown, levels=[EFFECTIVE], colors="#7fd1ff", linewidths=0.8)
            (top, bottom), (left, right) = edges
            one.plot(
                [left, right, right, left, left],
                [top, top, bottom, bottom, top],
                color="white",
                lw=1.6,
            )
            bare(one)
        one.set_title(title, fontsize=9)
    return sheet


def activities(f: Findings, layers: Sequence[Layer]) -> Any:
    """Share of zeros behind each activation, and what never fires."""
    sheet = figure(8.0, 0.9 + 0.24 * len(layers))
    axes = sheet.add_subplot()
    zero = [f.activity[a.name].zero for a in layers]
    dead = [(f.activity[a.name].dead or 0) / a.channels for a in layers]
    rows = np.arange(len(layers))[::-1]
    axes.barh(rows, zero, color=BLUE, label="values that are 0")
    if any(dead):
        axes.barh(rows, dead, 0.35, color=RED, label="channels that are 0 everywhere")
    axes.set_yticks(rows, [a.name for a in layers], fontsize=8)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", alpha=0.3)
    sheet.legend(loc="outside lower center", ncols=2, fontsize=8)
    return sheet


def equivariance(f: Findings) -> Any | None:
    """Shift error of the stages over the shift, as the network is and with blur-pool."""
    layers = [a for a in f.stages if a.name in f.equivariance]
    if not layers:
        return None
    shown = f.equivariance[layers[0].name].shift
    sheet = figure(8.0, 3.2)
    left, right = sheet.subplots(1, 2, sharey=True)
    for axes, title, key in (
        (left, "as trained", "shift"),
        (right, "blur-pool in place of strides", "blurred"),
    ):
        for layer in layers:
            found = getattr(f.equivariance[layer.name], key)
            label = f"{title_of(layer)} (stride {layer.strides[-1]:g})"
            axes.plot(range(len(found)), list(found.values()), "o-", ms=4, lw=1.4, label=label)
        axes.set_xticks(range(len(shown)), [str(k) for k in shown])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("shift of the input (positions)")
        axes.grid(alpha=0.3)
    left.set_ylabel("error (0: moves along exactly)")
    left.set_ylim(bottom=-0.05)
    left.legend(fontsize=8)
    return sheet


def title_of(layer: Layer) -> str:
    """The shortest name that a person knows it by."""
    return min((layer.name, *layer.aliases), key=len)


def format_field(size: Number) -> str:
    return "all" if np.isinf(size) else f"{size:g}"
