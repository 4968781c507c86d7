"""`cnn evaluate`: scores a checkpoint on any split, every example exactly once."""

import contextlib
import dataclasses
import functools
import sys
from typing import Any

import jax
import numpy as np

from cnn import config as configs
from cnn import distributed, flags
from cnn.build import Built, build, eval_batches, network_spec
from cnn.data import open_dataset
from cnn.data.pipeline import EvalBatches, iterate
from cnn.mesh import batch_sharding, lockstep, replicated
from cnn.process import follow, prepare
from cnn.run import checkpoint
from cnn.run.workdir import to_json
from cnn.scoring import sums
from cnn.scoring.scorer import Scorer
from cnn.shapes import Batch
from cnn.step import make_eval_step
from cnn.tasks.base import Task, weighted

AHEAD = 2  # batches in flight


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
      metrics: {name: value}: the scorer's, `loss` and, where it has several terms, `loss/TERM`.
      predictions: {name: array [examples, ...]} on the host, when they were asked for.
    """

    metrics: dict[str, Any]
    predictions: dict[str, np.ndarray]


class Evaluator:
    """Scores variables on splits; compiles its step once per batch shape.

    Attributes:
      step: `step(wanted)` is the jitted evaluation step that returns these predictions; see `_step`.
    """

    def __init__(self, built: Built):
        self._built = built
        self.step = functools.lru_cache(self._step)

    def _step(self, wanted: tuple[str, ...] | None = ()) -> Any:
        """The jitted step, `(variables, batch) -> (losses, metrics, predictions, valid rows)`.

        Args:
          wanted: names of the predictions that leave the devices; what nobody wants is not computed. None for all.
        """
        step = make_eval_step(self._built.model, self._built.task)

        def counted(variables: Any, batch: Batch) -> tuple[Any, Any, Any, jax.Array]:
            losses, sums, predictions = step(variables, batch)
            kept = {name: rows for name, rows in predictions.items() if wanted is None or name in wanted}
            return losses, sums, kept, batch["valid"].sum()

        one, rows = replicated(self._built.mesh), batch_sharding(self._built.mesh)
        return jax.jit(counted, out_shardings=(one, one, rows, one))

    def score(self, variables: Any, batches: EvalBatches, *, full: bool = False, keep: bool = False) -> Scores:
        """Every example of `batches` once; padding never counts.

        Args:
          full: everything that the task's report holds; else what is cheap enough while training.
          keep: also bring every example's predictions to the host.

        Raises:
          RuntimeError: fewer or more examples were seen than the split has (a bug, never the user's).
        """
        task, mesh = self._built.task, self._built.mesh
        scorer: Scorer = task.scorer(full)
        step = self.step(None if keep else tuple(scorer.predictions))
        losses: sums.Sums = {}
        kept, flying, seen = [], [], 0

        def land() -> None:
            nonlocal losses, seen
            terms, counted, predictions, valid, rows = flying.pop(0)
            terms, counted, valid = jax.device_get((terms, counted, valid))
            losses, seen = sums.add(losses, terms), seen + int(valid)
            if predictions or rows:
                local = distributed.whole((predictions, rows))
                predictions, rows = jax.tree.map(lambda x: np.asarray(x)[: int(valid)], local)
            scorer.add(counted, predictions, rows)
            if keep:
                kept.append(predictions)

        ahead = 0 if lockstep(mesh) else AHEAD
        with contextlib.closing(iterate(batches, place=self._built.place)) as data:
            for batch in data:
                flying.append((*step(variables, batch), {name: batch[name] for name in scorer.batch}))
                if len(flying) > ahead:
                    land()
        while flying:
            land()
        if seen != batches.size:
            raise RuntimeError(f"evaluation saw {seen} examples of {batches.size}")
        predictions = jax.tree.map(lambda *parts: np.concatenate(parts), *kept) if keep else {}
        return Scores(scorer.result() | _loss(task, losses), predictions)


def _loss(task: Task, losses: sums.Sums) -> dict[str, float]:
    """The loss over a whole split, and its terms where there are several."""
    means = {name: float(value / count) if count else 0.0 for name, (value, count) in losses.items()}
    terms = {f"loss/{name}": value for name, value in means.items()} if len(means) > 1 else {}
    return {"loss": float(weighted(task.loss_weights, means)), **terms}


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
    scores = Evaluator(built).score(variables, batches, full=True)
    return {
        "checkpoint": str(folder),
        "step": meta["step"],
        "split": split,
        "examples": batches.size,
        "metrics": scores.metrics,
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
