"""The largest batch that fits, found with few compilations: memory grows along a line, so the next guess is where it
meets the limit."""

import re
from collections.abc import Callable

NEEDS = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available \w+ \(([\d.]+)([KMGT])\)")
SCALE = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
NICE = tuple(sorted(factor << power for factor in (1, 3) for power in range(24)))  # 1, 2, 3, 4, 6, 8, 12, 16, ...


def needed(error: str) -> int | None:
    """Bytes that a program would take, from the compiler's refusal; None where it is another error."""
    match = NEEDS.search(error)
    return round(float(match[1]) * SCALE[match[2]]) if match else None


def nice(value: float | int) -> int:
    """The largest of NICE up to `value`; 0 below 1."""
    return max((size for size in NICE if size <= value), default=0)


def guess(seen: dict[int, int], limit: float | int, held: int) -> int:
    """Where memory meets the limit.

    Args:
      seen: {batch: bytes} of at least one.
      held: bytes of an empty batch: the state.
    """
    near, *others = sorted(seen, key=lambda batch: abs(seen[batch] - limit))
    slope, start = (seen[near] - held) / near, held
    if others and seen[others[0]] != seen[near]:
        other = others[0]
        slope = (seen[near] - seen[other]) / (near - other)
        start = seen[near] - slope * near
    return nice((limit - start) / slope) if slope > 0 else NICE[-1]


def largest(
    compiled: Callable[[int], int | None], seen: dict[int, int], limit: float | int, held: int, tries: int = 3
) -> tuple[int, int] | None:
    """(batch, bytes) of the largest batch of NICE that was compiled and fits; None where none does.

    Args:
      compiled: bytes that a batch takes; more than `limit` or None where the compiler refuses.
      seen: what is known already; is added to.
      held: bytes of an empty batch.
      tries: compilations at most.
    """
    top = NICE[-1]
    for _ in range(tries):
        size = min(guess(seen, limit, held) if seen else 1, top)
        if size < 1 or size in seen:
            break
        need = compiled(size)
        if need is None or need > limit:
            top = nice(size - 1)
        if need is not None:
            seen[size] = need
    fitting = [size for size, need in seen.items() if need <= limit]
    return (max(fitting), seen[max(fitting)]) if fitting else None
