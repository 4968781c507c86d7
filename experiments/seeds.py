"""Runs one config with several seeds and prints mean and 95 % interval of the test metric.

    python -m experiments.seeds --config=configs/classification/digits_resnet.py --seeds=5

Each seed is its own run in WORKDIR/seed_N, one after the other; runs that are complete are not made again,
interrupted ones go on.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnn import flags
from cnn.errors import UserError
from cnn.scoring.comparing import best_first, is_score
from cnn.scoring.sums import mean_interval


def run(spec: str, overrides: dict[str, str], seeds: int, workdir: Path) -> list[dict]:
    """The summaries of all seeds.

    Raises:
      UserError: a run failed; its own line says why.
    """
    summaries = []
    for seed in range(seeds):
        folder = workdir / f"seed_{seed}"
        command = [
            *(sys.executable, "-m", "cnn.train", f"--config={spec}", f"--workdir={folder}"),
            *(f"--config.{name}={value}" for name, value in overrides.items()),
            f"--config.seed={seed}",
        ]
        print(f"seed {seed}: {folder}", flush=True)
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"seed {seed} ended with code {done.returncode}; start the same command again")
        summaries.append(json.loads((folder / "summary.json").read_text()))
    return summaries


def table(rows: Mapping[str, Sequence[float | None]], mode: str, scale: float) -> list[str]:
    """One line per answer, the best mean first; last, without a mean, those that lack a finite value in some seed."""

    def shown(value: float | None) -> str:
        return f"{scale * value:.{2 if scale == 100 else 4}f}" if is_score(value) else "not finite"

    means = {name: mean_interval(found) for name, found in rows.items() if all(map(is_score, found))}
    order = [name for name, _ in best_first({name: found.mean for name, found in means.items()}, mode)]
    lines = []
    for name in [*order, *(name for name in rows if name not in means)]:
        found = means.get(name)
        mean = shown(found.mean) + (f" +- {shown(found.half_width)}" if found.n > 1 else "") if found else "no mean"
        lines.append(f"  {name:<22} {mean:>16}  ({', '.join(map(shown, rows[name]))})")
    return lines


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("experiments.seeds", __doc__, "python -m")
    parser.add_config()
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, ...")
    parser.add_argument("--workdir", default="", help="default: runs/seeds/CONFIG")
    args, overrides = parser.parse(argv)
    config = flags.load_config(args.config, overrides)
    path, _, argument = args.config.partition(":")
    name = "_".join(filter(None, [Path(path).stem, argument]))
    summaries = run(args.config, overrides, args.seeds, Path(args.workdir or f"runs/seeds/{name}"))
    metric = config.eval.metric
    rows = {config.model.name: [s["test"].get(metric) for s in summaries]}
    for baseline in summaries[0]["baselines"]:
        rows[baseline] = [s["baselines"].get(baseline, {}).get(metric) for s in summaries]
    share = metric in summaries[0].get("proportions", ())
    unit = " in %" if share else ""
    print(f"{name}: test {metric}{unit}, {len(summaries)} seeds, {summaries[0]['test']['examples']} examples")
    print("\n".join(table(rows, config.eval.mode, 100 if share else 1)))
    times = [s["timing"] for s in summaries]
    for title, key, form in (
        ("seconds of training", "train_seconds", "{:.1f}"),
        ("seconds in all", "total_seconds", "{:.1f}"),
        ("loop overhead", "overhead", "{:+.1%}"),
        ("input wait", "input_wait", "{:.1%}"),
    ):
        print(f"  {title}: {', '.join(form.format(t[key]) for t in times if key in t)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"seeds: error: {error}", file=sys.stderr)
        sys.exit(2)
