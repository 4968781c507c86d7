"""The claims, each with what was measured and a verdict. Pure functions of the measured rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn.scoring.sums import mean_interval
from experiments.compare_dense.cases import Case, growth

Rows = list[dict[str, Any]]  # of one case: the CNN, dense with equal parameters, dense with equal FLOPs
HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "not significant"
SAME = 2.0  # percentage points: two accuracies nearer than this count as the same


@dataclasses.dataclass
class Claim:
    """One row of the report: what is claimed, a table, the verdict per data set and in all."""

    title: str
    claim: str
    head: tuple[str, ...]
    table: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    verdicts: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In one line."""
        found = list(self.verdicts.values())
        if len(set(found)) == 1:
            where, colon, why = found[0].partition(":")
            return f"{where} on all {len(found)}{colon}{why}" if len(found) > 1 else found[0]
        return "; ".join(f"{name}: {text}" for name, text in self.verdicts.items())


def shown(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % t interval over seeds."""
    found = mean_interval(values)
    return f"{found.mean:.2f} ± {found.half_width:.2f}"


def compared(first: Sequence[float], second: Sequence[float], margin: float = 0.0) -> tuple[str, str]:
    """(verdict that `first` is larger, the paired difference with its 95 % t interval over seeds)."""
    found = mean_interval(np.subtract(first, second))
    text = f"{found.mean:+.2f} ± {found.half_width:.2f}"
    if found.low > margin:
        return HOLDS, text
    return (FAILS if found.high < margin else UNCLEAR), text


def unchanged(first: Sequence[float], second: Sequence[float]) -> tuple[str, str]:
    """(verdict that both are the same within SAME points, the paired difference)."""
    found = mean_interval(np.subtract(first, second))
    text = f"{found.mean:+.2f} ± {found.half_width:.2f}"
    if -SAME < found.low and found.high < SAME:
        return HOLDS, text
    return (FAILS if found.low > SAME or found.high < -SAME else UNCLEAR), text


def weights(cases: dict[str, tuple[Case, Rows, tuple[int, ...], int]]) -> list[Claim]:
    """What follows from the shapes alone: growth with the input's size, and sharing."""
    growing = Claim(
        "Parameters and the size of the input",
        "A dense network's parameters grow with the input; a convolutional network's do not.",
        ("data set", "network", "1x", "2x", "4x the size per axis"),
    )
    sharing = Claim(
        "Parameter sharing",
        "Each weight of a convolutional network is used at many positions, each weight of a dense one once.",
        ("data set", "network", "parameters", "multiply-adds", "uses of a weight"),
    )
    for name, (case, rows, shape, classes) in cases.items():
        counts = growth(case, shape, classes)
        for label, column in ((rows[0]["network"].label, 1), (rows[1]["network"].label, 2)):
            growing.table.append((name, label, *(f"{row[column]:,}" for row in counts)))
        constant = counts[0][1] == counts[-1][1]
        growing.verdicts[name] = HOLDS if constant else f"{FAILS}: this network's head is dense over all positions"
        for row in rows:
            found = row["network"]
            sharing.table.append(
                (name, found.label, f"{found.facts.params:,}", f"{found.facts.macs:,}", f"{found.sharing:.2f}")
            )
        sharing.verdicts[name] = HOLDS if rows[0]["network"].sharing > 1.5 > rows[1]["network"].sharing else FAILS
    return [growing, sharing]


def accuracy(cases: dict[str, tuple[Case, Rows, tuple[int, ...], int]]) -> list[Claim]:
    """What the accuracies say."""
    grids = {name: rows for name, (case, rows, _, _) in cases.items() if not case.tabular}
    best = Claim(
        "Accuracy",
        "On grid-shaped data a convolutional network is more accurate than a dense one of its size.",
        ("data set", "network", "test accuracy, %", "CNN minus it"),
    )
    tabular = Claim(
        "Tabular data",
        "Where the columns have no order, a dense network wins or ties.",
        best.head,
    )
    for name, (case, rows, _, _) in cases.items():
        claim = tabular if case.tabular else best
        found = []
        for row in rows:
            verdict, text = compared(rows[0]["test"], row["test"])
            claim.table.append((name, row["network"].label, shown(row["test"]), "" if row is rows[0] else text))
            found += [verdict] if row is not rows[0] else []
        if case.tabular:
            claim.verdicts[name] = FAILS if HOLDS in found else HOLDS
        else:
            claim.verdicts[name] = _joined(found)

    small = Claim(
        "Few training examples",
        "The advantage is larger where there are fewer examples.",
        ("data set", "share of the training set", *(row["network"].label for row in next(iter(grids.values()))),
         "CNN minus best dense"),
    )  # fmt: skip
    gap = Claim(
        "Over-fitting",
        "A convolutional network over-fits less: train minus test accuracy is smaller.",
        ("data set", "network", "train", "test", "gap"),
    )
    order = Claim(
        "Spatial structure",
        "With one fixed permutation of all pixels a dense network stays what it was, a convolutional one drops.",
        ("data set", "network", "as they are", "shuffled", "change"),
    )
    moved = Claim(
        "Translation",
        "A convolutional network keeps more of its accuracy when the test inputs are shifted.",
        ("data set", "network", "no shift", "1", "2", "3 positions"),
    )
    for name, rows in grids.items():
        advantages = {}
        for fraction in sorted(rows[0]["fractions"]):
            values = [row["fractions"][fraction] for row in rows]
            dense = max(values[1:], key=np.mean)
            advantages[fraction] = np.subtract(values[0], dense)
            _, text = compared(values[0], dense)
            small.table.append((name, f"{fraction:g}", *map(shown, values), text))
        small.verdicts[name], _ = compared(advantages[min(advantages)], advantages[1.0])

        gaps = [np.subtract(row["train"], row["test"]) for row in rows]
        for row, values in zip(rows, gaps, strict=True):
            gap.table.append((name, row["network"].label, shown(row["train"]), shown(row["test"]), shown(values)))
        gap.verdicts[name] = _joined([compared(values, gaps[0])[0] for values in gaps[1:]])

        kept = []
        for row in rows:
            cnn = row is rows[0]
            verdict, text = (compared if cnn else unchanged)(row["test"], row["shuffled"])
            order.table.append((name, row["network"].label, shown(row["test"]), shown(row["shuffled"]),
                                f"{np.mean(row['shuffled']) - np.mean(row['test']):+.2f}"))  # fmt: skip
            kept.append(verdict)
        drops, *same = kept
        order.verdicts[name] = HOLDS if set(kept) == {HOLDS} else (
            f"{UNCLEAR if FAILS not in kept else FAILS}: that the CNN drops {drops}, that the dense ones stay within "
            f"{SAME:g} points {' and '.join(same)}"
        )

        for row in rows:
            moved.table.append((name, row["network"].label, *map(shown, row["shift"])))
        lost = [np.subtract(row["shift"][0], row["shift"][-1]) for row in rows]
        moved.verdicts[name] = _joined([compared(values, lost[0])[0] for values in lost[1:]])
    return [best, small, moved, order, gap, tabular]


def costs(cases: dict[str, tuple[Case, Rows, tuple[int, ...], int]]) -> Claim:
    """Time and memory on this machine."""
    claim = Claim(
        "Time and memory",
        "At equal FLOPs a convolutional network is slower: its work is spread over many small windows.",
        ("data set", "network", "training step, ms", "one prediction, ms", "500 predictions, ms", "training step, MiB"),
    )
    for name, (_, rows, _, _) in cases.items():
        for row in rows:
            c = row["costs"]
            claim.table.append(
                (name, row["network"].label, f"{c['train_ms']:.2f}", f"{c['predict_one_ms']:.2f}",
                 f"{c['predict_500_ms']:.1f}", f"{c['step_mib']:.1f}")
            )  # fmt: skip
        slower = rows[0]["costs"]["train_ms"] > rows[2]["costs"]["train_ms"]
        claim.verdicts[name] = HOLDS if slower else FAILS
    return claim


def _joined(verdicts: Sequence[str]) -> str:
    return verdicts[0] if len(set(verdicts)) == 1 else (
        f"{verdicts[0]} at equal parameters, {verdicts[1]} at equal FLOPs"
    )
