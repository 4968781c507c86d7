"""Interrupted runs: whatever ends a process, the same command goes on to the same result, bit for bit."""

import json
import random
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import config, train, tree
from cnn.data import Dataset
from cnn.data.order import indices
from cnn.errors import UserError
from cnn.plan import Plan, make_plan
from cnn.run.checkpoint import Checkpoints
from tests.support.runs import Killable, tiny

KILLED, INTERRUPTED = -signal.SIGKILL, 75
EXAMPLES, BATCH = 64, 16  # of `tiny`


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    server = Killable(tmp_path_factory.mktemp("runs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(runs, tmp_path_factory):
    """`uninterrupted(config)`: the workdir of a run of it that nothing disturbed; once per config."""
    done = {}

    def run(settings, **options):
        key = config.to_json(settings) + repr(options)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("uninterrupted")
            assert runs.run(settings, done[key], **options) == 0, runs.log(done[key])
        return done[key]

    return run


def same_result(runs, workdir, reference):
    """Fails with the names of what differs between two finished runs."""
    found, wanted = runs.final(workdir), runs.final(reference)
    assert found["arrays"].keys() == wanted["arrays"].keys()
    different = [name for name, sha in wanted["arrays"].items() if found["arrays"][name] != sha]
    assert not different, f"not equal bit for bit: {different}\n{runs.log(workdir)}"
    assert {name.split("/")[0] for name in wanted["arrays"]} >= {"params", "batch_stats", "opt_state", "ema"}
    assert (found["loop"], found["position"]) == (wanted["loop"], wanted["position"])


def same_order(runs, workdir, reference, total):
    """Fails unless the steps of all processes, each taken where it counted, are those of the reference."""
    wanted = {line["step"]: line for line in runs.journal(reference) if line["step"] < total}
    assert list(wanted) == list(range(total))
    lines = [line for line in runs.journal(workdir) if line["step"] < total]
    for before, after in zip(lines, lines[1:], strict=False):
        assert after["step"] <= before["step"] + 1, f"steps between {before['step']} and {after['step']} are lost"
    assert {line["step"] for line in lines} == set(wanted)
    wrong = sorted({line["step"] for line in lines if line != wanted[line["step"]]})
    assert not wrong, f"steps {wrong} saw other examples, or the same ones otherwise augmented"


def evaluations(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval/loss" in row]


def random_kills(count, seed):
    """Points of death of all kinds; each lets a run come some steps further at most."""
    rng = random.Random(seed)
    makers = [
        lambda: {"at": "before_step", "n": rng.randint(1, 4)},
        lambda: {"at": "after_step", "n": rng.randint(1, 4)},
        lambda: {"at": "after_eval"},
        lambda: {"at": "save", "n": rng.randint(1, 2)},
        lambda: {"at": "save", "delay": rng.uniform(0.001, 0.03)},
        lambda: {"at": "tmp_folder", "delay": rng.uniform(0, 0.02)},
        lambda: {"at": "commit", "n": rng.randint(1, 2)},
        lambda: {"at": "committed", "n": rng.randint(1, 2)},
        lambda: {"at": "time", "delay": rng.uniform(0, 0.3)},  # while it starts
    ]
    rng.shuffle(makers)
    return [makers[i % len(makers)]() for i in range(count)]


@pytest.mark.parametrize(
    ("kills", "total"), [(3, 24), pytest.param(20, 80, marks=pytest.mark.exhaustive)], ids=["3", "20"]
)
def test_kill_9_at_random_points_changes_nothing(runs, uninterrupted, tmp_path, kills, total):
    settings = tiny(total_steps=total, eval__every_steps=4, checkpoint__every_steps=2)
    reference = uninterrupted(settings)
    workdir, half_saved = tmp_path / f"killed{kills}", 0
    for kill in random_kills(kills, seed=kills):
        status = runs.run(settings, workdir, kill)
        assert status == KILLED, f"{kill} ended with {status}:\n{runs.log(workdir)}"
        half_saved += any(workdir.glob("checkpoints/*tmp*"))
    assert runs.run(settings, workdir) == 0, runs.log(workdir)
    assert half_saved >= kills // 5, f"only {half_saved} of {kills} kills fell into a save"
    same_result(runs, workdir, reference)
    same_order(runs, workdir, reference, total)
    assert evaluations(workdir) == evaluations(reference)
    assert not list(workdir.glob("checkpoints/*tmp*")), "leftovers of interrupted saves stay"


def test_every_epoch_is_a_permutation_and_each_is_another(runs, uninterrupted):
    lines = runs.journal(uninterrupted(tiny()))[:8]
    epochs = [[row for line in part for row in line["rows"]] for part in (lines[:4], lines[4:])]
    assert [sorted(rows) for rows in epochs] == [list(range(EXAMPLES))] * 2
    assert epochs[0] != epochs[1] != list(range(EXAMPLES))


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_signal_saves_and_the_same_command_goes_on(runs, uninterrupted, tmp_path, name):
    workdir, number = tmp_path / name, signal.Signals[name]
    assert runs.run(tiny(), workdir, {"at": "after_step", "n": 7, "signal": number}) == INTERRUPTED
    assert f"received {name}: saved step 7 of 20; the same command goes on" in runs.log(workdir)
    assert runs.run(tiny(), workdir) == 0
    assert "resume at step 7 of 20" in runs.log(workdir)
    same_result(runs, workdir, uninterrupted(tiny()))
    same_order(runs, workdir, uninterrupted(tiny()), 20)


def test_finished_run_is_already_complete(runs, uninterrupted, tmp_path):
    workdir = uninterrupted(tiny())
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("checkpoints/*")} | {"final": runs.final(workdir)}
    assert runs.run(tiny(), workdir) == 0
    assert f"already complete: {workdir / 'summary.json'}" in runs.log(workdir)
    after = {p: p.stat().st_mtime_ns for p in workdir.glob("checkpoints/*")} | {"final": runs.final(workdir)}
    assert after == before


@pytest.mark.slow
def test_time_budget_stops_and_goes_on(runs, uninterrupted, tmp_path):
    workdir, settings = tmp_path / "budget", tiny(total_steps=3, max_minutes=0.002)  # 0.12 s: one step
    assert [runs.run(settings, workdir) for _ in range(3)] == [INTERRUPTED, INTERRUPTED, 0], runs.log(workdir)
    assert "max_minutes=0.002 is over: saved step 1 of 3" in runs.log(workdir)
    same_result(runs, workdir, uninterrupted(tiny(total_steps=3)))


@pytest.mark.slow
@pytest.mark.parametrize("keep_best", [1, 3])  # with more than one, all evaluated states are saved
@pytest.mark.parametrize(
    "kills",
    [
        [{"at": "after_eval", "n": 2}],  # stale, not saved
        [{"at": "before_step", "n": 12}],
        [{"at": "after_eval", "n": 3}, {"at": "commit"}],  # the evaluation that decides; the last save
        [{"at": "before_step", "n": 14}, {"at": "committed"}],  # saved, and no summary yet
    ],
    ids=lambda kills: "+".join(kill["at"] for kill in kills),
)
def test_early_stopping_decides_alike(runs, uninterrupted, tmp_path, kills, keep_best):
    # The first evaluation stays the best; step 15 is one to save at.
    settings = tiny(eval__patience=2, eval__recalibrate_batches=2, checkpoint__keep_best=keep_best)
    reference = uninterrupted(settings, stale=True)
    assert "step 15: no better in 2 evaluations, stopping early" in runs.log(reference)
    workdir = tmp_path / f"early{keep_best}{len(kills)}{kills[0]['at']}"
    for kill in kills:
        assert runs.run(settings, workdir, kill, stale=True) == KILLED, f"{kill}:\n{runs.log(workdir)}"
    assert runs.run(settings, workdir, stale=True) == 0, runs.log(workdir)
    same_result(runs, workdir, reference)
    summaries = [json.loads((w / "summary.json").read_text()) for w in (workdir, reference)]
    assert summaries[0]["steps"] == summaries[1]["steps"] == 15
    assert summaries[0]["best"] == summaries[1]["best"]


@pytest.mark.slow
def test_last_state_is_recalibrated_and_saved(runs, uninterrupted):
    """Also where a step to save at and the end of an early stopped run fall together."""
    with_it, without = (
        runs.arrays(uninterrupted(tiny(eval__patience=2, eval__recalibrate_batches=n), stale=True))
        for n in (2, 0)
    )
    for name, value in with_it.items():
        assert np.array_equal(value, without[name]) != ("batch_stats/" in name), name


CONFIG_FILE = """
from cnn import config
def get_config(arg=""):
    return config.from_json({text!r}).unlock()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_to_the_command(tmp_path, number):
    file, workdir = tmp_path / "endless.py", tmp_path / "run"
    file.write_text(CONFIG_FILE.format(text=config.to_json(tiny(total_steps=1_000_000))))
    command = [sys.executable, "-m", "cnn.train", f"--config={file}", f"--workdir={workdir}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = " "
    while line and not line.startswith("step 10 "):
        line = process.stdout.readline()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, rest
    assert f"received {number.name}: saved step" in rest
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert f"saved step {saved} of 1000000" in rest


# A value that is not finite


LOGISTIC = ConfigDict({"name": "mnist1d_logistic"})  # compiles faster


def small_series(**changes):
    """A 1-D network on made-up series, which are floats: they can hold NaN."""
    return tiny(
        **{
            "input__dataset": "mnist1d",
            "input__train_transforms": (),
            "input__mean": (),
            "input__std": (),
            "eval__split": "",
            "log_every_steps": 5,
        }
        | changes
    )


@pytest.fixture
def seen_states(monkeypatch):
    """{step: state on the host} as each step of the runs in this process got it."""
    states, make = {}, Plan.train_step

    def train_step(self):
        step = make(self)

        def noted(state, batch):
            states.setdefault(int(state.step), jax.device_get(state))
            return step(state, batch)

        return noted

    monkeypatch.setattr(Plan, "train_step", train_step)
    return states


def poison(monkeypatch, row):
    source = Dataset.source

    def poisoned(self, split):
        made = source(self, split)
        if split == "train":
            made.arrays["series"][row, 3] = np.nan
        return made

    monkeypatch.setattr(Dataset, "source", poisoned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "poisoned", "names"),
    [
        ({"seed": 5}, True, "batch series"),
        ({"model": LOGISTIC, "optim__lr": 1e38}, False, "(output|gradient|parameter) "),
        # Found only by the evaluation's and the save's look at the losses, between two logs.
        ({"seed": 5, "log_every_steps": 50, "eval__split": "test", "eval__every_steps": 2}, True, "batch series"),
    ],
    ids=["data", "rate", "between logs"],
)
def test_bad_value_stops_and_keeps_the_state_before(
    tmp_path, monkeypatch, seen_states, changes, poisoned, names
):
    settings = small_series(**changes)
    if poisoned:
        third_batch = indices(settings.seed, EXAMPLES, np.arange(2 * BATCH, 3 * BATCH))
        poison(monkeypatch, int(third_batch[4]))
    said = []
    for _ in range(2):  # the second start finds the same again
        with pytest.raises(UserError, match=rf"^step \d+: not finite: {names}") as caught:
            train.train(settings, str(tmp_path))
        said.append(str(caught.value))
    assert said[0] == said[1]
    step = int(said[0].split()[1].rstrip(":"))
    if poisoned:
        assert step == 2
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps[-1] == step
    state, meta = checkpoints.restore(make_plan(settings).abstract)
    checkpoints.close()
    assert meta["step"] == step and meta["position"] == step * BATCH
    found, wanted = tree.flatten(jax.device_get(state)), tree.flatten(seen_states[step])
    different = [name for name, x in wanted.items() if not np.array_equal(found[name], x)]
    assert not different and int(state.bad_step) == -1
    assert all(np.isfinite(x).all() for x in found.values())
