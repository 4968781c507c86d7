"""`cnn report`: one page about a run, or about several with intervals over their seeds.

    cnn report runs/mine                       # rewrites runs/mine/report.html
    cnn report runs/a/seed_* runs/b/seed_* --out=compare.html

Every training run leaves its own page. It is made of summary.json, metrics.jsonl and the pictures alone, and knows no
task's words.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn import config as configs
from cnn import flags, html
from cnn.errors import UserError
from cnn.figures import figure
from cnn.html import escape
from cnn.run.finished import Done, chosen_metric, curve, groups, plain, read, scalars
from cnn.run.workdir import flat, write_text
from cnn.scoring.comparing import best_first, is_score, standing, without_score
from cnn.scoring.sums import mean_interval, wilson_interval

FILE = "report.html"
PARTS = {  # of a run's time, with what the clock calls them
    "steps": "train_seconds",
    "waiting for input": "input_seconds",
    "evaluation": "eval_seconds",
    "saving": "save_seconds",
    "compilation": "compile_seconds",
}
COLOURS = ("#3b6ea5", "#c0504d", "#4f9d69", "#8064a2", "#e0a030", "#9aa7b3")


def leave(folder: Path) -> None:
    """Writes a run's own report; whatever goes wrong is one line, because the run itself is whole."""
    try:
        write_text(Path(folder) / FILE, one(read(folder)))
    except Exception as error:
        print(f"no report: {type(error).__name__}: {error}", flush=True)


def one(run: Done) -> str:
    """The page about one run."""
    summary = run.summary
    pictures = summary.get("figures", ())
    body = [
        f"<h1>{escape(run.name)}</h1>",
        f"<p class='soft'>{escape(_headline(run))}</p>",
        *_metrics(run),
        "<h2>Curves</h2>",
        *_pictures(run, [p for p in pictures if Path(p).stem == "curves"] or [""]),
        "<h2>Data</h2>",
        html.table(
            ("", ""),
            _card(summary.get("data") or {"dataset": summary["config"]["input"]["dataset"]}),
        ),
    ]
    others = [p for p in pictures if Path(p).stem != "curves"]
    body += ["<h2>Pictures</h2>", *_pictures(run, others)] if others else []
    body += [
        *_timing(summary.get("timing", {})),
        *_config(summary["config"]),
        *_environment(summary),
    ]
    return html.page(run.name, body)


def _headline(run: Done) -> str:
    summary = run.summary
    best = summary.get("best") or {}
    watched = (
        f"; best evaluation {_number(best['best_value'])} at step {best['best_step']:,}"
        if best.get("best_value") is not None and best.get("best_step") is not None
        else ""
    )
    parameters, steps, seed = (
        summary.get("parameters", 0),
        summary.get("steps", 0),
        summary["config"]["seed"],
    )
    return f"{parameters:,} parameters, {steps:,} steps, seed {seed}{watched}. {run.folder}"


def _metrics(run: Done) -> Iterator[str]:
    test, metric = run.summary["test"], chosen_metric(run.summary["config"])
    yield "<h2>Result</h2>"
    if not test:
        yield "<p>No test split was scored.</p>"
        return
    values, count = scalars(test), test.get("examples", 0)
    shares = [name for name in run.summary.get("proportions", ()) if name in values]
    rows = [(name, _number(v), _proportion(v, count) if name in shares else "") for name, v in values.items()]
    rows += [(name, "not finite", "") for name, value in test.items() if value is None]  # JSON has no NaN
    yield f"<p>{escape(str(test.get('split', '')))}: {count:,} examples, each scored once.</p>"
    yield html.table(("metric", "value", "95 % interval over examples"), rows)
    yield (
        f"<p class='soft'>Wilson's interval, for shares of the examples only ({', '.join(shares) or 'none here'}). It "
        "says how far other examples could move the number, not other seeds: give several runs to cnn report for "
        "that.</p>"
    )
    baselines = {name: scalars(found) for name, found in run.summary["baselines"].items()}
    if not baselines:
        return
    yield "<h3>Beside the baselines</h3>"
    me, mode = f"{run.summary['config']['model']['name']} (this run)", run.summary["config"]["eval"]["mode"]
    everything = {me: values} | baselines
    scores = {name: found.get(metric) for name, found in everything.items()}
    order = [name for name, _ in best_first(scores, mode)] + without_score(scores)
    names = [metric, *sorted({n for found in everything.values() for n in found} & set(values) - {metric})]
    rows = [(name, *(_number(everything[name].get(n)) for n in names)) for name in order]
    yield html.table(("", *names), rows, marked=[order.index(me)])
    best, words = standing(scores.pop(me), scores, metric, mode)
    yield f"<p class='{'good' if best else 'bad'}'>{escape(words)}</p>"


def _proportion(value: float, count: int) -> str:
    """Wilson's interval of a share of `count` examples; '' where it is none."""
    if not count or not 0 <= value <= 1:
        return ""
    interval = wilson_interval(value * count, count)
    return f"{interval.low:.4f} to {interval.high:.4f}"


def _pictures(run: Done, paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path and (run.folder / path).is_file():
            yield html.image(run.folder / path, Path(path).stem.replace("_", " "), Path(path).name)
        else:
            yield f"<p class='soft'>{escape(path or 'No picture')}: not there.</p>"


def _card(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in data.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name}: {_number(number)}" for name, number in value.items())
        elif isinstance(value, list):
            text = ", ".join(map(str, value[:20])) + (
                f", ... ({len(value)})" if len(value) > 20 else ""
            )
        else:
            text = str(value)
        rows.append((key.replace("_", " "), text or "none"))
    return rows


def _timing(timing: dict[str, Any]) -> Iterator[str]:
    if not timing.get("total_seconds"):
        return
    total = timing["total_seconds"]
    spent = {name: float(timing.get(key) or 0) for name, key in PARTS.items()}
    spent["steps"] = max(spent["steps"] - spent["waiting for input"], 0)
    spent["the rest: data, baselines, pictures"] = max(total - sum(spent.values()), 0)
    yield f"<h2>Time</h2>\n<p>{total:.1f} s in all.</p>"
    cells = [
        "<span "
        f"style='display:inline-block;height:1.4rem;width:{100 * seconds / total:.2f}%;background:{colour}'></span>"
        for seconds, colour in zip(spent.values(), COLOURS, strict=True)
    ]
    style = "white-space:nowrap;line-height:0;overflow:hidden"
    yield f"<div style='{style}' role='img' aria-label='shares'>{''.join(cells)}</div>"
    yield (
        "<p>"
        + " ".join(
            f"<span style='color:{colour}'>&#9632;</span> {escape(name)} {seconds:.1f} s ({seconds / total:.0%})"
            for (name, seconds), colour in zip(spent.items(), COLOURS, strict=True)
        )
        + "</p>"
    )
    keys = (
        "step_ms",
        "bare_step_ms",
        "overhead",
        "overhead_below",
        "input_wait",
        "examples_per_second",
        "cache_hits",
        "cache_misses",
    )
    yield html.table(
        ("", ""),
        [
            (key.replace("_", " "), _number(timing[key]))
            for key in keys
            if timing.get(key) is not None
        ],
    )


def _config(config: dict[str, Any]) -> Iterator[str]:
    default, mine = flat(json.loads(configs.to_json(configs.default()))), flat(config)
    changed = [key for key in mine if mine[key] != default.get(key)]
    yield "<h2>Config</h2>"
    rows = [
        (key, plain(mine[key]), plain(default[key]) if key in default else "(option)")
        for key in sorted(changed)
    ]
    yield html.details(
        f"{len(changed)} fields that differ from the default",
        html.table(("field", "value", "default"), rows),
        True,
    )
    every = sorted(mine)
    table = html.table(
        ("field", "value"),
        [(key, plain(mine[key])) for key in every],
        [every.index(k) for k in changed],
    )
    yield html.details(f"All {len(mine)} fields; bold: not the default", table)


def _environment(summary: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Environment</h2>"
    found = summary.get("environment", {}) | summary.get("versions", {})
    yield html.table(("", ""), [(key, str(value)) for key, value in found.items()])


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4f}"
        if abs(value) < 100
        else f"{value:,.0f}"
    )


# Several runs


def several(runs: Sequence[Done]) -> str:
    """The page about several runs."""
    named = groups(runs)
    names = list(dict.fromkeys(key for run in runs for key in scalars(run.summary["test"])))
    rows = []
    for name, group in named.items():
        found = [scalars(run.summary["test"]) for run in group]
        rows.append((name, str(len(group)), *(_interval([one.get(metric) for one in found]) for metric in names)))
    body = [
        f"<h1>{len(runs)} runs, {len(named)} config{'s' * (len(named) > 1)}</h1>",
        "<h2>Results</h2>",
        html.table(("config", "seeds", *names), rows),
        "<p class='soft'>Means over the seeds with 95 % t intervals; one seed has none. Where a seed has no finite "
        "value, the mean is of the others, and the cell says of how many.</p>",
        "<h2>Curves</h2>",
        html.image(
            _curves(named),
            "curves of all configs",
            "Means over the seeds; bands: 95 % t intervals of the mean.",
        ),
        "<h2>Runs</h2>",
    ]
    for name, group in named.items():
        lines = [
            (
                str(run.summary["config"]["seed"]),
                *(_number(scalars(run.summary["test"]).get(m)) for m in names),
                str(run.folder),
            )
            for run in group
        ]
        body.append(f"<h3>{escape(name)}</h3>" + html.table(("seed", *names, "folder"), lines))
        body += _config(group[0].summary["config"])
    return html.page(f"{len(runs)} runs", body)


def _interval(values: Sequence[float | None]) -> str:
    known = [value for value in values if is_score(value)]
    if not known:
        return ""
    found = mean_interval(known)
    text = f"{found.mean:.4f}" + (f" +- {found.half_width:.4f}" if found.n > 1 else "")
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)} seeds)"


def _curves(named: dict[str, list[Done]]) -> bytes:
    logged = {key for group in named.values() for run in group for row in run.rows for key in row}
    keys = ["loss", *sorted(key for key in logged if key.startswith("eval/"))]
    columns = min(3, len(keys))
    sheet = figure(3.7 * columns, 3.0 * -(-len(keys) // columns) + 0.3 * len(named))
    for place, key in enumerate(keys, start=1):
        axes = sheet.add_subplot(-(-len(keys) // columns), columns, place)
        for colour, (name, group) in enumerate(named.items()):
            steps, found = curve(group, key)
            if steps:
                axes.plot(
                    steps,
                    [i.mean for i in found],
                    color=f"C{colour}",
                    lw=1.4,
                    label=name if place == 1 else None,
                )
                if len(group) > 1:
                    axes.fill_between(
                        steps,
                        [i.low for i in found],
                        [i.high for i in found],
                        color=f"C{colour}",
                        alpha=0.2,
                    )
        axes.set(title=key, xlabel="step")
    if len(named) > 1:
        sheet.legend(loc="outside lower center", fontsize=7)
    data = io.BytesIO()
    sheet.savefig(data, dpi=110)
    return data.getvalue()


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs of finished runs")
    parser.add_argument(
        "--out",
        default="",
        metavar="FILE",
        help="default: report.html in the run, or here for several",
    )
    args, _ = parser.parse(argv)
    runs = [read(folder) for folder in args.runs]
    path = Path(args.out) if args.out else runs[0].folder / FILE if len(runs) == 1 else Path(FILE)
    if path.is_dir():
        raise UserError(f"--out '{path}' is a folder; give a file, such as {path / FILE}")
    write_text(path, one(runs[0]) if len(runs) == 1 else several(runs))
    print(path)
    return 0


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("report"))
