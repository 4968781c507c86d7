"""One config on several topologies, and on 4 to 4,096 chips of each kind; the formula is `cnn.preflight.forecast`'s."""

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from cnn.errors import UserError
from cnn.preflight import check, forecast
from cnn.preflight.hardware import CHIPS, Topology, of_chips, topology
from cnn.preflight.loader import Loader
from cnn.preflight.text import gib

CHIPS_EACH = 4  # the smallest host that every kind has


def default() -> tuple[Topology, ...]:
    """Four chips of every kind."""
    return tuple(of_chips(kind, CHIPS_EACH) for kind in CHIPS)


def sweep(
    config: ConfigDict, where: Sequence[Topology], *, loader: Loader | None = None, **options: Any
) -> dict[str, Any]:
    """{topologies: rows of `check.on_topology` or {topology, error}; scaling: {kind: rows}; published: rows}.

    Args:
      options: of `check.on_topology`.
    """
    rows, scaled = [], {}
    for one in where:
        try:
            found = check.on_topology(config, one, loader=loader, search=False, **options)
        except UserError as error:
            rows.append({"topology": str(one), "error": str(error)})
            continue
        rows.append(found)
        if "step" in found:
            scaled[one.kind] = scaling(found, loader.rate if loader else 0.0)
    return {"estimate": True, "topologies": rows, "scaling": scaled, "published": published()}


def scaling(found: dict[str, Any], rate: float) -> list[dict[str, Any]]:
    """The same batch per chip on more chips, from what `check.on_topology` found."""
    small = topology(found["topology"])
    program = {
        "batch": found["batch"],
        "useful_flops": found["step"]["useful_flops"] * found["devices"],
        "train": {"bytes": found["step"]["bytes"], "collectives": found["collectives"]},
    }
    return [
        {
            "topology": str(where),
            "chips": where.chips,
            "pods": -(-where.chips // where.chip.pod),
            "batch": round(program["batch"] / small.chips * where.chips),
            "seconds": step.seconds,
            "chip": step.chip,
            "gradients": step.gradients,
            "statistics": step.statistics,
            "input": step.input,
            "wall": step.wall,
            "efficiency": efficiency,
        }
        for where, step, efficiency in forecast.scaling(check.work(program, small), small.kind, rate)
    ]


def published() -> list[dict[str, Any]]:
    """The formula beside published runs."""
    return [
        {
            "kind": point.kind,
            "chips": point.chips,
            "batch": point.batch,
            "published": point.published,
            "forecast": value,
            "error": error,
            "source": point.source,
        }
        for point, value, error in forecast.checked()
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown, columns aligned."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for number, row in enumerate(cells):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if not number:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines for people."""
    yield "Estimates; memory of one device, batch over all chips"
    rows = []
    for one in found["topologies"]:
        if "error" in one:
            rows.append([one["topology"], one["error"][:60], *[""] * 6])
            continue
        step, run = one.get("step", {}), one.get("run", {})
        dollars = " ".join(f"${price:,.0f} {name}" for name, price in run.get("dollars", {}).items())
        rows.append(
            [
                one["topology"],
                "yes" if one["verdict"]["go"] else "NO",
                f"{gib(one['memory']['peak'])} of {gib(one['memory']['limit'])}",
                *([f"{1e3 * step['roofline_seconds']:.3g}", f"{1e3 * step['seconds']:.3g}"] if step else ["", ""]),
                step.get("wall", ""),
                f"{step['examples_per_second'] / one['chips']:,.0f}" if step else "",
                dollars or (f"{run['chip_hours']:.3g} chip h" if run.get("hours") else ""),
            ]
        )
    head = ("topology", "fits", "memory", "roofline ms", "step ms", "wall", "examples/s/chip", "whole run")
    yield from table(head, rows)
    for kind, scaled in found["scaling"].items():
        yield f"\n{kind}, {scaled[0]['batch'] / scaled[0]['chips']:g} examples per chip, by the formula"
        if scaled[-1]["pods"] > 1:
            yield "(the network between pods is slower than the formula has it)"
        yield from table(
            ("chips", "batch", "step ms", "chip", "gradients", "statistics", "input", "wall", "efficiency"),
            [
                [
                    f"{row['chips']:,}" + (f" ({row['pods']} pods)" if row["pods"] > 1 else ""),
                    f"{row['batch']:,}",
                    *(f"{1e3 * row[key]:.3g}" for key in ("seconds", "chip", "gradients", "statistics", "input")),
                    row["wall"],
                    f"{row['efficiency']:.0%}",
                ]
                for row in scaled
            ],
        )
    yield "\nThe formula on MLPerf's runs of ResNet-50 (examples/s per chip; evaluation is in the published number)"
    yield from table(
        ("chips", "per chip", "published", "formula", "error", "source"),
        [
            [
                f"{row['chips']:,} {row['kind']}",
                str(row["batch"]),
                f"{row['published']:,.0f}",
                f"{row['forecast']:,.0f}",
                f"{row['error']:+.0%}",
                row["source"],
            ]
            for row in found["published"]
        ],
    )
