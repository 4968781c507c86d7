"""Finished runs as their folders tell them: read, and grouped by config for intervals over seeds."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn.errors import UserError
from cnn.run.formats import upgraded_config
from cnn.run.workdir import flat
from cnn.run.writers import read_metrics
from cnn.scoring.sums import Interval, mean_interval

NAMED = ("model.name", "input.dataset")  # fields that the name of a run says


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run, as its folder tells it."""

    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def config(self) -> dict[str, Any]:
        """Fields by dotted name, but the seed."""
        return {key: value for key, value in flat(self.summary["config"]).items() if key != "seed"}

    @property
    def name(self) -> str:
        data = self.summary["config"]["input"]["dataset"]
        return f"{self.summary['config']['model']['name']} on {data}"


def read(folder: str | Path) -> Done:
    """A run's folder.

    Raises:
      UserError: there is no finished run in it, or its summary is damaged.
    """
    folder = Path(folder)
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"'{folder}' holds no finished run (no summary.json); give a run's workdir")
    try:
        summary = json.loads(path.read_text())
        missing = [
            key for key in ("config", "test", "baselines") if not isinstance(summary[key], dict)
        ]
        summary["config"] = upgraded_config(summary["config"]) if not missing else summary["config"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); run the training command again") from error
    if missing:
        raise UserError(
            f"{path} is damaged: '{missing[0]}' is no group; run the training command again"
        )
    return Done(folder, summary, read_metrics(folder / "metrics.jsonl"))


def chosen_metric(config: Mapping[str, Any]) -> str:
    """The metric that a run is judged by: that of `eval.metric`, without the name of an evaluation of `eval.also`."""
    owner, _, metric = config["eval"]["metric"].rpartition("/")
    return metric if owner in config["eval"].get("also", {}) else config["eval"]["metric"]


def scalars(found: dict[str, Any]) -> dict[str, float]:
    """The metrics that are one number."""
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "examples"
    }


def plain(value: Any) -> str:
    """A config's value as a person reads it."""
    return "not set" if value is None else "''" if value == "" else str(value)


def groups(runs: Sequence[Done]) -> dict[str, list[Done]]:
    """Runs that differ in their seed alone, named by the fields in which the groups differ."""
    found: list[list[Done]] = []
    for run in runs:
        same = next((group for group in found if group[0].config == run.config), None)
        found.append([run]) if same is None else same.append(run)
    fields = sorted({key for group in found for key in group[0].config})
    differ = [k for k in fields if len({json.dumps(group[0].config.get(k)) for group in found}) > 1]
    named = {}
    for group in found:
        # The name says model and data already.
        words = [
            f"{k.rpartition('.')[2]}={plain(group[0].config.get(k))}"
            for k in differ
            if k not in NAMED
        ]
        named[f"{group[0].name} {' '.join(words)}".strip()[:120]] = group
    return named


def curve(group: Sequence[Done], key: str) -> tuple[list[int], list[Interval]]:
    """The steps at which all runs of a group logged `key`, and the interval of its mean at each."""
    logged = [
        {row["step"]: row[key] for row in run.rows if row.get(key) is not None} for run in group
    ]
    steps = sorted(set.intersection(*(set(one) for one in logged)))
    return steps, [mean_interval([one[step] for one in logged]) for step in steps]
