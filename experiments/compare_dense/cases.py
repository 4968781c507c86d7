"""The comparisons: a data set, a convolutional network and its two dense counterparts, one recipe for all three."""

import dataclasses
from typing import Any

from cnn.models import MODELS, facts

DENSE = "mlp"


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
      dataset: its name in DATASETS.
      cnn, options: the convolutional network, and its options.
      steps, batch_size: of every training run, whatever the number of examples.
      fractions: of the training set, for accuracy against its size.
      examples: at most so many training examples; 0 for all.
      tabular: the columns have no order: here the dense network should win or tie.
    """

    dataset: str
    cnn: str
    steps: int
    batch_size: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    fractions: tuple[float, ...] = (1 / 16, 1 / 4)
    examples: int = 0
    tabular: bool = False


CASES: dict[str, Case] = {
    "mnist1d": Case("mnist1d", "mnist1d_cnn", steps=3000, batch_size=100),
    "digits": Case("digits", "resnet_small", steps=600, batch_size=64),
    "fashion_mnist": Case("fashion_mnist", "fashion_cnn", steps=1000, batch_size=128, fractions=(1 / 64, 1 / 8)),
    "breast_cancer": Case(
        "breast_cancer", "mnist1d_cnn", steps=400, batch_size=64, fractions=(1 / 8, 1 / 2), tabular=True
    ),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # each network takes the best of these, on the last fifth of the training set


@dataclasses.dataclass(frozen=True)
class Network:
    """One of the three networks of a case. `label` is how the report calls it."""

    label: str
    model: str
    options: dict[str, Any]
    facts: facts.Facts

    @property
    def sharing(self) -> float:
        """Multiply-adds per parameter for one example: how often each weight is used."""
        return self.facts.macs / self.facts.params


def networks(case: Case, shape: tuple[int, ...], classes: int) -> list[Network]:
    """The convolutional network, and dense ones of one hidden layer with as many parameters, and as many MACs.

    Args:
      shape: of one input, [*space, c].
    """
    found, _, _ = facts.measure(case.cnn, shape, num_classes=classes, **case.options)
    made = [Network("CNN", case.cnn, dict(case.options), found)]
    for label, field in (("dense, equal parameters", "params"), ("dense, equal FLOPs", "macs")):
        options = {"depth": 1, "width": width_for(field, getattr(found, field), shape, classes)}
        dense, _, _ = facts.measure(DENSE, shape, num_classes=classes, **options)
        made.append(Network(label, DENSE, options, dense))
    return made


def width_for(field: str, target: int, shape: tuple[int, ...], classes: int) -> int:
    """Hidden units of a one-layer dense network whose `field` ('params' or 'macs') is nearest to `target`."""

    def count(width: int) -> int:
        return getattr(facts.measure(DENSE, shape, num_classes=classes, depth=1, width=width)[0], field)

    per_unit = count(2) - count(1)  # both grow linearly with the width
    return max(1, round((target - count(1)) / per_unit) + 1)


def growth(case: Case, shape: tuple[int, ...], classes: int) -> list[tuple[int, int, int]]:
    """(factor, parameters of the convolutional network, of the dense one) for inputs of 1, 2 and 4 times the size.

    The dense network keeps the width that gives it as many parameters at factor 1.
    """
    dense = networks(case, shape, classes)[1]
    rows = []
    for factor in (1, 2, 4):
        larger = (*(factor * size for size in shape[:-1]), shape[-1])
        counts = [
            facts.measure(name, larger, num_classes=classes, **options)[0].params
            for name, options in ((case.cnn, case.options), (dense.model, dense.options))
        ]
        rows.append((factor, *counts))
    return rows


assert {case.cnn for case in CASES.values()} | {DENSE} <= set(MODELS)
