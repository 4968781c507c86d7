"""When a run of a sweep has lost: rules that look at the curves of all runs.

    none      every run goes to its end
    median    a run whose best value so far is worse than the median of what the others averaged up to the same step
              (Golovin et al. 2017, Google Vizier, section 3.2.1: the median stopping rule)
    halving   at steps r, r*eta, r*eta^2, ... only the best 1/eta of those that came so far go on (Jamieson and
              Talwalkar 2016; asynchronously as in Li et al. 2020, ASHA: nobody waits for the others)

A curve is [(step, value)], oldest first, and larger is better in all of them: see `curve`.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnn.scoring.comparing import is_score

Curve = Sequence[tuple[int, float]]
LEAST = 3  # others to compare with, for the median


def curve(rows: Sequence[Mapping[str, Any]], metric: str, mode: str) -> list[tuple[int, float]]:
    """The values of a metric in the lines of a metrics.jsonl, the sign turned where smaller is better.

    What is not finite is -inf, worse than every value: a run that diverged loses, and nobody loses to it.
    """
    sign = 1.0 if mode == "max" else -1.0
    found = [(row["step"], row[metric]) for row in rows if metric in row]
    return [(step, sign * value if is_score(value) else -math.inf) for step, value in found]


def best_until(points: Curve, step: int) -> float | None:
    """The best value up to a step; None before the first."""
    seen = [value for at, value in points if at <= step]
    return max(seen) if seen else None


def median(name: str, curves: Mapping[str, Curve], start: int, eta: int) -> str:
    """Why a run has lost; '' while it has not."""
    points = curves[name]
    if not points or points[-1][0] < start:
        return ""
    step = points[-1][0]
    others = [c for other, c in curves.items() if other != name and c and c[-1][0] >= step]
    if len(others) < LEAST:
        return ""
    averages = [statistics.fmean([v for at, v in c if at <= step] or [-math.inf]) for c in others]
    middle = statistics.median(averages)
    best = best_until(points, step)
    return f"step {step}: below the median of {len(others)} others" if best is not None and best < middle else ""


def halving(name: str, curves: Mapping[str, Curve], start: int, eta: int) -> str:
    """Why a run has lost; '' while it has not."""
    points = curves[name]
    rung = start
    if not points or points[-1][0] < rung:
        return ""
    while rung * eta <= points[-1][0]:
        rung *= eta
    there = {
        other: value
        for other, c in curves.items()
        if c and c[-1][0] >= rung and (value := best_until(c, rung)) is not None
    }
    if name not in there or len(there) < eta:
        return ""
    kept = math.ceil(len(there) / eta)
    place = 1 + sum(value > there[name] for value in there.values())
    return f"step {rung}: place {place} of {len(there)}, {kept} go on" if place > kept else ""


def none(name: str, curves: Mapping[str, Curve], start: int, eta: int) -> str:
    """Never."""
    return ""


RULES: dict[str, Callable[[str, Mapping[str, Curve], int, int], str]] = {
    "none": none,
    "median": median,
    "halving": halving,
}
