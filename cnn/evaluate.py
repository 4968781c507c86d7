"""`cnn evaluate`: scores a checkpoint on any split, every example exactly once."""

import contextlib
import dataclasses
import sys
from typing import Any

import jax
import numpy as np

from cnn import config as configs
from cnn import distributed, flags
from cnn.build import Built, build, eval_batches, network_spec
from cnn.data import open_dataset
from cnn.data.pipeline import EvalBatches, iterate
from cnn.mesh import batch_sharding, lockstep, replicated, to_global
from cnn.process import follow, prepare
from cnn.run import checkpoint
from cnn.run.workdir import to_json
from cnn.scoring import sums as metrics
from cnn.shapes import Batch
from cnn.step import make_eval_step

AHEAD = 2  # batches in flight


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
      metrics: {name: value}, as the task finalizes them.
      predictions: {name: array [examples, ...]} on the host, when they were asked for; `targets` of these
        examples in the same order.
    """

    metrics: dict[str, Any]
    predictions: dict[str, np.ndarray]
    targets: np.ndarray | None = None


class Evaluator:
    """Scores variables on splits; compiles its step once per batch shape.

    Attributes:
      step: the jitted evaluation step, `(variables, batch) -> (metrics, predictions, valid rows)`.
    """

    def __init__(self, built: Built):
        self._built = built
        step = make_eval_step(built.model, built.task)

        def counted(variables: Any, batch: Batch) -> tuple[Any, Any, jax.Array]:
            return *step(variables, batch), batch["valid"].sum()

        one, rows = replicated(built.mesh), batch_sharding(built.mesh)
        self.step = jax.jit(counted, out_shardings=(one, rows, one))

    def score(self, variables: Any, batches: EvalBatches, *, keep: bool = False) -> Scores:
        """Every example of `batches` once; padding never counts.

        Args:
          keep: also bring every example's predictions to the host.

        Raises:
          RuntimeError: fewer or more examples were seen than the split has (a bug, never the user's).
        """
        sums: metrics.Sums = {}
        kept, flying, seen = [], [], 0
        key = self._built.info.target_key

        def land() -> None:
            nonlocal sums, seen
            counted, predictions, valid, rows = flying.pop(0)
            counted, valid = jax.device_get((counted, valid))
            sums, seen = metrics.add(sums, counted), seen + int(valid)
            if keep:
                kept.append(jax.tree.map(lambda x: x[: int(valid)], distributed.whole((predictions, rows))))

        ahead = 0 if lockstep(self._built.mesh) else AHEAD
        place = lambda batch: to_global(batch, self._built.mesh)  # noqa: E731
        with contextlib.closing(iterate(batches, place=place)) as data:
            for batch in data:
                flying.append((*self.step(variables, batch), batch[key] if keep else None))
                if len(flying) > ahead:
                    land()
        while flying:
            land()
        if seen != batches.size:
            raise RuntimeError(f"evaluation saw {seen} examples of {batches.size}")
        predictions, targets = jax.tree.map(lambda *parts: np.concatenate(parts), *kept) if keep else ({}, None)
        return Scores(self._built.task.finalize(sums), predictions, targets)


def evaluate(
    workdir: str,
    *,
    which: int | str = "",
    split: str = "",
    batch_size: int = 0,
    data_dir: str = "",
) -> dict[str, Any]:
    """Scores a run's checkpoint on a split of its data set, on all devices of this machine.

    Args:
      which: 'best', 'last', a step, or '' for the weights that the run itself scored.
      split: '' for the run's test split.
      data_dir: where the data are now; '' for where they were.
    """
    prepare()
    folder = checkpoint.find(workdir, which)
    variables, meta = checkpoint.load_variables(folder)
    config = configs.for_this_machine(meta["config"])
    follow(config)
    config.input.data_dir = data_dir or config.input.data_dir
    dataset = open_dataset(config.input)
    split = split or config.eval.test_split or config.eval.split
    source = dataset.source(split)
    built = build(config, dataset.info, network_spec(config, dataset.info, source))
    batches = eval_batches(built, source, batch_size)
    variables = jax.device_put(variables, replicated(built.mesh))
    scores = Evaluator(built).score(variables, batches, keep=True)
    return {
        "checkpoint": str(folder),
        "step": meta["step"],
        "split": split,
        "examples": batches.size,
        "metrics": scores.metrics | built.task.report(scores.predictions, scores.targets),
    }


def scalars_text(name: str, found: dict[str, Any]) -> str:
    """One line with the scalar metrics."""
    scalars = ", ".join(f"{k} {v:.4f}" for k, v in found.items() if isinstance(v, float))
    return f"{name}: {scalars}"


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("evaluate", __doc__)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--checkpoint", default="", help="best, last, or a step; default: the run's eval.use")
    parser.add_argument("--data_dir", default="", help="where the data are now; default: where they were")
    parser.add_argument("--split", default="", help="such as test or 'train[:10%%]'; default: the config's")
    parser.add_argument("--batch_size", type=int, default=0, help="over all devices; default: the config's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, _ = parser.parse(argv)
    result = evaluate(
        args.workdir,
        which=args.checkpoint,
        split=args.split,
        batch_size=args.batch_size,
        data_dir=args.data_dir,
    )
    if args.json:
        print(to_json(result))
    else:
        name = f"{result['split']} ({result['examples']} examples, step {result['step']})"
        print(scalars_text(name, result["metrics"]))
    return 0


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("evaluate"))
