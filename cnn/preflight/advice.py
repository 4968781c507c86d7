"""What to change: padding of TPU tiles, the wall that the step hits, a loader that is too slow."""

from collections import defaultdict
from typing import Any

LANES, SUBLANES = 128, 8
WORTH = 0.02  # of all bytes that layers write: padding below that is not worth a word
SLOW = 0.9  # a loader that gives less than this share of what the step takes


def padding(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums up the rows of `cnn.preflight.program.tiles`.

    Returns:
      {bytes: without padding; waste: bytes of padding; layers: the five with most of it; advice: lines}
    """
    layers: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    causes: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        layers[row["layer"]][0] += row["bytes"]
        layers[row["layer"]][1] += row["waste"]
        causes[row["axis"], row["size"]] += row["waste"]
    real, waste = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
    worst = sorted(layers.items(), key=lambda item: -item[1][1])[:5]
    return {
        "bytes": real,
        "waste": waste,
        "layers": [{"layer": name, "bytes": b, "waste": w} for name, (b, w) in worst if w],
        "advice": [
            _line(axis, size, wasted / (real + waste))
            for (axis, size), wasted in sorted(causes.items(), key=lambda item: -item[1])
            if axis and wasted > WORTH * (real + waste)
        ][:3],
    }


def _line(axis: str, size: int, share: float) -> str:
    lost = f"{share:.0%} of the memory that layers write is padding of"
    if axis == "batch":
        wanted = f"{LANES}, or {SUBLANES} and its multiples" if size < LANES else f"a multiple of {LANES}"
        return f"{lost} a batch of {size} per device: take {wanted}"
    if axis == "channels":
        return f"{lost} {size} channels: widths of {LANES} and its multiples, or a batch of {LANES} per device"
    return f"{lost} a side of {size}: sizes that are multiples of {SUBLANES} at every stride"


def stem(window: tuple[int, ...], channels: int, batch: float | int) -> str:
    """A word about a first convolution of few channels; '' where there is none to say.

    Args:
      batch: examples per device. MLPerf's entries fold space into channels up to 8 (perf.md, section 5).
    """
    if channels > 4 or min(window, default=1) < 3 or batch > 8:
        return ""
    side = "x".join("2" for _ in window)
    return (
        f"the stem reads {channels} of {LANES} lanes; with {batch:g} examples per device a space-to-depth stem "
        f"({side} pixels to {channels * 2 ** len(window)} channels) pays"
    )
