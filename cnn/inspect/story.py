"""The page that an inspection leaves: the layers of this network, told on this input to someone who learns."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnn import html
from cnn.html import escape
from cnn.inspect import draw
from cnn.inspect.attribution import effective_size
from cnn.inspect.draw import format_field, title_of
from cnn.inspect.findings import Findings, rectifiers
from cnn.inspect.network import Layer

Save = Callable[[str, Any, str], str]  # (name, figure, description) -> HTML


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
    yield _text(
        "To a network your input is an array of numbers, one per position and channel. Before the first layer they are "
        "brought to a common scale (usually mean 0 and spread 1)."
    )
    yield save("input", draw.the_input(f, paint), "the input")
    if f.raw.ndim == 4:
        depth = len(f.raw)
        yield _soft(f"Of the volume and all its maps one slice is shown, number {int(paint.at * depth)} of 0 to {depth - 1}.")
    conv = f.first("convolution")
    if conv is not None and conv.spatial:
        yield from _convolution(f, conv, paint, save)
    else:
        yield "<h2>No convolution</h2>"
        yield _text(
            "This network is dense from the start: its first layer has a weight of its own for every number of the input, "
            "so it does not know which of them are neighbours."
        )
    yield from _stages(f, paint, save)
    yield from _head(f, save)
    yield from _attribution(f, paint, save)
    yield from _fields(f, paint, save)
    yield from _activity(f, save)
    yield from _equivariance(f, save)
    yield from _layers(f)


def _summary(f: Findings) -> Iterator[str]:
    said = ""
    if f.target is not None:
        name = f.classes[f.target] if f.classes else str(f.target)
        said = f" It says <b>{escape(name)}</b>, with probability {f.probs[f.target]:.3f}."
    layers = sum(a.kind in ("convolution", "dense") for a in f.trace.layers.values())
    yield (
        f"<p>A network with {layers} layers of weights and {f.network.parameters():,} parameters, trained on "
        f"{escape(str(f.card.get('dataset', '?')))}, looks at {_shape(f.raw.shape)} numbers.{said} "
        "Everything below was computed from this network on this input.</p>"
    )


def _convolution(f: Findings, conv: Layer, paint: draw.Painter, save: Save) -> Iterator[str]:
    kernel = f.parameter(conv, "kernel")
    positions = math.prod(conv.shape[:-1])
    yield "<h2>Convolution</h2>"
    yield _text(
        "A filter is a small window of weights. It slides over the input; at each place the numbers under it are "
        "multiplied with its weights and summed. The sum is large where the input looks like the filter. All places share "
        "the same weights, so a pattern is found wherever it is; each filter leaves one map, a channel."
    )
    if kernel is not None:
        dense = math.prod(f.raw.shape) * math.prod(conv.shape)
        yield _numbers(
            f"{conv.name}: {kernel.shape[-1]} filters of {_shape(kernel.shape[:-1])} weights = {kernel.size:,} weights, "
            f"used at {positions:,} positions. {_shape(f.raw.shape)} becomes {_shape(conv.shape)}. A dense layer to as many "
            f"outputs would need {dense:,} weights: {dense / kernel.size:,.0f} times more."
        )
        yield save("filters", draw.filters(f, conv, paint), "filters of the first convolution")
        shown = min(kernel.shape[-1], draw.FILTERS)
        how = "in colour" if kernel.ndim == 4 and kernel.shape[-2] == 3 else "red is positive, blue negative"
        if kernel.ndim == 3:
            how = "as curves around 0"
        many = f"All {shown}" if shown == kernel.shape[-1] else f"The first {shown} of {kernel.shape[-1]}"
        yield _soft(f"{many} filters, {how}.")
    act = f.first(*_activations(f), after=conv.name)
    same = act is not None and act.shape == conv.shape
    source = f.values[act.name if same else conv.name]
    channel = int(source.reshape(-1, source.shape[-1]).std(axis=0).argmax())
    yield "<h2>Activation: ReLU</h2>" if act is None or act.kind == "relu" else f"<h2>Activation: {act.kind}</h2>"
    yield _text(
        "Sums of sums are still only sums: without something in between, all layers together could do no more than one. "
        "ReLU keeps what is positive and sets the rest to 0: 'the pattern is here' passes, 'its opposite is here' does not."
        + (" A normalisation in front of it brings each channel to a common scale first." if _normed(f, conv) else "")
    )
    if same:
        zero = float((f.values[act.name] == 0).mean())
        yield _numbers(f"{act.name}: {zero:.0%} of its {math.prod(act.shape):,} values are 0 on this input.")
    yield save(
        "convolution", draw.worked(f, conv, act if same else None, channel, paint), "one filter at work on the input"
    )
    yield _soft("One filter at work: red is positive, blue negative, white 0 (a series: the curve itself).")
    yield from _pooling(f, channel, paint, save)


def _pooling(f: Findings, channel: int, paint: draw.Painter, save: Save) -> Iterator[str]:
    names = list(f.trace.layers)
    pool = f.first("max_pool", "avg_pool")
    yield "<h2>Pooling: fewer positions</h2>"
    if pool is not None and pool.spatial:
        kind = "largest value" if pool.kind == "max_pool" else "mean"
        yield _text(
            f"Pooling keeps the {kind} of each small window. The map shrinks, each later position stands for more of the "
            "input, and a pattern may move a little without the result changing much."
        )
        before = [a for a in map(f.trace.layers.get, names[: names.index(pool.name)]) if a.channels == pool.channels][-1]
        yield _numbers(f"{pool.name}: {_shape(before.shape)} becomes {_shape(pool.shape)}, without any weight.")
        yield save("pooling", draw.pooled(f, before, pool, channel % pool.channels, paint), "before and after pooling")
        return
    strided = [a for a in f.trace.layers.values() if a.kind == "convolution" and a.spatial and max(a.strides) > 1]
    if strided:
        yield _text(
            "This network has no pooling layer between its convolutions. Some convolutions step over positions instead "
            "(stride): they compute only every second place, which shrinks the map in the same way."
        )
        yield _numbers(f"{strided[0].name}: a convolution with stride; its map is {_shape(strided[0].shape)}.")
    else:
        yield _text("This network keeps all positions up to its end: it neither pools nor strides.")


def _stages(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if not f.stages:
        return
    yield "<h2>Layer after layer</h2>"
    yield _text(
        "The next convolutions look at the channels of the one before. So later channels answer to combinations: edges, "
        "then corners and strokes, then parts. The maps get smaller and more numerous. Shown are the channels that this "
        "input excites most (bright: high), then an input made to excite them: it starts as faint noise and is changed "
        "step by step in the direction that raises the middle of the channel (gradient ascent)."
    )
    for number, layer in enumerate(f.stages, start=1):
        name = title_of(layer)
        yield f"<h3>{escape(name)}</h3>"
        yield _numbers(
            f"{_shape(layer.shape[:-1])} positions, {layer.channels} channels; one position sees "
            f"{' x '.join(format_field(x) for x in layer.field)} positions of the input."
        )
        file = f"{number:02d}_{name.replace('/', '_')}"
        yield save(f"{file}_maps", draw.maps(f, layer, paint), f"most active channels of {name}")
        yield save(f"{file}_excited", draw.excited(f, layer, paint), f"what excites the channels of {name}")
        found = "; below, what excites it most in the given data" if f.patches else ""
        yield _soft(f"Made by gradient ascent, with the value that it reaches{found}.")


def _head(f: Findings, save: Save) -> Iterator[str]:
    if f.target is None:
        return
    logits = f.trace.layers[f.trace.outputs["logits"]]
    pre = f.trace.layers.get(f.trace.outputs.get("pre_logits", ""))
    kernel = f.parameter(logits, "kernel")
    name = f.classes[f.target] if f.classes else str(f.target)
    yield "<h2>Fully connected: from features to classes</h2>"
    if pre is not None and pre.kind == "global_pool":
        yield _text(
            "Each channel of the last map is reduced to its mean over all positions: what is there counts, no longer where."
        )
    elif pre is not None and pre.kind == "flatten":
        yield _text("The last map is laid out as one long row of numbers, so that every position keeps its own weight.")
    yield _text(
        "The last layer is fully connected: every feature has a weight for every class, and a class's score, its logit, is "
        "the sum of weight times feature."
    )
    if kernel is not None and pre is not None and kernel.ndim == 2 and kernel.shape[0] == f.values[pre.name].size:
        features = f.values[pre.name].reshape(-1)
        yield _numbers(f"{logits.name}: {kernel.shape[0]} features x {kernel.shape[1]} classes = {kernel.size:,} weights.")
        order = np.argsort(-f.values[logits.name])[:2]
        parts = {f.classes[i] if f.classes else str(i): features * kernel[:, i] for i in order}
        yield save("evidence", draw.evidence(f, parts, f"number of the feature in {pre.name}"), "evidence per feature")
        yield _soft(f"What the twelve features that count most for '{name}' add to the two highest logits.")
    yield "<h2>Softmax: from scores to probabilities</h2>"
    yield _text(
        "Softmax turns logits into positive numbers that sum to 1: e to the power of each logit, divided by their sum. A "
        "lead of 1 in the logit makes a class 2.7 times as probable. A high number is the network's confidence, not proof."
    )
    yield save("softmax", draw.softmax(f), "logits and probabilities")


def _attribution(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if f.target is None:
        return
    name = f.classes[f.target] if f.classes else str(f.target)
    yield f"<h2>Where is the evidence for '{escape(name)}'?</h2>"
    if f.cams:
        yield "<h3>Grad-CAM</h3>"
        yield _text(
            "Each channel of a layer is weighted by how much the class's logit rises with it (the gradient), and the weighted "
            "maps are summed; negative sums are cut. Early layers show fine evidence, the last one what decided."
        )
        overlays = [(title_of(f.trace.layers[key]), cam) for key, cam in f.cams.items()]
        yield save("gradcam", draw.overlaid(f, overlays, paint), "Grad-CAM of every stage")
        empty = [title for title, cam in overlays if not cam.any()]
        if empty:
            yield _soft(f"No positive evidence on any position in: {', '.join(empty)}.")
    yield "<h3>Occlusion</h3>"
    fall = float(f.occluded.max())
    yield _text(
        f"A window of {_shape(f.window)} positions is covered with the input's mean, place by place, and the fall of the "
        f"class's probability is noted. No gradient is involved: this is an experiment on the network."
    )
    yield save("occlusion", draw.overlaid(f, [("fall of probability", f.occluded)], paint, True), "occlusion map")
    weak = " That is little: no single window decides." if fall < 0.02 else ""
    yield _soft(f"Red: covering it lowers the probability (most: {fall:.3f}); blue: it raises it.{weak}")


def _fields(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if not f.stages:
        return
    yield "<h2>Receptive field: how far a position sees</h2>"
    yield _text(
        "Every layer looks at a window of the one before, so what a position depends on grows from layer to layer. The "
        "theoretical receptive field is all that could matter. In fact the middle matters most: the effective field is where "
        "the gradient is at least 4.55 % of its largest value (two standard deviations of a bell curve)."
    )
    yield save("receptive_fields", draw.fields(f, paint), "receptive fields of the stages")
    colours = "red: theoretical field; blue: gradient"
    if f.raw.ndim > 2:
        colours = "white frame: theoretical field" + ("; blue line: effective" if min(f.raw.shape[:2]) > draw.PRINTED else "")
    yield _soft(f"Middle position of each stage ({colours}), cut at the border of the input.")
    rows = [
        (title_of(a), " x ".join(format_field(x) for x in a.field), f"{effective_size(f.effective[a.name]):.1f}")
        for a in f.stages
    ]
    yield html.table(("layer", "theoretical", "effective: side of the square with as many positions"), rows)


def _activity(f: Findings, save: Save) -> Iterator[str]:
    acts = [a for a in rectifiers(f) if f.activity[a.name].dead is not None]
    over = f"{f.batch} examples" if f.batch > 1 else "this input alone"
    yield "<h2>Health: spread, sparsity, dead units</h2>"
    if acts:
        dead = sum(f.activity[a.name].dead for a in acts)
        total = sum(a.channels for a in acts)
        yield _text(
            "A ReLU channel that is 0 on every position of every example passes no gradient: it is dead and learns nothing "
            "from these examples."
        )
        alone = "" if f.batch > 1 else " One input proves little: give more with --data."
        yield _numbers(f"Over {over}: {dead} of {total:,} ReLU channels never fired.{alone}")
        yield save("activity", draw.activities(f, acts), "zeros and dead channels behind each ReLU")
    rows = [
        (name, f"{a.mean:.3g}", f"{a.std:.3g}", f"{a.low:.3g}", f"{a.high:.3g}", f"{a.zero:.1%}")
        for name, a in f.activity.items()
    ]
    table = html.table(("layer", "mean", "std", "lowest", "highest", "zeros"), rows)
    yield html.details(f"Statistics of all {len(rows)} layers over {over}", table)


def _equivariance(f: Findings, save: Save) -> Iterator[str]:
    sheet = draw.equivariance(f)
    if sheet is None:
        return
    yield "<h2>Equivariance: does the map move when the input moves?</h2>"
    yield _text(
        "A convolution that visits every position moves along exactly with its input. One that strides looks at every second "
        "position only, and sees another half of the input after a shift by one: aliasing. Measured with a circular border, so "
        "that nothing but the layers is at fault; 0 is exact, about 1.4 is as different as two unrelated maps. A shift by all "
        "strides together lands on the grid again, and the error is 0. Blurring before skipping (blur-pool) is the remedy: on "
        "the right it stands in place of every stride of this network, with its weights as they are; what that does to its "
        "accuracy was not measured, and training with it from the start does better."
    )
    yield save("equivariance", sheet, "shift error of the stages")
    yield _soft(
        "Nothing in a convolution makes it move along with a rotation by 90 degrees or with halving the input, so those errors "
        "need not be small. Border: how far the network's own padding takes the map from the one with a circular border."
    )
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    rows = []
    for name, e in f.equivariance.items():
        layer = f.trace.layers[name]
        worst, soft = max(e.shift.values()), max(e.blurred.values())
        wide = "" if e.exact else "sees more than was wrapped around"
        rows.append(
            (name, f"{layer.strides[-1]:g}", number(worst), number(soft), number(e.rotation), number(e.scale), number(e.border), wide)
        )
    head = ("layer", "stride", "shift (worst)", "with blur-pool", "rotation", "halving", "border", "")
    stages = {a.name for a in f.stages}
    yield html.table(head, [row for row in rows if row[0] in stages])
    if any(row[0] not in stages for row in rows):
        yield html.details(f"Equivariance of {len(rows)} layers", html.table(head, rows))


def _layers(f: Findings) -> Iterator[str]:
    yield "<h2>All layers</h2>"
    rows = [
        (
            a.name,
            a.kind,
            _shape(a.shape),
            f"{a.params:,}",
            "x".join(format_field(x) for x in a.field),
            "x".join(f"{x:g}" for x in a.strides) if a.spatial else "",
            ", ".join(a.aliases),
        )
        for a in f.trace.layers.values()
    ]
    head = ("layer", "kind", "shape", "parameters", "receptive field", "stride", "also called")
    yield html.details(f"{len(rows)} layers in the order of computation", html.table(head, rows))


def _activations(f: Findings) -> tuple[str, ...]:
    return tuple({a.kind for a in rectifiers(f)}) or ("relu",)


def _normed(f: Findings, conv: Layer) -> bool:
    names = list(f.trace.layers)
    following = names[names.index(conv.name) + 1 :][:1]
    return any(f.trace.layers[name].kind == "norm" for name in following)


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _text(words: str) -> str:
    return f"<p>{escape(words, quote=False)}</p>"


def _soft(words: str) -> str:
    return f'<p class="soft">{escape(words, quote=False)}</p>'


def _numbers(words: str) -> str:
    return f'<p class="numbers">{escape(words, quote=False)}</p>'
