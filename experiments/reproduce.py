"""Runs a study and prints expected against measured, with intervals, baselines and a verdict per row.

    python -m experiments.reproduce mnist1d                        what is missing of all rows and seeds, then the table
    python -m experiments.reproduce mnist1d --rows 'cnn*' --seeds 3
    python -m experiments.reproduce mnist1d --table                only the table of what was run
    python -m experiments.reproduce --list

Each seed of a row is a process of its own (`cnn.train`). A seed that is in results.csv is not run again, one that was
interrupted goes on. Results of a row whose config or code changed are stale: they are not shown, and not run again
before --rerun says so. A number that was not run is never printed.
"""

import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnn import flags
from cnn.errors import UserError
from cnn.paths import output_folder
from experiments import study as studies
from experiments import verdicts
from experiments.results import Results, from_summary, stale
from experiments.study import ROOT, SIZES, Row, Study

MARKS = ("<!-- results: written by experiments.reproduce -->", "<!-- end of results -->")


def workdir(study: Study, row: Row, seed: int, above: Path) -> Path:
    """The folder of one run; a changed config or code is another folder, so that no old run is taken up."""
    return above / study.name / f"{row.name}-{row.config_hash()}{row.code_hash()}" / f"seed_{seed}"


def jobs(study: Study, rows: Sequence[Row], seeds: int | None, results: Results) -> list[tuple[Row, int]]:
    """The (row, seed) pairs that are still to run. Stale rows are left out: they wait for --rerun."""
    found = []
    for row in rows:
        if row.of or row.size == "tpu" or stale(study, row, results):
            continue
        have = {result.seed for result in results.of(row)}
        found += [(row, seed) for seed in range(seeds or row.seeds) if seed not in have]
    return found


def run(study: Study, todo: Sequence[tuple[Row, int]], results: Results, above: Path, at_once: int) -> list[str]:
    """Runs the jobs, storing each result as it comes; returns a line for each that failed."""
    lock, failed = threading.Lock(), []

    def one(job: tuple[Row, int]) -> None:
        row, seed = job
        folder = workdir(study, row, seed, above)
        folder.mkdir(parents=True, exist_ok=True)
        what = f"{study.name}: {row.name}, seed {seed} (about {row.minutes:g} min): {folder}"
        print(f"{what}\n", end="", file=sys.stderr, flush=True)  # in one piece: other threads print too
        command = [sys.executable, "-m", "cnn.train", *row.arguments(seed, str(folder.resolve()))]
        with open(folder / "output.txt", "a", encoding="utf-8") as output:
            done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        with lock:
            if done.returncode:
                last = (folder / "output.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
                failed.append(f"{row.name}, seed {seed} ended with code {done.returncode}: {' '.join(last)}")
                return
            try:
                summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
                results.add(from_summary(row, seed, summary))
            except UserError as error:
                failed.append(str(error))

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, todo))
    return failed


def write_readme(study: Study, text: str) -> None:
    """Puts the table between the marks of the study's README, where it has them."""
    readme = study.folder / "README.md"
    if not readme.is_file():
        return
    before = readme.read_text(encoding="utf-8")
    if all(mark in before for mark in MARKS):
        head, _, rest = before.partition(MARKS[0])
        readme.write_text(f"{head}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def shard_of(text: str, todo: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """Every n-th job from the i-th on, for 'i/n' with i from 0.

    Raises:
      UserError: another text.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {text}: write i/n with i from 0 to n - 1, for instance 0/4")
    return todo[int(index) :: int(count)]


def listing() -> str:
    """Every study with its rows."""
    lines = []
    for name in studies.names():
        study = studies.load(name)
        lines.append(f"{name}: {study.question}")
        for row in study.rows:
            cost = f"with {row.of}" if row.of else f"{row.seeds} seeds x {row.minutes:g} min"
            lines.append(f"  {row.name:<28} {row.size:<4} {cost if row.size != 'tpu' else 'on a TPU'}")
    return "\n".join(lines)


def problems(lines: Sequence[verdicts.Line], kept: Sequence[verdicts.Line] = ()) -> list[str]:
    """What --check fails for: stale rows, and small rows that were not run or left their tolerance.

    Args:
      kept: the same rows of the study's own results.csv, of more seeds perhaps. Their mean may be off the published
        number, which the study's README says; one seed then is as far off, so being near this mean is enough.
    """
    found, means = [], {one.row.name: one.measured.mean for one in kept if one.measured}
    for made in lines:
        row = made.row
        if made.verdict == "stale":
            found.append(f"{row.name} is stale: its {made.why} changed; run it again with --rerun")
        elif made.verdict == "not run" and row.size == "ci":
            found.append(f"{row.name} was not run")
        elif not made.inside and abs(made.measured.mean - means.get(row.name, math.inf)) > row.tolerance:
            mean, band = verdicts.number(made.measured.mean, row), f"{row.expected:g} +- {row.tolerance:g}"
            found.append(f"{row.name}: {mean} is outside {band}")
    return found


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("experiments.reproduce", __doc__, "python -m")
    parser.add_argument("study", nargs="?", help=f"one of {', '.join(studies.names())}")
    parser.add_argument("--list", action="store_true", help="every study with its rows and what they cost")
    parser.add_argument("--rows", nargs="+", default=[], metavar="GLOB", help="only rows of these names")
    parser.add_argument("--size", choices=SIZES, help="only rows up to this size: ci, cpu (default: all, tpu is shown)")
    parser.add_argument("--seeds", type=int, help="how many: 0, 1, ...; default: as the row says")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th job from the i-th, i from 0")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--rerun", action="store_true", help="forget the chosen rows' results and runs first")
    off = "off its tolerance (of the published number; with --results, of the kept seeds either)"
    parser.add_argument("--check", action="store_true", help=f"exit code 1 when a row is stale or {off}")
    parser.add_argument("--json", action="store_true", help="the table as one JSON object")
    parser.add_argument("--results", default="", help="another file than the study's results.csv")
    parser.add_argument("--workdir", default="runs/studies", help="where the runs go")
    args, _ = parser.parse(argv)
    if args.list or not args.study:
        print(listing())
        return 0
    if args.seeds is not None and args.seeds < 1 or args.jobs < 1:
        raise UserError("--seeds and --jobs are at least 1")
    study = studies.load(args.study)
    results = Results(Path(args.results) if args.results else study.folder / "results.csv")
    rows = study.chosen(args.rows, SIZES[: SIZES.index(args.size) + 1] if args.size else SIZES)
    failed: list[str] = []
    if not args.table:
        above = output_folder(args.workdir, "--workdir")
        output_folder(results.path.parent, "--results: the folder")
        if args.rerun:
            for row in rows:
                results.drop(row)
                for seed in range(args.seeds or row.seeds) if not row.of else ():
                    shutil.rmtree(workdir(study, row, seed, above), ignore_errors=True)
        todo = shard_of(args.shard, jobs(study, rows, args.seeds, results))
        failed = run(study, todo, results, above, args.jobs)
    lines = [verdicts.line(study, row, results, args.seeds) for row in rows]
    tests = verdicts.comparisons(study, results, args.seeds)
    text = verdicts.table(study, lines, tests)
    if not args.results and not args.rows and not args.size and args.seeds is None:
        write_readme(study, text)
        verdicts.draw(study, lines, study.folder / "results.png")
    print(json.dumps(verdicts.as_json(study, lines, tests)) if args.json else f"{study.question}\n\n{text}", end="\n")
    if not args.json:
        for row in rows:
            if row.size == "tpu":
                launch = " ".join(row.arguments(0, f"runs/studies/{study.name}/{row.name}/seed_0"))
                print(f"on the TPU machine: cnn train {launch}")
    wrong = failed
    if args.check:
        own = Results(study.folder / "results.csv")
        wrong = [*failed, *problems(lines, [verdicts.line(study, row, own) for row in rows] if args.results else ())]
    for line in wrong:
        print(f"reproduce: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        sys.exit(2)
