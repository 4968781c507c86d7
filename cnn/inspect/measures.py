"""The part of the page that measures: evidence, receptive fields, dead units, equivariance, the list of layers."""

from collections.abc import Callable, Iterator
from typing import Any

from cnn import html
from cnn.html import escape
from cnn.inspect import draw
from cnn.inspect.attribution import effective_size
from cnn.inspect.draw import format_field, title_of
from cnn.inspect.findings import Findings, rectifiers
from cnn.inspect.words import numbers, shape, soft, text

Save = Callable[[str, Any, str], str]  # (name, figure, description) -> HTML


def attribution(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if f.target is None:
        return
    name = f.classes[f.target] if f.classes else str(f.target)
    yield f"<h2>Where is the evidence for '{escape(name)}'?</h2>"
    if f.cams:
        yield "<h3>Grad-CAM</h3>"
        yield text(
            "Each channel of a layer is weighted by how much the class's logit rises with it (the gradient), and "
            "the weighted maps are summed; negative sums are cut. Early layers show fine evidence, the last one "
            "what decided."
        )
        overlays = [(title_of(f.trace.layers[key]), cam) for key, cam in f.cams.items()]
        yield save("gradcam", draw.overlaid(f, overlays, paint), "Grad-CAM of every stage")
        empty = [title for title, cam in overlays if not cam.any()]
        if empty:
            yield soft(f"No positive evidence on any position in: {', '.join(empty)}.")
    yield "<h3>Occlusion</h3>"
    fall = float(f.occluded.max())
    yield text(
        f"A window of {shape(f.window)} positions is covered with the input's mean, place by place, and the fall "
        "of the class's probability is noted. No gradient is involved: this is an experiment on the network."
    )
    yield save(
        "occlusion",
        draw.overlaid(f, [("fall of probability", f.occluded)], paint, True),
        "occlusion map",
    )
    weak = " That is little: no single window decides." if fall < 0.02 else ""
    yield soft(
        f"Red: covering it lowers the probability (most: {fall:.3f}); blue: it raises it.{weak}"
    )


def fields(f: Findings, paint: draw.Painter, save: Save) -> Iterator[str]:
    if not f.stages:
        return
    yield "<h2>Receptive field: how far a position sees</h2>"
    yield text(
        "Every layer looks at a window of the one before, so what a position depends on grows from layer to layer. "
        "The theoretical receptive field is all that could matter. In fact the middle matters most: the effective "
        "field is where the gradient is at least 4.55 % of its largest value (two standard deviations of a bell "
        "curve)."
    )
    yield save("receptive_fields", draw.fields(f, paint), "receptive fields of the stages")
    colours = "red: theoretical field; blue: gradient"
    if f.raw.ndim > 2:
        colours = "white frame: theoretical field" + (
            "; blue line: effective" if min(f.raw.shape[:2]) > draw.PRINTED else ""
        )
    yield soft(f"Middle position of each stage ({colours}), cut at the border of the input.")
    rows = [
        (
            title_of(a),
            " x ".join(format_field(x) for x in a.field),
            f"{effective_size(f.effective[a.name]):.1f}",
        )
        for a in f.stages
    ]
    yield html.table(
        ("layer", "theoretical", "effective: side of the square with as many positions"), rows
    )


def activity(f: Findings, save: Save) -> Iterator[str]:
    acts = [a for a in rectifiers(f) if f.activity[a.name].dead is not None]
    over = f"{f.batch} examples" if f.batch > 1 else "this input alone"
    yield "<h2>Health: spread, sparsity, dead units</h2>"
    if acts:
        dead = sum(f.activity[a.name].dead for a in acts)
        total = sum(a.channels for a in acts)
        yield text(
            "A ReLU channel that is 0 on every position of every example passes no gradient: it is dead and learns "
            "nothing from these examples."
        )
        alone = "" if f.batch > 1 else " One input proves little: give more with --data."
        yield numbers(f"Over {over}: {dead} of {total:,} ReLU channels never fired.{alone}")
        yield save("activity", draw.activities(f, acts), "zeros and dead channels behind each ReLU")
    rows = [
        (name, f"{a.mean:.3g}", f"{a.std:.3g}", f"{a.low:.3g}", f"{a.high:.3g}", f"{a.zero:.1%}")
        for name, a in f.activity.items()
    ]
    table = html.table(("layer", "mean", "std", "lowest", "highest", "zeros"), rows)
    yield html.details(f"Statistics of all {len(rows)} layers over {over}", table)


def equivariance(f: Findings, save: Save) -> Iterator[str]:
    sheet = draw.equivariance(f)
    if sheet is None:
        return
    yield "<h2>Equivariance: does the map move when the input moves?</h2>"
    yield text(
        "A convolution that visits every position moves along exactly with its input. One that strides looks at "
        "every second position only, and sees another half of the input after a shift by one: aliasing. Measured "
        "with a circular border, so that nothing but the layers is at fault; 0 is exact, about 1.4 is as different "
        "as two unrelated maps. A shift by all strides together lands on the grid again, and the error is 0. "
        "Blurring before skipping (blur-pool) is the remedy: on the right it stands in place of every stride of "
        "this network, with its weights as they are; what that does to its accuracy was not measured. "
        "Zhang (2019) trains with it from the start."
    )
    yield save("equivariance", sheet, "shift error of the stages")
    yield soft(
        "Nothing in a convolution makes it move along with a rotation by 90 degrees or with halving the input, so "
        "those errors need not be small. Border: how far the network's own padding takes the map from the one with "
        "a circular border."
    )

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    rows = []
    for name, e in f.equivariance.items():
        layer = f.trace.layers[name]
        worst, blurred = max(e.shift.values()), max(e.blurred.values())
        wide = "" if e.exact else "sees more than was wrapped around"
        rows.append(
            (
                name,
                f"{layer.strides[-1]:g}",
                number(worst),
                number(blurred),
                number(e.rotation),
                number(e.scale),
                number(e.border),
                wide,
            )
        )
    head = (
        "layer",
        "stride",
        "shift (worst)",
        "with blur-pool",
        "rotation",
        "halving",
        "border",
        "",
    )
    stages = {a.name for a in f.stages}
    yield html.table(head, [row for row in rows if row[0] in stages])
    if any(row[0] not in stages for row in rows):
        yield html.details(f"Equivariance of {len(rows)} layers", html.table(head, rows))


def layers(f: Findings) -> Iterator[str]:
    yield "<h2>All layers</h2>"
    rows = [
        (
            a.name,
            a.kind,
            shape(a.shape),
            f"{a.params:,}",
            "x".join(format_field(x) for x in a.field),
            "x".join(f"{x:g}" for x in a.strides) if a.spatial else "",
            ", ".join(a.aliases),
        )
        for a in f.trace.layers.values()
    ]
    head = ("layer", "kind", "shape", "parameters", "receptive field", "stride", "also called")
    yield html.details(f"{len(rows)} layers in the order of computation", html.table(head, rows))
