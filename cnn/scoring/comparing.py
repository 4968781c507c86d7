"""Comparing scores: which one is better, in words. A missing or non-finite score never wins and beats nothing.

Comparisons with NaN are false both ways, so a sort that meets one NaN key leaves its list in an arbitrary order.
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

MODES = ("max", "min")  # of `eval.mode`: more is better, less is better


def is_score(value: Any) -> bool:
    """Whether it can be compared: a finite number; not None, NaN, an infinity or a flag."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_better(value: Any, other: Any, mode: str) -> bool:
    """Whether `value` is a score, and a strictly better one than `other` (or `other` is none)."""
    if not is_score(value):
        return False
    return not is_score(other) or bool(value > other if mode == "max" else value < other)


def best_first(scores: Mapping[str, Any], mode: str) -> list[tuple[str, float]]:
    """[(name, score)] of those that have one, the best first; equal ones in the order of `scores`."""
    found = [(name, float(value)) for name, value in scores.items() if is_score(value)]
    return sorted(found, key=lambda item: item[1], reverse=mode == "max")


def without_score(scores: Mapping[str, Any]) -> list[str]:
    """The names that `best_first` leaves out."""
    return [name for name, value in scores.items() if not is_score(value)]


def standing(score: Any, others: Mapping[str, Any], metric: str, mode: str) -> tuple[bool, str]:
    """(whether a run is better than every other answer, one sentence that says how it compares).

    Args:
      score: of the run; anything that is no score is said to be none.
      others: {name: score} of the baselines.
      metric, mode: what the scores are, and whether more ('max') or less ('min') of it is better.
    """
    if not is_score(score):
        return False, f"This run has no finite {metric}: it cannot be compared."
    ranked, missing = best_first(others, mode), without_score(others)
    unknown = f" Without a finite {metric}: {', '.join(missing)}." if missing else ""
    if not ranked:
        return False, f"No baseline has a finite {metric} to compare with."
    name, best = ranked[0]
    if is_better(score, best, mode):
        return True, f"This run is better than {'every baseline' if len(ranked) > 1 else name}.{unknown}"
    if is_better(best, score, mode):
        return False, f"{name} is better than this run.{unknown}"
    return False, f"{name} is as good as this run.{unknown}"
