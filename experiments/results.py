"""Raw results of a study: results.csv, one line per row and seed; what is in it was run, and says with what."""

import csv
import dataclasses
import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn.errors import UserError
from cnn.run.workdir import write_text
from experiments.study import ROOT, Row, Study


@dataclasses.dataclass(frozen=True)
class Result:
    """One seed of one row. `value` and `baselines` are of the row's metric, not scaled."""

    row: str
    seed: int
    metric: str
    value: float
    baselines: Mapping[str, float]
    config: str
    code: str
    commit: str
    parameters: int
    examples: int
    seconds: float
    device: str
    versions: str


FIELDS = [field.name for field in dataclasses.fields(Result)]


class Results:
    """The file of one study.

    Args:
      path: created by the first `add`, in a folder that exists.

    Raises:
      UserError: the file is not one of ours.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[tuple[str, int], Result] = {}
        if path.is_file():
            try:
                with open(path, encoding="utf-8", newline="") as file:
                    for line in csv.DictReader(file):
                        self._keep(_parsed(line))
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(f"{path} is damaged ({error}); delete it and run the study again") from error

    def _keep(self, result: Result) -> None:
        self.found[result.row, result.seed] = result

    def of(self, row: Row) -> list[Result]:
        """Every stored seed of a row (of the row that it refers to), fresh or stale."""
        name = row.of or row.name
        return [result for (owner, _), result in sorted(self.found.items()) if owner == name]

    def add(self, result: Result) -> None:
        """Stores a result, in place of an older one of this row and seed."""
        self._keep(result)
        self._write()

    def drop(self, row: Row) -> None:
        """Forgets all seeds of a row."""
        self.found = {key: value for key, value in self.found.items() if key[0] != row.name}
        self._write()

    def _write(self) -> None:
        lines = [",".join(FIELDS)]
        for _, result in sorted(self.found.items()):
            values = dataclasses.asdict(result) | {"baselines": json.dumps(dict(sorted(result.baselines.items())))}
            lines.append(",".join(_quoted(str(values[name])) for name in FIELDS))
        write_text(self.path, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def _parsed(line: Mapping[str, str]) -> Result:
    return Result(
        **{name: line[name] for name in ("row", "metric", "config", "code", "commit", "device", "versions")},
        seed=int(line["seed"]),
        value=_finite(line["value"]),
        baselines=json.loads(line["baselines"]),
        parameters=int(line["parameters"]),
        examples=int(line["examples"]),
        seconds=float(line["seconds"]),
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a value of {text}")
    return value


def stale(study: Study, row: Row, results: Results) -> str:
    """Why a row's stored results count no longer: '' where all are of this config and code."""
    owner = study.row(row.of) if row.of else row
    stored = results.of(row)
    if not stored:
        return ""
    config, code = owner.config_hash(), owner.code_hash()
    changed = [("config", any(r.config != config for r in stored)), ("code", any(r.code != code for r in stored))]
    changed.append(("metric", any(r.metric != owner.metric for r in stored)))
    return " and ".join(name for name, is_changed in changed if is_changed)


def from_summary(row: Row, seed: int, summary: Mapping[str, Any]) -> Result:
    """The line of one finished run, of its summary.json.

    Raises:
      UserError: the run did not score the row's metric.
    """
    value = summary["test"].get(row.metric)
    if value is None:
        raise UserError(f"row '{row.name}': its run has no finite test {row.metric}")
    versions = summary["versions"]
    return Result(
        row=row.name,
        seed=seed,
        metric=row.metric,
        value=value,
        baselines={
            name: found[row.metric]
            for name, found in summary["baselines"].items()
            if found.get(row.metric) is not None
        },
        config=row.config_hash(),
        code=row.code_hash(),
        commit=commit(),
        parameters=summary["parameters"],
        examples=summary["test"]["examples"],
        seconds=round(summary["timing"]["total_seconds"], 1),
        device=f"{summary['environment']['devices']}, {summary['environment']['system']}",
        versions=" ".join(f"{name}-{versions[name]}" for name in ("cnn", "jax", "flax", "optax", "numpy")),
    )


def commit() -> str:
    """The checkout's commit, with '+' where tracked files differ from it; '' without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return ""
