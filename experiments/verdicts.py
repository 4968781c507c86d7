"""From raw results to the table: intervals, verdicts, comparisons, the figure.

The rule, for a published number e with tolerance t and the measured mean m with its 95 % t interval over seeds:

    reproduced     |m - e| <= t, and the interval is no wider than t on each side
    differs        |m - e| > t, and no value of the interval is within t of e
    inconclusive   everything else: one seed, an interval too wide to tell, or one that reaches both sides
    measured       there is no published number
    stale          the row's config or code changed since; its numbers are not shown
    not run        there is nothing to show
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn.figures import figure
from cnn.scoring.comparing import best_first, is_score
from cnn.scoring.sums import Interval, mean_interval
from experiments.results import Result, Results, stale
from experiments.statistics import Comparison, paired_t
from experiments.study import Row, Study

COLOURS = {"reproduced": "#2e7d32", "differs": "#c0504d", "inconclusive": "#b8860b", "measured": "#3b6ea5"}


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table, in the row's unit.

    Attributes:
      measured: None where nothing that counts was run.
      baseline: (name, value) of the strongest trivial answer, or None.
      why: what changed, for stale lines.
    """

    row: Row
    verdict: str
    measured: Interval | None = None
    baseline: tuple[str, float] | None = None
    parameters: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def inside(self) -> bool:
        """Whether the measured mean lies within the tolerance; true where there is no published number."""
        if self.measured is None or self.row.expected is None:
            return True
        return abs(self.measured.mean - self.row.expected) <= self.row.tolerance


def verdict(measured: Interval, expected: float | None, tolerance: float) -> str:
    """See the module's docstring."""
    if expected is None:
        return "measured"
    if np.isnan(measured.low):
        return "inconclusive"
    near = abs(measured.mean - expected) <= tolerance
    if near:
        return "reproduced" if measured.half_width <= tolerance else "inconclusive"
    apart = measured.low > expected + tolerance or measured.high < expected - tolerance
    return "differs" if apart else "inconclusive"


def values(row: Row, stored: Sequence[Result]) -> dict[int, float]:
    """{seed: value} in the row's unit: of the network, or of the trivial answer that the row is about."""
    found = {r.seed: r.baselines.get(row.baseline) if row.baseline else r.value for r in stored}
    return {seed: value * row.scale for seed, value in found.items() if is_score(value)}


def line(study: Study, row: Row, results: Results, seeds: int | None = None) -> Line:
    """The table's line of a row.

    Args:
      seeds: only seeds below this number count.
    """
    why = stale(study, row, results)
    if why:
        return Line(row, "stale", why=why)
    stored = [r for r in results.of(row) if seeds is None or r.seed < seeds]
    found = list(values(row, stored).values())
    if not found:
        return Line(row, "not run")
    measured = mean_interval(found)
    baseline = None if row.baseline else strongest(row, stored)
    return Line(
        row,
        verdict(measured, row.expected, row.tolerance),
        measured,
        baseline,
        0 if row.baseline else stored[0].parameters,
        0.0 if row.baseline else float(np.mean([r.seconds for r in stored])),
    )


def strongest(row: Row, stored: Sequence[Result]) -> tuple[str, float] | None:
    """The best of the trivial answers, by its mean over the seeds."""
    names = sorted(set.intersection(*(set(r.baselines) for r in stored)))
    means = {name: row.scale * float(np.mean([r.baselines[name] for r in stored])) for name in names}
    return next(iter(best_first(means, row.better())), None)


def comparisons(study: Study, results: Results, seeds: int | None = None) -> dict[tuple[str, str], Comparison]:
    """The study's pairs over at least two seeds that both have; pairs with a stale or missing side are left out."""
    found = {}
    for names in study.compare:
        sides = []
        for row in map(study.row, names):
            stored = [] if stale(study, row, results) else results.of(row)
            sides.append(values(row, [r for r in stored if seeds is None or r.seed < seeds]))
        shared = sorted(sides[0].keys() & sides[1].keys())
        if len(shared) > 1:
            found[names] = paired_t(*([side[seed] for seed in shared] for side in sides))
    return found


def number(value: float, row: Row) -> str:
    """As the table prints it: two places for percentages, three significant digits otherwise."""
    return f"{value:.2f}" if row.scale == 100 else f"{value:.3g}"


def cells(made: Line, sources: list[str]) -> list[str]:
    """The texts of one line; `sources` collects what the numbers in brackets refer to."""
    row, measured = made.row, made.measured
    expected = "-"
    if row.expected is not None:
        if row.source not in sources:
            sources.append(row.source)
        expected = f"{row.expected:g} +- {row.tolerance:g} [{sources.index(row.source) + 1}]"
    shown = made.verdict if made.verdict == "not run" else f"stale ({made.why} changed)"
    if measured is not None:
        spread = "" if np.isnan(measured.low) else f" +- {number(measured.half_width, row)}"
        shown = f"{number(measured.mean, row)}{spread} ({measured.n})"
    baseline = f"{made.baseline[0]} {number(made.baseline[1], row)}" if made.baseline else "-"
    size = f"{made.parameters:,}" if made.parameters else "-"
    seconds = f"{made.seconds:.0f}" if made.seconds else "-"
    return [row.name, size, expected, shown, baseline, seconds, made.verdict]


HEAD = ("row", "parameters", "expected [source]", "measured (seeds)", "best trivial", "seconds", "verdict")


def table(study: Study, lines: Sequence[Line], tests: Mapping[tuple[str, str], Comparison]) -> str:
    """The study as Markdown, which reads as plain text too."""
    sources: list[str] = []
    body = [list(HEAD), *(cells(made, sources) for made in lines)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    rows = ["| " + " | ".join(t.ljust(w) for t, w in zip(r, widths, strict=True)) + " |" for r in body]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    text = [*rows, ""]
    text += [f"[{i}] {source}  " for i, source in enumerate(sources, 1)]
    for (a, b), found in tests.items():
        row = study.row(a)
        interval = f"{number(found.low, row)} to {number(found.high, row)}"
        text.append(
            f"- {a} - {b}: {number(found.difference, row)} ({interval}), paired t over {found.n} seeds, "
            f"p {found.p:.2g}: {found.verdict()}"
        )
    return "\n".join(text).rstrip() + "\n"


def as_json(study: Study, lines: Sequence[Line], tests: Mapping[tuple[str, str], Comparison]) -> dict[str, Any]:
    """The same for programs; what was not run is null."""
    return {
        "study": study.name,
        "rows": [
            {
                "row": made.row.name,
                "expected": made.row.expected,
                "tolerance": made.row.tolerance,
                "source": made.row.source,
                "size": made.row.size,
                "verdict": made.verdict,
                **({} if made.measured is None else made.measured._asdict()),
                "baseline": made.baseline,
            }
            for made in lines
        ],
        "comparisons": [
            {"a": a, "b": b, **found._asdict(), "verdict": found.verdict()} for (a, b), found in tests.items()
        ],
    }


def draw(study: Study, lines: Sequence[Line], path: Path) -> None:
    """Measured means with their intervals on the published numbers with their tolerances; one panel per metric."""
    metrics = list(dict.fromkeys(made.row.metric for made in lines if made.measured))
    if not metrics:
        return
    panels = [[made for made in lines if made.row.metric == metric] for metric in metrics]
    sheet = figure(8.5, 0.9 + sum(0.33 * len(panel) + 0.7 for panel in panels))
    axes = sheet.subplots(len(panels), 1, squeeze=False, height_ratios=[len(p) + 1 for p in panels])[:, 0]
    for axis, panel, metric in zip(axes, panels, metrics, strict=True):
        for y, made in enumerate(panel):
            row, measured = made.row, made.measured
            if row.expected is not None:
                axis.barh(y, 2 * row.tolerance, 0.7, row.expected - row.tolerance, color="#dddddd")
                axis.plot([row.expected] * 2, [y - 0.35, y + 0.35], color="#777777", lw=1.5)
            if measured is None:
                axis.annotate(made.verdict, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
                continue
            half = 0 if np.isnan(measured.low) else measured.half_width
            axis.errorbar(measured.mean, y, xerr=half, fmt="o", ms=5, capsize=3, color=COLOURS[made.verdict])
            if made.baseline:
                axis.plot(made.baseline[1], y, "x", ms=5, color="black")
            axis.annotate(made.verdict, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axis.set_yticks(range(len(panel)), [made.row.name for made in panel], fontsize=8)
        axis.set_ylim(len(panel) - 0.4, -0.6)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.set_xlabel(f"test {metric}" + (" / %" if panel[0].row.scale == 100 else ""))
    sheet.suptitle(f"{study.name}: bar published +- tolerance, dot measured with 95 % interval, x best trivial answer",
                   fontsize=9)  # fmt: skip
    sheet.savefig(path, dpi=110)
