"""The report: Markdown, one HTML page with its pictures inside, PNG figures."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from cnn.figures import figure
from cnn.scoring.sums import mean_interval
from experiments.compare_dense.claims import Claim
from experiments.compare_dense.measure import SHIFTS

COLOURS = ("tab:blue", "tab:orange", "tab:green")


def draw(cases: dict[str, Any], folder: Path) -> dict[str, str]:
    """{title of a claim: file of its figure}."""
    grids = {name: rows for name, (case, rows, _, _) in cases.items() if not case.tabular}
    figures = {}

    def curves(title: str, file: str, xlabel: str, points: Any, log: bool = False) -> None:
        made = figure(3.6 * len(grids), 3.2)
        for index, (name, rows) in enumerate(grids.items(), 1):
            axes = made.add_subplot(1, len(grids), index)
            for row, colour in zip(rows, COLOURS, strict=True):
                x, values = points(row)
                found = [mean_interval(v) for v in values]
                axes.plot(x, [f.mean for f in found], color=colour, marker="o", label=row["network"].label)
                axes.fill_between(x, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.2)
            if log:
                axes.set_xscale("log")
            axes.set(title=name, xlabel=xlabel, ylabel="test accuracy, %" if index == 1 else "")
            axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        made.savefig(folder / file, dpi=130)
        figures[title] = file

    curves("Few training examples", "examples.png", "share of the training set",
           lambda row: (sorted(row["fractions"]), [row["fractions"][f] for f in sorted(row["fractions"])]),
           log=True)  # fmt: skip
    curves("Translation", "shift.png", "shift of the test inputs", lambda row: (SHIFTS, row["shift"]))

    made = figure(3.6 * len(grids), 3.2)
    for index, (name, rows) in enumerate(grids.items(), 1):
        axes = made.add_subplot(1, len(grids), index)
        place = np.arange(len(rows))
        for offset, key, label in ((-0.2, "test", "as they are"), (0.2, "shuffled", "pixels shuffled")):
            found = [mean_interval(row[key]) for row in rows]
            axes.bar(place + offset, [f.mean for f in found], 0.38, yerr=[f.half_width for f in found], label=label)
        axes.set_xticks(place, ["CNN", "dense,\nparams", "dense,\nFLOPs"])
        axes.set(title=name, ylabel="test accuracy, %" if index == 1 else "", ylim=(0, 100))
    axes.legend(fontsize=8, loc="lower right")
    made.savefig(folder / "shuffled.png", dpi=130)
    figures["Spatial structure"] = "shuffled.png"
    return figures


def markdown(claims: list[Claim], figures: dict[str, str], about: str) -> str:
    """The report as Markdown."""
    lines = ["# Convolutional against dense networks", "", about, "", "| claim | verdict |", "|---|---|"]
    lines += [f"| {claim.claim} | {claim.verdict} |" for claim in claims]
    for claim in claims:
        lines += section(claim, figures)
    return "\n".join(lines) + "\n"


def section(claim: Claim, figures: dict[str, str]) -> list[str]:
    """Lines of Markdown: a claim, what was measured, the verdict."""
    lines = ["", f"## {claim.title}", "", claim.claim, "", _row(claim.head), _row(["---"] * len(claim.head))]
    lines += [_row(cells) for cells in claim.table]
    if claim.title in figures:
        lines += ["", f"![{claim.title}]({figures[claim.title]})"]
    return [*lines, "", f"**Verdict:** {claim.verdict}."]


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left } th { background: #f4f4f4 }
img { max-width: 100% } .verdict { background: #eef5ff; padding: .6rem 1rem; border-left: 4px solid #36c }
"""


def page(claims: list[Claim], figures: dict[str, str], about: str, folder: Path) -> str:
    """The report as one HTML page that needs no other file."""

    def table(head: Any, rows: Any) -> str:
        lines = ["<table><tr>", *(f"<th>{html.escape(cell)}</th>" for cell in head), "</tr>"]
        for row in rows:
            lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        return "".join(lines) + "</table>"

    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Convolutional against dense networks</title><style>{STYLE}</style>",
        f"<h1>Convolutional against dense networks</h1><p>{html.escape(about)}</p>",
        table(("claim", "verdict"), [(claim.claim, claim.verdict) for claim in claims]),
    ]
    for claim in claims:
        parts.append(f"<h2>{html.escape(claim.title)}</h2><p>{html.escape(claim.claim)}</p>")
        parts.append(table(claim.head, claim.table))
        if claim.title in figures:
            data = base64.b64encode((folder / figures[claim.title]).read_bytes()).decode()
            parts.append(f"<img alt='{html.escape(claim.title)}' src='data:image/png;base64,{data}'>")
        parts.append(f"<p class=verdict><b>Verdict:</b> {html.escape(claim.verdict)}.</p>")
    return "\n".join(parts) + "</html>\n"
