"""What a study is: a folder `experiments/<study>/` with rows, a README and the raw results.

    study.py      QUESTION, ROWS and, optionally, COMPARE: pairs of row names to test against each other
    README.md     question, method, the printed table between two marks, verdict
    results.csv   one line per row and seed that was run; never written by hand
    results.png   the table as a figure

A row whose published number is not in the cited place but remembered says "from memory" in its source.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from cnn import config as configs
from cnn import flags
from cnn.data import DATASETS
from cnn.errors import UserError, unknown
from cnn.models import MODELS
from cnn.run.workdir import FREE
from cnn.tables import Entry
from cnn.tasks import TASKS
from cnn.transforms import TRANSFORMS
from experiments.code_hash import Code

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("ci", "cpu", "tpu")  # in CI; minutes to hours on two cores; needs accelerators, shown with its command
# Raise it when the trainer, an optimizer, a layer or the data order changes what a run learns; every stored result is
# stale then. A golden trace in tests/experiments/test_reproduce.py says when that is so.
TRAINER = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a config that is run with several seeds, and what it should score.

    Attributes:
      name: unique in the study; a folder's name.
      config: path of the config, from the checkout's root.
      overrides: {'optim.lr': '0.1'}, as on the command line.
      expected: the published number, in the unit of the table (accuracies in %); None where there is none.
      tolerance: the largest |measured - expected| that still counts as the same; the study says why.
      source: where the number stands.
      seeds: 0, 1, ... so many by default.
      metric: of the test split, as the task names it.
      size: of SIZES.
      minutes: per seed, about, on two cores ('ci', 'cpu').
      mode: of the metric, 'max' or 'min' is better; '' is the config's `eval.mode`, of its `eval.metric`.
      baseline: not a run of its own: this strong trivial answer of the row named by `of`.
    """

    name: str
    config: str = ""
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expected: float | None = None
    tolerance: float = 0.0
    source: str = ""
    seeds: int = 5
    metric: str = "accuracy"
    size: str = "cpu"
    minutes: float = 1.0
    baseline: str = ""
    of: str = ""
    mode: str = ""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise unknown(f"size of row '{self.name}'", self.size, SIZES)
        if bool(self.baseline) != bool(self.of) or bool(self.config) == bool(self.of):
            raise UserError(f"row '{self.name}' needs a config, or else `baseline` and `of`")
        if self.expected is not None and not self.source:
            raise UserError(f"row '{self.name}' has an expected number without its source")

    @property
    def scale(self) -> float:
        """The table's unit: accuracies in %."""
        return 100.0 if "accuracy" in self.metric else 1.0

    def better(self) -> str:
        """'max' or 'min': which values of the metric are better.

        Raises:
          UserError: neither the row nor its config says so.
        """
        watched = self.loaded.eval
        if not self.mode and watched.metric != self.metric:
            raise UserError(f"row '{self.name}' needs a mode: its config watches {watched.metric}, not {self.metric}")
        return self.mode or watched.mode

    @functools.cached_property
    def loaded(self) -> ConfigDict:
        """The whole config, overridden."""
        return flags.load_config(str(ROOT / self.config), dict(self.overrides))

    def resolved(self) -> dict[str, Any]:
        """{dotted field: value} where the config, overridden, differs from the defaults; without seed and machine."""
        wanted, usual = (dict(_flat(json.loads(configs.to_json(x)))) for x in (self.loaded, configs.default()))
        return {
            key: value
            for key, value in sorted(wanted.items())
            if (key not in usual or usual[key] != value) and key != "seed" and not key.startswith(FREE)
        }

    def config_hash(self) -> str:
        """8 hex digits of `resolved`; a new field of the configs with its default changes nothing."""
        return _digest(json.dumps(self.resolved()))

    def code_hash(self) -> str:
        """8 hex digits of TRAINER and the code of the row's model, data set, transforms and task: see `code_hash`."""
        c = self.loaded
        used = [_target("model", c.model.name, MODELS), _target("data set", c.input.dataset, DATASETS)]
        options = [value for _, value in _flat(c.model.to_dict()) if isinstance(value, str)]
        used += [MODELS[name].target for name in options if name in MODELS]  # the backbone of a head
        steps = (*c.input.train_transforms, *c.input.eval_transforms)
        used += [_target("transform", name, TRANSFORMS) for name, _ in steps]
        tables = {name: entry.target for table in (MODELS, DATASETS) for name, entry in table.items()}
        texts = Code(ROOT, tables).texts(used, [_target("task", c.task.name, TASKS)])
        return _digest("\n".join([f"trainer {TRAINER}", *texts]))

    def arguments(self, seed: int, workdir: str) -> list[str]:
        """Of `cnn train`."""
        changed = {**self.overrides, "seed": str(seed)}
        return [
            *(f"--config={self.config}", f"--workdir={workdir}"),
            *(f"--config.{name}={value}" for name, value in changed.items()),
        ]


@dataclasses.dataclass(frozen=True)
class Study:
    """A loaded study.

    Attributes:
      compare: pairs of row names; over the seeds that both have, `a - b` is tested.
    """

    name: str
    question: str
    rows: tuple[Row, ...]
    compare: tuple[tuple[str, str], ...]
    folder: Path

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
          UserError: there is none.
        """
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise unknown("row", name, found)
        return found[name]

    def chosen(self, patterns: Sequence[str], sizes: Sequence[str]) -> list[Row]:
        """Rows whose name matches one of the globs (all without any) and whose size is one of `sizes`.

        Raises:
          UserError: a glob that matches nothing.
        """
        for pattern in patterns:
            if not any(fnmatch.fnmatch(row.name, pattern) for row in self.rows):
                raise unknown("row", pattern, [row.name for row in self.rows])
        return [
            row
            for row in self.rows
            if row.size in sizes and (not patterns or any(fnmatch.fnmatch(row.name, p) for p in patterns))
        ]


def names() -> list[str]:
    """All studies."""
    return sorted(path.parent.name for path in (ROOT / "experiments").glob("*/study.py"))


def load(name: str) -> Study:
    """The study in `experiments/<name>/`.

    Raises:
      UserError: there is none, or two of its rows share a name.
    """
    if name not in names():
        raise unknown("study", name, names())
    return from_module(name, importlib.import_module(f"experiments.{name}.study"))


def from_module(name: str, module: ModuleType) -> Study:
    """A study from its module.

    Raises:
      UserError: two rows share a name, or one refers to a row that is not there.
    """
    rows = tuple(module.ROWS)
    seen = [row.name for row in rows]
    if len(set(seen)) != len(seen):
        raise UserError(f"study '{name}': two rows are called '{max(seen, key=seen.count)}'")
    compare = tuple(getattr(module, "COMPARE", ()))
    study = Study(name, module.QUESTION, rows, compare, Path(module.__file__ or "").parent)
    for other in [row.of for row in rows if row.of] + [row for pair in compare for row in pair]:
        study.row(other)
    return study


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:  # an empty one is a value: {'flip': {}}
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _target(kind: str, name: str, table: Mapping[str, Entry]) -> str:
    """'package.module:attribute' behind a name of a table; such a text itself is taken as it is."""
    if ":" in name:
        return name
    if name not in table:
        raise unknown(kind, name, table)
    return table[name].target
