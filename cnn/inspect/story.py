"""The page that an inspection leaves: the layers of this network, told on this input to someone who learns."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnn import html
from cnn.html import escape
from cnn.inspect import draw, measures
from cnn.inspect.draw import format_field, title_of
from cnn.inspect.findings import Findings, rectifiers
from cnn.inspect.measures import Save
from cnn.inspect.network import Layer
from cnn.inspect.words import numbers, shape, soft, text


def write(f: Findings, folder: Path, at: float = 0.5, dpi: int = 100) -> tuple[Path, list[str]]:
    """Writes the PNG files and index.html; returns the page's path and the names of the PNG files."""
    made: list[str] = []

    def save(name: str, sheet: Any, about: str) -> str:
        if sheet is None:
            return ""
        path = folder / f"{name}.png"
        sheet.savefig(path, dpi=dpi)
        made.append(path.name)
        return html.image(path, about)

    title = f"Inside {f.card.get('model', 'the network')}: {f.name}"
    page = folder / "index.html"
    body = [part for part in _body(f, draw.Painter(at), save, title) if part]
    page.write_text(html.page(title, body), encoding="utf-8")
    return page, made


def _body(f: Findings, paint: draw.Painter, save: Save, title: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield from _summary(f)
    yield "<h2>The input</h2>"
    yield text(
        "To a network your input is an array of numbers, one per position and channel. Before the first layer they "
        "are brought to a common scale (usually mean 0 and spread 1)."
    )
    yield save("input", draw.the_input(f, paint), "the input")
    if f.raw.ndim == 4:
        depth = len(f.raw)
        yield soft(
            f"Of the volume and all its maps one slice is shown, number {int(paint.at * depth)} of 0 to {depth - 1}."
        )
    conv = f.first("convolution")
    if conv is not None and conv.spatial:
        yield from _convolution(f, conv, paint, save)
    else:
        yield "<h2>No convolution</h2>"
        yield text(
            "This network is dense from the start: its first layer has a weight of its own for every number of the "
            "input, so it does not know which of them are neighbours."
        )
    yield from _stages(f, paint, save)
    yield from _head(f, save)
    yield from measures.attribution(f, paint, save)
    yield from measures.fields(f, paint, save)
    yield from measures.activity(f, save)
    yield from measures.equivariance(f, save)
    yield from measures.layers(f)


def _summary(f: Findings) -> Iterator[str]:
    said = ""
    if f.target is not None:
        name = f.classes[f.target] if f.classes else str(f.target)
        said = f" It says <b>{escape(name)}</b>, with probability {f.probs[f.target]:.3f}."
    layers = sum(a.kind in ("convolution", "dense") for a in f.trace.layers.values())
    yield (
        f"<p>A network with {layers} layers of weights and {f.network.parameters():,} parameters, trained on "
        f"{escape(str(f.card.get('dataset', '?')))}, looks at {shape(f.raw.shape)} numbers.{said} "
        "Everything below was computed from this network on this input.</p>"
    )


def _convolution(f: Findings, conv: Layer, paint: draw.Painter, save: Save) -> Iterator[str]:
    kernel = f.parameter(conv, "kernel")
    positions = math.prod(conv.shape[:-1])
    yield "<h2>Convolution</h2>"
    yield text(
        "A filter is a small window of weights. It slides over the input; at each place the numbers under it are "
        "multiplied with its weights and summed. The sum is large where the input looks like the filter. All "
        "places share the same weights, so a pattern is found wherever it is; each filter leaves one map, a "
        "channel."
    )
    if kernel is not None:
        dense = math.prod(f.raw.shape) * math.prod(conv.shape)
        yield numbers(
            f"{conv.name}: {kernel.shape[-1]} filters of {shape(kernel.shape[:-1])} weights = {kernel.size:,} "
            f"weights, used at {positions:,} positions. {shape(f.raw.shape)} becomes {shape(conv.shape)}. A dense "
            f"layer to as many outputs would need {dense:,} weights: {dense / kernel.size:,.0f} times more."
        )
        yield save("filters", draw.filters(f, conv, paint), "filters of the first convolution")
        shown = min(kernel.shape[-1], draw.FILTERS)
        how = (
            "in colour"
            if kernel.ndim == 4 and kernel.shape[-2] == 3
            else "red is positive, blue negative"
        )
        if kernel.ndim == 3:
            how = "as curves around 0"
        many = (
            f"All {shown}"
            if shown == kernel.shape[-1]
            else f"The first {shown} of {kernel.shape[-1]}"
        )
        yield soft(f"{many} filters, {how}.")
    act = f.first(*_activations(f), after=conv.name)
    same = act is not None and act.shape == conv.shape
    source = f.values[act.name if same else conv.name]
    channel = int(source.reshape(-1, source.shape[-1]).std(axis=0).argmax())
    yield (
        "<h2>Activation: ReLU</h2>"
        if act is None or act.kind == "relu"
        else f"<h2>Activation: {act.kind}</h2>"
    )
    yield text(
        "Sums of sums are still only sums: without something in between, all layers together could do no more than "
        "one. ReLU keeps what is positive and sets the rest to 0: 'the pattern is here' passes, 'its opposite is "
        "here' does not."
        + (
            " A normalisation in front of it brings each channel to a common scale first."
            if _normed(f, conv)
            else ""
        )
    )
    if same:
        zero = float((f.values[act.name] == 0).mean())
        yield numbers(
            f"{act.name}: {zero:.0%} of its {math.prod(act.shape):,} values are 0 on this input."
        )
    yield save(
        "convolution",
        draw.worked(f, conv, act if same else None, channel, paint),
        "one filter at work on the input",
    )
    yield soft(
        "One filter at work: red is positive, blue negative, white 0 (a series: the curve itself)."
    )
    yield from _pooling(f, channel, paint, save)


def _pooling(f: Findings, channel: int, paint: draw.Painter, save: Save) -> Iterator[str]:
    names = list(f.trace.layers)
    pool = f.first("max_pool", "avg_pool")
    yield "<h2>Pooling: fewer positions</h2>"
    if pool is not None and pool.spatial:
        kind = "largest value" if pool.kind == "max_pool" else "mean"
        yield text(
            f"Pooling keeps the {kind} of each small window. The map shrinks, each later position stands for more "
            "of the input, and a pattern may move a little without the result changing much."
        )
        before = [
            a
            for a in map(f.trace.layers.get, names[: names.index(pool.name)])
            if a.channels == pool.channels
        ][-1]
        yield numbers(
            f"{pool.name}: {shape(before.shape)} becomes {shape(pool.shape)}, without any weight."
        )
        yield save(
            "pooling",
            draw.pooled(f, before, pool, channel % pool.channels, paint),
            "before and after pooling",
        )
        return
    strided = [
        a
        for a in f.trace.layers.values()
        if a.kind == "convolution" and a.spatial and max(a.strides) > 1
    ]
    if strided:
        yield text(
            "This network has no pooling layer between its convolutions. Some convolutions step over positions "
            "instead (stride): they compute only every second place, which shrinks the map in the same way."
        )
        yield numbers(
            f"{strided[0].name}: a convolution with stride; its map is {shape(strided[0].shape)}."
        )
    else:
        yield text("This network keeps all positions up to its end: it neither pools nor strides.")


def _stages(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if not f.stages:
        return
    yield "<h2>Layer after layer</h2>"
    yield text(
        "The next convolutions look at the channels of the one before. So later channels answer to combinations: "
        "edges, then corners and strokes, then parts. The maps get smaller and more numerous. Shown are the "
        "channels that this input excites most (bright: high), then an input made to excite them: it starts as "
        "faint noise and is changed step by step in the direction that raises the middle of the channel (gradient "
        "ascent)."
    )
    for number, layer in enumerate(f.stages, start=1):
        name = title_of(layer)
        yield f"<h3>{escape(name)}</h3>"
        yield numbers(
            f"{shape(layer.shape[:-1])} positions, {layer.channels} channels; one position sees "
            f"{' x '.join(format_field(x) for x in layer.field)} positions of the input."
        )
        file = f"{number:02d}_{name.replace('/', '_')}"
        yield save(f"{file}_maps", draw.maps(f, layer, paint), f"most active channels of {name}")
        yield save(
            f"{file}_excited", draw.excited(f, layer, paint), f"what excites the channels of {name}"
        )
        found = "; below, what excites it most in the given data" if f.patches else ""
        yield soft(f"Made by gradient ascent, with the value that it reaches{found}.")


def _head(f: Findings, save: Save) -> Iterator[str]:
    if f.target is None:
        return
    logits = f.trace.layers[f.trace.outputs["logits"]]
    pre = f.trace.layers.get(f.trace.outputs.get("pre_logits", ""))
    kernel = f.parameter(logits, "kernel")
    name = f.classes[f.target] if f.classes else str(f.target)
    yield "<h2>Fully connected: from features to classes</h2>"
    if pre is not None and pre.kind == "global_pool":
        yield text(
            "Each channel of the last map is reduced to its mean over all positions: what is there counts, no "
            "longer where."
        )
    elif pre is not None and pre.kind == "flatten":
        yield text(
            "The last map is laid out as one long row of numbers, so that every position keeps its own weight."
        )
    yield text(
        "The last layer is fully connected: every feature has a weight for every class, and a class's score, its "
        "logit, is the sum of weight times feature."
    )
    if (
        kernel is not None
        and pre is not None
        and kernel.ndim == 2
        and kernel.shape[0] == f.values[pre.name].size
    ):
        features = f.values[pre.name].reshape(-1)
        yield numbers(
            f"{logits.name}: {kernel.shape[0]} features x {kernel.shape[1]} classes = {kernel.size:,} weights."
        )
        order = np.argsort(-f.values[logits.name])[:2]
        parts = {f.classes[i] if f.classes else str(i): features * kernel[:, i] for i in order}
        yield save(
            "evidence",
            draw.evidence(f, parts, f"number of the feature in {pre.name}"),
            "evidence per feature",
        )
        yield soft(
            f"What the twelve features that count most for '{name}' add to the two highest logits."
        )
    yield "<h2>Softmax: from scores to probabilities</h2>"
    yield text(
        "Softmax turns logits into positive numbers that sum to 1: e to the power of each logit, divided by their "
        "sum. A lead of 1 in the logit makes a class 2.7 times as probable. A high number is the network's "
        "confidence, not proof."
    )
    yield save("softmax", draw.softmax(f), "logits and probabilities")


def _activations(f: Findings) -> tuple[str, ...]:
    return tuple({a.kind for a in rectifiers(f)}) or ("relu",)


def _normed(f: Findings, conv: Layer) -> bool:
    names = list(f.trace.layers)
    following = names[names.index(conv.name) + 1 :][:1]
    return any(f.trace.layers[name].kind == "norm" for name in following)
