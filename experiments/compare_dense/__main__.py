"""Measures what textbooks claim of convolutional networks, against dense ones of equal parameters and equal FLOPs.

    python -m experiments.compare_dense                       # all data sets, five seeds
    python -m experiments.compare_dense --cases mnist1d --seeds 3
    python -m experiments.compare_dense --costs               # only times and memory; prints that part of the report

Writes report.md, report.html (one page, nothing else needed) and PNG figures to --out. Every number is kept in
numbers.jsonl there; the same command goes on where it was interrupted.
"""

import os
import platform
import sys
import time
from typing import Any

from cnn import flags
from cnn.errors import UserError, unknown
from cnn.paths import output_folder
from cnn.process import prepare
from experiments.compare_dense import claims, report
from experiments.compare_dense.cases import CASES, RATES, Case, networks
from experiments.compare_dense.learner import Learner
from experiments.compare_dense.measure import Notes, opened, run_case


def costs(case: Case) -> list[dict[str, Any]]:
    """What each network of a case costs, untrained: the learning rate changes no time."""
    info, train, _ = opened(case)
    made = networks(case, train[info.input_key].shape[1:], info.num_classes)
    return [{"network": one, "costs": Learner(case, one, info, train, RATES[0]).costs(train)} for one in made]


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("experiments.compare_dense", __doc__, "python -m")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help=f"of {', '.join(CASES)}; at least one grid")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each network, at least 2")
    parser.add_argument("--out", default="runs/compare_dense", help="folder")
    parser.add_argument("--costs", action="store_true", help="only times and memory; nothing is trained or written")
    args, _ = parser.parse(argv)
    for name in args.cases:
        if name not in CASES:
            raise unknown("case", name, CASES)
    if args.costs:
        prepare()
        rows = {name: (CASES[name], costs(CASES[name]), (), 0) for name in args.cases}
        print("\n".join(report.section(claims.costs(rows), {})[1:]))
        return 0
    if args.seeds < 2:
        raise UserError("--seeds must be at least 2: one run has no interval")
    if all(CASES[name].tabular for name in args.cases):
        raise UserError("--cases needs at least one that is not tabular: " + ", ".join(CASES))
    prepare()
    folder = output_folder(args.out, "--out")
    notes, begun = Notes(folder / "numbers.jsonl"), time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:6.0f} s] {text}", flush=True)

    cases = {}
    for name in args.cases:
        info, train, _ = opened(CASES[name])
        rows = run_case(notes, CASES[name], args.seeds, say)
        cases[name] = (CASES[name], rows, train[info.input_key].shape[1:], info.num_classes)
    found = [*claims.weights(cases), *claims.accuracy(cases), claims.costs(cases)]
    found = [claim for claim in found if claim.verdicts]
    about = (
        f"{args.seeds} seeds, means with 95 % t intervals, differences paired by seed. One recipe for all: AdamW, "
        f"cosine, the best of four learning rates on a fifth of the training set. {os.cpu_count()} cores of "
        f"{platform.machine()}. Command: python -m experiments.compare_dense --cases {' '.join(args.cases)} "
        f"--seeds {args.seeds}"
    )
    figures = report.draw(cases, folder)
    (folder / "report.md").write_text(report.markdown(found, figures, about), encoding="utf-8")
    (folder / "report.html").write_text(report.page(found, figures, about, folder), encoding="utf-8")
    for claim in found:
        print(f"{claim.title}: {claim.verdict}")
    print(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"compare_dense: error: {error}", file=sys.stderr)
        sys.exit(2)
