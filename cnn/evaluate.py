"""`cnn evaluate`: scores a checkpoint on any split, every example exactly once."""

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnn import checkpoint, flags, metrics
from cnn import config as configs
from cnn.build import Built, build, eval_batches
from cnn.data import open_dataset
from cnn.data.pipeline import EvalBatches, iterate
from cnn.mesh import batch_sharding, replicated, to_global
from cnn.step import make_eval_step


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
      metrics: {name: value}, as the task finalizes them.
      predictions: {name: array [examples, ...]} on the host, when they were asked for.
    """

    metrics: dict[str, Any]
    predictions: dict[str, np.ndarray]


class Evaluator:
    """Scores variables on splits; compiles its step once per batch shape."""

    def __init__(self, built: Built):
        self._built = built
        place = batch_sharding(built.mesh)
        self._step = jax.jit(
            make_eval_step(built.model, built.task), out_shardings=(replicated(built.mesh), place)
        )
        self._place = place

    def score(self, variables: Any, batches: EvalBatches, *, keep: bool = False) -> Scores:
        """Every example of `batches` once; padding never counts.

        Args:
          keep: also bring every example's predictions to the host.

        Raises:
          RuntimeError: fewer or more examples were seen than the split has (a bug, never the user's).
        """
        sums: metrics.Sums = {}
        kept, seen = [], 0
        for batch in iterate(batches):
            counted, predictions = self._step(variables, to_global(batch, self._place))
            sums = metrics.add(sums, jax.device_get(counted))
            seen += int(batch["valid"].sum())
            if keep:
                rows = jax.device_get(predictions)
                kept.append({name: value[batch["valid"]] for name, value in rows.items()})
        if seen != batches.size:
            raise RuntimeError(f"evaluation saw {seen} examples of {batches.size}")
        joined = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]} if kept else {}
        return Scores(self._built.task.finalize(sums), joined)


def evaluate(
    workdir: str, *, which: int | str = "best", split: str = "", batch_size: int = 0
) -> dict[str, Any]:
    """Scores a run's checkpoint on a split (default: its test split) of its data set."""
    folder = checkpoint.find(workdir, which)
    variables, meta = checkpoint.load_variables(folder)
    config = configs.from_json(json.dumps(meta["config"]))
    dataset = open_dataset(config.input)
    built = build(config, dataset.info)
    split = split or config.eval.test_split or config.eval.split
    batches = eval_batches(built, dataset.source(split), batch_size)
    variables = jax.device_put(variables, replicated(built.mesh))
    scores = Evaluator(built).score(variables, batches)
    return {
        "checkpoint": str(folder),
        "step": meta["step"],
        "split": split,
        "examples": batches.size,
        "metrics": scores.metrics,
    }


def report(name: str, found: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """One line with the scalar metrics."""
    scalars = {k: v for k, v in found.items() if isinstance(v, float)}
    say(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in scalars.items()))


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("evaluate", __doc__)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), last, or a step")
    parser.add_argument("--split", default="", help="such as test or 'train[:10%%]'; default: the config's")
    parser.add_argument("--batch_size", type=int, default=0, help="over all devices; default: the config's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, _ = parser.parse(argv)
    result = evaluate(
        args.workdir, which=args.checkpoint, split=args.split, batch_size=args.batch_size
    )
    if args.json:
        print(json.dumps(result))
    else:
        report(f"{result['split']} ({result['examples']} examples, step {result['step']})", result["metrics"])
    return 0


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("evaluate"))
