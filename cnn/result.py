"""What a run leaves behind: the test score beside the baselines, pictures, summary.json."""

import math
import os
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn import distributed, report, tree
from cnn.build import Built, eval_batches
from cnn.data.pipeline import load
from cnn.data.sources import Source, targets
from cnn.draws import Draws
from cnn.errors import UserError
from cnn.evaluate import Evaluator, scalars_text
from cnn.figures import figure
from cnn.plan import Plan
from cnn.run.checkpoint import versions
from cnn.run.finished import chosen_metric
from cnn.run.workdir import Workdir
from cnn.run.writers import read_metrics
from cnn.scoring.comparing import best_first, standing
from cnn.stopping import Best
from cnn.transforms import build_transforms

WHOLE = 1 << 30  # bytes of a split that baselines and pictures may hold in memory


def _fits(built: Built, source: Source) -> bool:
    """Whether a whole split, as the network sees it, is little enough to hold."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in built.spec.values()]
    return len(source) * sum(sizes) <= WHOLE


def _examples(built: Built, source: Source) -> dict[str, np.ndarray]:
    """A whole split as the network sees it before normalisation."""
    transforms = build_transforms(built.config.input.eval_transforms)
    rows = np.arange(len(source))
    parts = [
        load(source, transforms, part, Draws(0, part), built.info.ragged)
        for part in np.array_split(rows, max(len(rows) // 1024, 1))
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def finish(
    plan: Plan, evaluator: Evaluator, variables: Any, folder: Workdir, steps: int, best: Best
) -> dict[str, Any]:
    """Scores the test split once, beside the baselines; draws; writes and returns the summary.

    Args:
      variables: what to score.
      steps: how many were made; `best`: the best evaluation among them.
    """
    config, built, test = plan.config, plan.built, plan.test
    summary: dict[str, Any] = {"test": {}, "baselines": {}}
    figures = _curves(folder)
    if test is not None:
        keep = _fits(built, test)
        scores = evaluator.score(variables, eval_batches(built, test), full=True, keep=keep)
        summary["test"] = scores.metrics | {"split": config.eval.test_split, "examples": len(test)}
        summary["proportions"] = [name for name in built.task.scorer().proportions if name in summary["test"]]
        examples = _examples(built, test) if keep and distributed.is_main() else None
        if config.eval.baselines and distributed.is_main():
            summary["baselines"] = _baselines(plan, examples)
        if examples is not None:
            figures += built.task.plot(scores.predictions, examples, str(folder.figures))
    summary["steps"], summary["best"] = steps, best.to_json()
    summary["parameters"] = tree.size(plan.abstract.params)
    summary["figures"] = [str(Path(path).relative_to(folder.path)) for path in figures]
    summary["versions"] = versions()
    summary["environment"] = environment()
    summary["data"] = data_card(plan)
    summary["config"] = config.to_dict()
    folder.write_summary(summary)
    return summary


def environment() -> dict[str, Any]:
    """Where the run was made."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def data_card(plan: Plan) -> dict[str, Any]:
    """What the run learned from and was tested on."""
    info, key = plan.dataset.info, plan.dataset.info.input_key
    split = plan.config.input.train_split
    return {
        "dataset": info.name + (" (fake examples)" if plan.config.input.fake else ""),
        "examples": plan.dataset.splits,
        "trained_on": f"{split} ({plan.batches.size:,} examples)",
        "watched": plan.config.eval.split or "nothing",
        "tested_on": plan.config.eval.test_split or "nothing",
        "input": ", ".join(info.inputs),
        "shape": "x".join("?" if n is None else str(n) for n in info.input_shape),
        "shape_in_the_network": "x".join(map(str, plan.built.spec[key][0])),
        "classes": list(info.class_names),
        "train_transforms": [name for name, _ in plan.config.input.train_transforms],
        "eval_transforms": [name for name, _ in plan.config.input.eval_transforms],
        "notes": list(plan.dataset.notes),
        "fingerprint": plan.dataset.fingerprint,
    }


def leave(folder: Workdir, summary: dict[str, Any]) -> None:
    """Writes the summary, and from it the report."""
    folder.write_summary(summary)
    if distributed.is_main():
        report.leave(folder.path)
        folder.copy()


def _baselines(plan: Plan, test: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """Fitted on everything that the network may have learned from, so that they are not held back."""
    built, seen = plan.built, plan.seen()
    if built.task.baselines_read(built.spec[built.info.input_key][0]):
        train = _examples(built, seen) if _fits(built, seen) else None
    else:  # the targets alone
        key = built.info.target_key
        found = [targets(source, key) for source in (seen, plan.test)]
        train, test = ({key: values} if values is not None else None for values in found)
    if train is None or test is None:
        print("no baselines: the data are too large to hold", flush=True)
        return {}
    try:
        return built.task.baselines(train, test, plan.config.seed)
    except UserError as error:  # an extra is missing: the run itself is whole
        print(f"no baselines: {error}", flush=True)
        return {}


def score_text(summary: dict[str, Any]) -> str:
    """The test scores, then the network among the baselines, best first."""
    test, metric = summary["test"], chosen_metric(summary["config"])
    if not test:
        return "no test split"
    mode, name = summary["config"]["eval"]["mode"], f"{summary['config']['model']['name']} (this run)"
    baselines = {key: found.get(metric) for key, found in summary["baselines"].items()}
    ranked = best_first({name: test.get(metric)} | baselines, mode)
    lines = [scalars_text(f"{test['split']} ({test['examples']} examples)", test)]
    lines += [f"  {key:<32} {metric} {value:.4f}" for key, value in ranked]
    best, words = standing(test.get(metric), baselines, metric, mode)
    if baselines and not best:
        lines.append(f"  {words}")
    return "\n".join(lines)


def timing_text(timing: dict[str, Any]) -> str:
    """Where the time went, in two lines."""
    text = (
        f"time: {timing['total_seconds']:.1f} s in all (steps {timing['train_seconds']:.1f}, "
        f"compile {timing['compile_seconds']:.1f} [cache: {timing['cache_hits']} hits, "
        f"{timing['cache_misses']} misses], eval {timing['eval_seconds']:.1f}, save {timing['save_seconds']:.1f})"
    )
    if timing.get("bare_step_ms"):
        text += (
            f"\nstep: {timing['step_ms']:.2f} ms in the loop, {timing['bare_step_ms']:.2f} ms bare{_overhead(timing)}, "
            f"input wait {timing['input_wait']:.1%}, {timing['examples_per_second']:,.0f} examples/s"
        )
    return text


def _overhead(timing: dict[str, Any]) -> str:
    if "overhead" in timing:
        low, high = timing["overhead_interval"]
        return f": overhead {timing['overhead']:.1%} ({low:.1%} to {high:.1%})"
    return f": overhead below {timing['overhead_below']:.1%}" if "overhead_below" in timing else ""


def _curves(folder: Workdir) -> list[str]:
    """Loss, learning rate and the evaluated metrics over the steps, as figures/curves.png."""
    rows = read_metrics(folder.metrics) if distributed.is_main() else []
    loss = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    rate = [(r["step"], r["lr"]) for r in rows if "lr" in r]
    scores: dict[str, list] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/"):
                scores.setdefault(name.removeprefix("eval/"), []).append((row["step"], value))
    if not loss:
        return []
    sheet = figure(11.0, 3.4)
    left, middle, right = sheet.subplots(1, 3)
    left.plot(*zip(*loss, strict=True), lw=1, label="training")
    if "loss" in scores:
        left.plot(*zip(*scores.pop("loss"), strict=True), "o-", ms=3, label="evaluation")
    left.set(title="loss", xlabel="step", yscale="log")
    left.legend()
    for name, points in scores.items():
        middle.plot(*zip(*points, strict=True), "o-", ms=3, label=name)
    middle.set(title="evaluation", xlabel="step")
    if scores:
        middle.legend()
    right.plot(*zip(*rate, strict=True))
    right.set(title="learning rate", xlabel="step")
    folder.figures.mkdir(exist_ok=True)
    path = folder.figures / "curves.png"
    sheet.savefig(path, dpi=110)
    return [str(path)]
