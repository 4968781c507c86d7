"""`launch sweep`: trials, the rules that end them early, the table, and how a sweep goes on."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn.errors import UserError
from experiments.launch import rules, sweep
from experiments.launch.__main__ import main
from experiments.launch.trials import trials

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/classification/mnist1d_logistic.py"  # whose runs are short

# Stands for the launch of a trial: a curve that rises to 1 - |lr - 0.3|, a line each few milliseconds. With 1.1 it
# waits half way until somebody ends it: it must not be done before the others have come as far.
TRIAL = """
import json, pathlib, signal, sys, time
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
flags = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(flags["--workdir"])
folder.mkdir(parents=True, exist_ok=True)
lr = float(flags["--config.optim.lr"])
with open(folder / "starts", "a") as starts:
    starts.write("x")
for step in range(10, 110, 10):
    time.sleep(0.05)
    while lr == 1.1 and step > 50 and not ended:
        time.sleep(0.05)
    if ended:
        sys.exit(75)
    with open(folder / "metrics.jsonl", "a") as metrics:
        metrics.write(json.dumps({"step": step, "eval/accuracy": (1 - abs(lr - 0.3)) * step / 100}) + "\\n")
if lr == 9:
    sys.exit(2)
(folder / "summary.json").write_text("{}")
"""


def test_a_grid_is_every_combination():
    made = trials(["optim.lr=0.1,0.3", "model.width=(1,2);(3,4)"], [], 0, 0)
    assert [trial.id for trial in made] == ["000", "001", "002", "003"]
    assert made[3].overrides == {"optim.lr": "0.3", "model.width": "(3,4)"}
    assert made[0].flags() == ["--config.optim.lr=0.1", "--config.model.width=(1,2)"]


def test_what_is_drawn_lies_in_its_range_and_is_the_same_again():
    ranges = [
        "optim.lr=log:1e-4:1e-1",
        "model.depth=int:8:20",
        "optim.weight_decay=lin:0:0.1",
        "optim.name=sgd,adamw",
    ]
    made = trials([], ranges, 200, 7)
    assert made == trials([], ranges, 200, 7) != trials([], ranges, 200, 8)
    lrs = [float(trial.overrides["optim.lr"]) for trial in made]
    assert min(lrs) >= 0.99e-4 and max(lrs) <= 1.01e-1
    assert 60 < sum(lr < 10**-2.5 for lr in lrs) < 140  # half of them below the middle of the logarithms
    assert {int(trial.overrides["model.depth"]) for trial in made} == set(range(8, 21))
    assert {trial.overrides["optim.name"] for trial in made} == {"sgd", "adamw"}


@pytest.mark.parametrize(
    "grid, drawn, said",
    [
        ([], [], "say what to sweep"),
        (["optim.lr"], [], "write FIELD=VALUE"),
        (["optim.lr=1"], ["optim.lr=log:1:2"], "swept twice"),
        ([], ["optim.lr=log:0:1"], "above 0"),
        ([], ["optim.lr=log:1:x"], "two numbers"),
        ([], ["optim.lr=lin:2:1"], "LOW is below HIGH"),
        (["a=" + ",".join("1" * 40), "b=" + ",".join("1" * 40)], [], "more than 1000 runs"),
    ],
)
def test_ranges_that_cannot_be(grid, drawn, said):
    with pytest.raises(UserError, match=said):
        trials(grid, drawn, 5, 0)


def curve(*values: float) -> list[tuple[int, float]]:
    return [(10 * (n + 1), value) for n, value in enumerate(values)]


LINES = {"b": curve(0.3, 0.4), "c": curve(0.5, 0.6), "d": curve(0.7, 0.8)}


@pytest.mark.parametrize(
    "rule, curves, loses",
    [
        ("none", {"a": curve(0.1, 0.2), **LINES}, ""),
        ("median", {"a": curve(0.1, 0.2), **LINES}, "ab"),
        ("median", LINES, ""),  # too few to compare with
        ("median", {"a": curve(0.1), **LINES}, ""),  # too early, for `a`; too few, for the others
        ("median", {"a": curve(0.9, 0.1), **LINES}, "b"),  # the best of `a` counts, not its last
        ("median", {"a": curve(-math.inf, -math.inf), **LINES}, "ab"),  # diverged: nobody is worse
        ("halving", {"a": curve(-math.inf, -math.inf), **LINES}, "ab"),
        ("halving", LINES, "bc"),
        ("halving", {"a": curve(0.1), **LINES}, "bc"),  # `a` is not there yet
        ("halving", {"a": curve(0.1, 0.2), "b": curve(0.3)}, ""),  # alone at its rung
        ("halving", {"a": curve(0.3, 0.2), "b": curve(0.3, 0.2), "c": curve(0.3, 0.2)}, ""),  # equals
        ("halving", {"a": curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), **LINES}, "b"),  # `a` is alone at a later rung
    ],
)
def test_rules(rule, curves, loses):
    assert "".join(name for name in curves if rules.RULES[rule](name, curves, 20, 3)) == loses


def test_a_curve_turns_the_sign_and_what_is_not_finite_is_the_worst():
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2},
        {"step": 3, "loss": None},
        {"step": 4, "loss": float("nan")},
        {"step": 5, "loss": 1},
    ]
    bad = [(3, -math.inf), (4, -math.inf)]
    assert rules.curve(rows, "loss", "min") == [(1, -2.0), *bad, (5, -1.0)]
    assert rules.curve(rows, "loss", "max") == [(1, 2.0), *bad, (5, 1.0)]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A function that runs the sweep `s1` in this process, each trial being TRIAL; gives the table's lines by trial."""
    program = tmp_path / "trial.py"
    program.write_text(TRIAL)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        sweep, "child_words", lambda launch, trial, command, extra: [sys.executable, str(program), *command]
    )

    def run(*flags: str, code: int = 0) -> dict[str, dict[str, str]]:
        words = ["sweep", "--name=s1", f"--root={tmp_path / 'launches'}", "--poll=0.1", *flags, "--yes"]
        assert main([*words, "--", CONFIG, f"--workdir={tmp_path / 'runs'}"]) == code
        with open(tmp_path / "launches" / "s1" / "results.csv", newline="") as file:
            return {line["trial"]: line for line in csv.DictReader(file)}

    return run


def test_a_sweep_fills_its_table_best_first_and_runs_nothing_twice(stub, tmp_path, capsys):
    lines = stub("--grid=optim.lr=0.1,0.3,0.5,0.2", "--jobs=2", "--best=2")
    assert list(lines) == ["001", "003", "000", "002"] or list(lines) == ["001", "003", "002", "000"]
    assert {line["state"] for line in lines.values()} == {"done"}
    assert (lines["001"]["best"], lines["001"]["at step"], lines["001"]["optim.lr"]) == ("1.0", "100", "0.3")
    shown = capsys.readouterr().out
    assert (
        "best 2 of 4 by the best step's eval/accuracy (max)" in shown
        and "| 001 | done | 0.3 | 1 | 100 | 100 |" in shown
    )
    stub("--grid=optim.lr=0.1,0.3,0.5,0.2", "--jobs=2", "--best=2")
    assert all((tmp_path / "runs" / trial / "starts").read_text() == "x" for trial in lines)
    main(["status", "s1", f"--root={tmp_path / 'launches'}"])
    assert "| 001 | done" in capsys.readouterr().out


def test_a_trial_that_fails_is_said_and_tried_again(stub, tmp_path):
    lines = stub("--grid=optim.lr=9,0.3", code=1)
    assert (lines["000"]["state"], lines["000"]["why"], lines["001"]["state"]) == ("failed", "exit code 2", "done")
    stub("--grid=optim.lr=9,0.3", code=1)
    assert (tmp_path / "runs" / "000" / "starts").read_text() == "xx"
    assert (tmp_path / "runs" / "001" / "starts").read_text() == "x"


@pytest.mark.parametrize("rule", ["median", "halving"])
def test_losing_trials_end_early(stub, tmp_path, rule):
    lines = stub("--grid=optim.lr=0.3,0.31,0.32,1.1", "--jobs=4", f"--rule={rule}", "--start=20", "--eta=4")
    assert lines["003"]["state"] == "stopped early" and lines["003"]["why"]
    assert int(lines["003"]["last step"]) <= 50
    assert lines["000"]["state"] == "done"
    assert list(lines)[0] == "000" and list(lines)[-1] == "003"


def test_a_sweep_finds_mistakes_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    start = ["sweep", "--name=s1", f"--root={tmp_path}", "--dry-run"]
    for flags, train, said in (
        (["--grid=optim.lrr=1"], [CONFIG], "Did you mean 'lr'"),
        (["--grid=optim.lr=x"], [CONFIG], "is of type float"),
        (["--grid=optim.lr=1"], ["program"], "flags of cnn train"),
        (["--grid=optim.lr=1", "--jobs=0"], [CONFIG], "--jobs 0"),
        (["--grid=optim.lr=1", "--with=--nodse 2", "--on=slurm"], [CONFIG], "Did you mean '--nodes'"),
        (["--grid=optim.lr=1", "--on=tpu", "--with=--type v5litepod-8"], [CONFIG], "required: --zone, --project"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            main([*start, *flags, "--", *train])


def test_the_plan_of_a_sweep_on_tpus_names_each_launch_and_the_cost(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    prices = tmp_path / "prices.csv"
    prices.write_text("chip,on_demand,spot\nv5e,1,0.5\n")
    target = "--type v5litepod-4 --zone us-central1-a --project my-project --bucket bucket --hours 2 --commit HEAD~0"
    flags = ["--grid=optim.lr=0.1,0.2", "--jobs=2", "--on=tpu", f"--with={target} --prices {prices}"]
    main(["sweep", "--name=s1", f"--root={tmp_path / 'launches'}", "--dry-run", *flags, "--", CONFIG])
    text = capsys.readouterr().out
    assert "cost, each      $4.00 per hour (4 chips x $1), at most $8.00 until the deadline" in text
    assert "--name=s1-000 --yes --type v5litepod-4 --zone us-central1-a" in text
    assert f"{CONFIG} --config.optim.lr=0.1 --workdir=gs://bucket/s1/000" in text
    assert "and with: --name=s1-001, --config.optim.lr=0.2, --workdir=gs://bucket/s1/001" in text
    assert not (tmp_path / "launches").exists()


SBATCH = """#!{python}
import json, pathlib, subprocess, sys, os
folder = pathlib.Path("{folder}")
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print(42)
tasks = next(word for word in sys.argv if word.startswith("--array=")).partition("=")[2].partition("%")[0]
for task in tasks.split(","):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": "42"}}
    with open(folder / "out", "a") as out:
        subprocess.Popen(["bash", sys.argv[-1]], env=environment, stdout=out, stderr=out, start_new_session=True)
"""


def test_a_slurm_array(tmp_path):
    program = tmp_path / "trial.py"
    program.write_text(TRIAL)
    tools, queue = tmp_path / "bin", tmp_path / "queue"
    tools.mkdir()
    queue.mkdir()
    texts = {
        "sbatch": SBATCH.format(python=sys.executable, folder=tmp_path),
        # srun runs its words; the interpreter of --python is TRIAL, which passes over '-m cnn.train'
        "srun": f'#!/bin/bash\ntouch {queue}/"$SLURM_ARRAY_TASK_ID"\n'  # a file each: trials start and end together
        + 'while [[ $1 == --* ]]; do shift; done\n"$@"\ncode=$?\n'
        + f'rm {queue}/"$SLURM_ARRAY_TASK_ID"\nexit $code\n',
        "squeue": f"#!/bin/bash\nls {queue}\n",
        "scancel": f'#!/bin/bash\necho "$@" >> {tmp_path}/cancelled\n',
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/requeued\n',
        "train": f'#!/bin/bash\nexec {sys.executable} {program} "$@"\n',
    }
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    root, runs = tmp_path / "launches", tmp_path / "runs"
    flags = [
        "--grid=optim.lr=0.1,0.3,0.2",
        "--jobs=2",
        "--on=slurm",
        f"--with=--time 10 --python {tools}/train",
        "--poll=0.5",
    ]
    words = [
        sys.executable,
        "-m",
        "experiments.launch",
        "sweep",
        "--name=s1",
        f"--root={root}",
        *flags,
        "--yes",
        "--",
        CONFIG,
    ]
    done = subprocess.run(
        [*words, f"--workdir={runs}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out").read_text()
    (call,) = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert call == ["--parsable", "--array=0,1,2%2", str(root / "s1" / "array.sbatch")]
    assert "| 001 | done | 0.3 |" in done.stdout
    assert not (tmp_path / "requeued").exists()


@pytest.mark.slow
def test_two_real_runs_on_this_machine(tmp_path):
    begun = time.monotonic()
    words = [sys.executable, "-m", "experiments.launch", "sweep", "--name=s1", f"--root={tmp_path / 'launches'}"]
    words += [
        "--grid=optim.lr=0.05,0.1",
        "--poll=0.5",
        "--yes",
        "--",
        f"{CONFIG}:smoke",
        "--config.eval.split=test",
        f"--workdir={tmp_path / 'runs'}",
    ]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for trial in ("000", "001"):
        assert (tmp_path / "runs" / trial / "summary.json").is_file()
    with open(tmp_path / "launches" / "s1" / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["state"] for line in lines} == {"done"} and all(line["best"] for line in lines), (
        time.monotonic() - begun
    )
