"""Runs everything that the claims need; each number is kept in a file as soon as it is there."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn import config as configs
from cnn.data import open_dataset
from cnn.features import DatasetInfo
from experiments.compare_dense.cases import RATES, Case, Network, networks
from experiments.compare_dense.learner import Arrays, Learner

SHIFTS = (0, 1, 2, 3)  # pixels or steps
SHUFFLE_SEED = 7


class Notes:
    """Numbers by name, one JSON line each, so that an interrupted report goes on where it was.

    Numbers that another version of this study's code made are not used.
    """

    def __init__(self, path: Path):
        self.path, self.known = path, {}
        sources = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("[clm]*.py"))]
        self.code = hashlib.sha256(b"".join(sources)).hexdigest()[:12]
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            self.known = {tuple(row["name"]): row["value"] for row in rows if row["code"] == self.code}

    def get(self, name: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The number called `name`, made now where it is not there yet."""
        name = tuple(map(str, name))
        if name not in self.known:
            value = make()
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "value": value, "code": self.code}) + "\n")
            self.known[name] = value
        return self.known[name]


def opened(case: Case) -> tuple[DatasetInfo, Arrays, Arrays]:
    """(facts, training split, test split) in memory."""
    c = configs.default().input
    c.dataset, c.in_memory = case.dataset, "yes"
    dataset = open_dataset(c)
    train, test = (dict(dataset.source(split).arrays) for split in ("train", "test"))
    if case.examples:
        train = {name: value[: case.examples] for name, value in train.items()}
    return dataset.info, train, test


def shuffled(arrays: Arrays, key: str) -> Arrays:
    """All inputs with one and the same permutation of their positions."""
    x = arrays[key]
    flat = x.reshape(len(x), -1, x.shape[-1])
    order = np.random.default_rng(SHUFFLE_SEED).permutation(flat.shape[1])
    return arrays | {key: flat[:, order].reshape(x.shape)}


def shifted(arrays: Arrays, key: str, by: int) -> Arrays:
    """All inputs moved by so many positions along their last spatial axis; the first value fills the gap."""
    if not by:
        return arrays
    x = arrays[key]
    edge = np.repeat(x[..., :1, :], by, axis=-2)
    return arrays | {key: np.concatenate([edge, x[..., :-by, :]], axis=-2)}


def subset(arrays: Arrays, fraction: float, seed: int) -> Arrays:
    """A random part, another one for each seed; the larger ones hold the smaller ones."""
    rows = np.random.default_rng(seed).permutation(len(arrays["label"]))
    rows = rows[: max(round(fraction * len(rows)), 10)]
    return {name: value[rows] for name, value in arrays.items()}


def best_rate(notes: Notes, case: Case, network: Network, info: DatasetInfo, train: Arrays) -> float:
    """Of RATES, by the accuracy on the last fifth of the training split; the smaller one of equals."""
    cut = len(train["label"]) * 4 // 5
    head, tail = ({n: v[s] for n, v in train.items()} for s in (slice(cut), slice(cut, None)))

    def score(rate: float) -> float:
        learner = Learner(case, network, info, train, rate)
        return learner.accuracy(learner.train(head, 0), tail)

    scores = {rate: notes.get((case.dataset, network.label, "rate", rate), lambda r=rate: score(r)) for rate in RATES}
    return max(scores, key=lambda rate: (scores[rate], -rate))


def run_case(notes: Notes, case: Case, seeds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What the report needs of each network of a case."""
    info, train, test = opened(case)
    key = info.input_key
    rows = []
    for network in networks(case, train[key].shape[1:], info.num_classes):
        say(f"{case.dataset}: {network.label}: {network.facts.params:,} parameters")
        rate = best_rate(notes, case, network, info, train)
        learner = Learner(case, network, info, train, rate)
        row: dict[str, Any] = {"network": network, "rate": rate}
        row["costs"] = notes.get((case.dataset, network.label, "costs"), lambda ln=learner: ln.costs(train))

        def whole(seed: int, ln: Learner = learner) -> dict[str, Any]:
            variables = ln.train(train, seed)
            return {
                "train": ln.accuracy(variables, subset(train, min(1, 2000 / len(train["label"])), 0)),
                "shift": [ln.accuracy(variables, shifted(test, key, by)) for by in SHIFTS],
            }

        def permuted(seed: int, ln: Learner = learner) -> float:
            return ln.accuracy(ln.train(shuffled(train, key), seed), shuffled(test, key))

        def part(seed: int, fraction: float, ln: Learner = learner) -> float:
            return ln.accuracy(ln.train(subset(train, fraction, seed), seed), test)

        def each(what: str, make: Callable[[int], Any], label: str = network.label) -> list[Any]:
            found = []
            for seed in range(seeds):
                found.append(notes.get((case.dataset, label, what, seed), lambda s=seed: make(s)))
                say(f"{case.dataset}: {label}: {what}, seed {seed}")
            return found

        full = each("whole", whole)
        row["train"] = [found["train"] for found in full]
        row["shift"] = [[found["shift"][i] for found in full] for i in range(len(SHIFTS))]
        row["test"] = row["shift"][0]
        row["shuffled"] = each("shuffled", permuted)
        row["fractions"] = {
            fraction: each(f"fraction {fraction:g}", lambda s, f=fraction: part(s, f)) for fraction in case.fractions
        } | {1.0: row["test"]}
        rows.append(row)
    return rows
