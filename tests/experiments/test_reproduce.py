"""Studies: the rule of the verdicts, stale rows, a tiny study from end to end, and the results that are committed."""

import json
import types

import jax
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.plan import make_plan
from cnn.scoring.sums import Interval
from experiments import reproduce, study, verdicts
from experiments.results import Result, Results, stale
from experiments.study import ROOT, Row
from tests.support.runs import tiny

NAN = float("nan")
DIGITS = "configs/classification/digits_resnet.py:smoke"


def result(row="a", seed=0, value=0.5, **changes):
    facts = {"metric": "accuracy", "config": "", "code": "", "commit": "", "device": "", "versions": ""}
    return Result(
        row, seed, value=value, baselines={"majority": 0.1, "svm": 0.4}, parameters=7, examples=9, seconds=1.0,
        **(facts | changes),
    )  # fmt: skip


def made(rows, folder, compare=()):
    module = types.SimpleNamespace(QUESTION="Why?", ROWS=rows, COMPARE=compare, __file__=str(folder / "study.py"))
    return study.from_module("tiny", module)


@pytest.mark.parametrize(
    ("low", "high", "expected", "tolerance", "wanted"),
    [
        (93.0, 95.0, 94.5, 1.0, "reproduced"),
        (93.0, 95.0, 94.5, 0.6, "inconclusive"),  # the mean is near, the interval too wide to say so
        (93.0, 95.0, 97.0, 1.0, "differs"),
        (93.0, 95.0, 96.0, 1.5, "inconclusive"),  # the mean is off, a part of the interval is not
        (95.9, 96.1, 94.0, 1.0, "differs"),  # better than published is not the same either
        (NAN, NAN, 94.0, 1.0, "inconclusive"),  # one seed
        (93.0, 95.0, None, 0.0, "measured"),
    ],
)
def test_the_rule(low, high, expected, tolerance, wanted):
    mean = 94.0 if np.isnan(low) else (low + high) / 2
    assert verdicts.verdict(Interval(mean, low, high, 3), expected, tolerance) == wanted


def test_rows_that_are_refused(tmp_path):
    for row in ({"size": "big", "config": "x"}, {"of": "b"}, {}, {"config": "x", "expected": 1.0}):
        with pytest.raises(UserError):
            Row("a", **row)
    with pytest.raises(UserError, match="two rows are called 'a'"):
        made([Row("a", DIGITS), Row("a", DIGITS)], tmp_path)
    with pytest.raises(UserError, match="unknown row 'b'"):
        made([Row("a", of="b", baseline="svm")], tmp_path)
    with pytest.raises(UserError, match="Did you mean 'mnist1d'"):
        study.load("mnist1")


def test_a_row_goes_stale_with_its_config_and_its_code(tmp_path, monkeypatch):
    row = Row("a", DIGITS)
    tiny_study, results = made([row], tmp_path), Results(tmp_path / "results.csv")
    assert stale(tiny_study, row, results) == ""
    results.add(result(config=row.config_hash(), code=row.code_hash()))
    assert stale(tiny_study, row, results) == ""
    changed = Row("a", DIGITS, {"optim.lr": "0.3"})
    assert stale(made([changed], tmp_path), changed, results) == "config"
    turned = {}
    for name, order in (("a", "'flip', 'rotate90'"), ("b", "'rotate90', 'flip'")):  # no options; the order counts
        steps = "".join(f"({one}, {{}})," for one in order.split(", "))
        turned[name] = Row("a", DIGITS, {"input.train_transforms": f"({steps})"})
        assert stale(made([turned[name]], tmp_path), turned[name], results) == "config and code"
    assert turned["a"].resolved()["input.train_transforms"] == [["flip", {}], ["rotate90", {}]]
    assert turned["a"].config_hash() != turned["b"].config_hash()
    assert stale(made([changed], tmp_path), Row("a", DIGITS, {"log_every_steps": "7"}), results) == ""
    assert stale(tiny_study, Row("a", DIGITS, metric="loss"), results) == "metric"
    monkeypatch.setattr(study, "TRAINER", 10**6)
    assert stale(tiny_study, row, results) == "code"
    line = verdicts.line(tiny_study, row, results)
    assert line.verdict == "stale" and line.measured is None
    assert "50.0" not in verdicts.table(tiny_study, [line], {})
    assert "run it again with --rerun" in reproduce.problems([line])[0]
    assert reproduce.jobs(tiny_study, [row], None, results) == []


def test_one_seed_is_also_held_to_the_seeds_that_are_kept(tmp_path):
    row = Row("a", DIGITS, {}, 60.0, 5.0, "a paper")
    tiny_study, kept, fresh = made([row], tmp_path), Results(tmp_path / "kept.csv"), Results(tmp_path / "fresh.csv")
    hashes = {"config": row.config_hash(), "code": row.code_hash()}
    for seed in range(3):
        kept.add(result(seed=seed, value=0.52, **hashes))
    for value, others, wrong in ((0.54, None, 1), (0.54, kept, 0), (0.57, None, 0), (0.46, kept, 1), (0.66, kept, 1)):
        fresh.add(result(value=value, **hashes))
        lines = [[verdicts.line(tiny_study, row, one)] if one else [] for one in (fresh, others)]
        assert len(reproduce.problems(*lines)) == wrong, value


def test_results_are_read_as_they_were_written(tmp_path):
    results = Results(tmp_path / "results.csv")
    wanted = [result("b", 1, 0.25), result("a", 0, 1 / 3, device='1 x cpu, "odd"')]
    for one in wanted:
        results.add(one)
    again = Results(tmp_path / "results.csv")
    assert sorted(again.found.values(), key=lambda r: r.row) == wanted[::-1]
    again.drop(Row("a", DIGITS))
    assert list(Results(tmp_path / "results.csv").found) == [("b", 1)]
    (tmp_path / "results.csv").write_text("row,seed\na,0\n")
    with pytest.raises(UserError, match="is damaged"):
        Results(tmp_path / "results.csv")


def test_the_table(tmp_path):
    cnn = Row("cnn", DIGITS, expected=50.0, tolerance=2.0, source="a paper")
    svm = Row("svm", of="cnn", baseline="svm", expected=40.0, tolerance=1.0, source="a paper")
    other = Row("other", DIGITS, expected=1.0, tolerance=1.0, source="a book")
    tiny_study = made([cnn, svm, other], tmp_path, [("cnn", "svm"), ("cnn", "other")])
    results = Results(tmp_path / "results.csv")
    for seed, value in enumerate((0.50, 0.51, 0.505)):
        results.add(result("cnn", seed, value, config=cnn.config_hash(), code=cnn.code_hash()))
    lines = [verdicts.line(tiny_study, row, results) for row in tiny_study.rows]
    assert [line.verdict for line in lines] == ["reproduced", "reproduced", "not run"]
    tests = verdicts.comparisons(tiny_study, results)
    assert list(tests) == [("cnn", "svm")] and tests["cnn", "svm"].verdict() == "higher"
    text = verdicts.table(tiny_study, lines, tests)
    for part in ("50 +- 2 [1]", "50.50 +- 1.24 (3)", "svm 40.00", "[2] a book", "cnn - svm: 10.50", "not run"):
        assert part in text, part
    assert "other" in text
    found = verdicts.as_json(tiny_study, lines, tests)
    assert found["rows"][2]["verdict"] == "not run" and "mean" not in found["rows"][2]
    verdicts.draw(tiny_study, lines, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes()[:4] == b"\x89PNG"
    two = [verdicts.line(tiny_study, row, results, 2) for row in tiny_study.rows]
    assert two[0].measured.n == 2
    assert verdicts.comparisons(tiny_study, results, 2) and not verdicts.comparisons(tiny_study, results, 1)


@pytest.mark.slow
def test_a_tiny_study_from_end_to_end(tmp_path, monkeypatch, capsys):
    overrides = {"model.stage_sizes": "(1,)", "mesh.devices": "1"}
    rows = [Row("a", DIGITS, overrides, size="ci", seeds=2), Row("b", DIGITS, overrides | {"optim.lr": "0.01"})]
    rows.append(Row("tpu", DIGITS, size="tpu", expected=99.0, tolerance=1.0, source="a paper"))
    (tmp_path / "README.md").write_text(f"# Tiny\n{reproduce.MARKS[0]}\nold\n{reproduce.MARKS[1]}\nend\n")
    monkeypatch.setattr(study, "load", lambda name: made(rows, tmp_path, [("a", "b")]))
    monkeypatch.setattr(study, "names", lambda: ["tiny"])
    base = ["tiny", f"--workdir={tmp_path / 'runs'}"]

    assert reproduce.main([*base, "--rows", "a", "--jobs=2", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["rows"]
    assert [row["row"] for row in found] == ["a"] and found[0]["n"] == 2
    assert err.count("a, seed") == 2
    first = (tmp_path / "results.csv").read_text()

    assert reproduce.main([*base, "--rows", "a"]) == 0  # nothing is left to run
    assert "a, seed" not in capsys.readouterr().err and (tmp_path / "results.csv").read_text() == first

    assert reproduce.main([*base, "--table"]) == 0
    text = capsys.readouterr().out
    assert "| b" in text and "not run" in text and "on the TPU machine: cnn train --config=configs" in text
    readme = (tmp_path / "README.md").read_text()
    assert "old" not in readme and "| a" in readme and readme.endswith("end\n")

    assert reproduce.main([*base, "--seeds=1", "--shard=0/1", "--check"]) == 0
    assert "b, seed 0" in capsys.readouterr().err
    rows[1] = Row("b", DIGITS, overrides | {"optim.lr": "0.02"})
    assert reproduce.main([*base, "--check"]) == 1
    said = capsys.readouterr()
    assert "stale (config changed)" in said.out and "b is stale" in said.err
    rows[1] = Row("b", DIGITS, {"model.nme": "x"})
    assert reproduce.main([*base, "--rows", "b", "--rerun", "--seeds=1"]) == 1
    assert "b, seed 0 ended with code 2" in capsys.readouterr().err

    rows[0] = Row("a", DIGITS, overrides, 200.0, 1.0, "a paper", size="ci", seeds=2)
    assert reproduce.main([*base, "--rows", "a", "--check"]) == 1
    assert "is outside 200 +- 1" in capsys.readouterr().err
    for wrong in ("--shard=2/2", "--shard=x", "--seeds=0", "--workdir=/proc/x", "--results=/proc/x/results.csv"):
        with pytest.raises(UserError):
            reproduce.main([*base, wrong])


@pytest.mark.parametrize("name", study.names())
def test_every_study(name):
    """Its rows can be made; what is committed is of this code, what the README says, and explained where it is off."""
    found = study.load(name)
    for row in found.rows:
        if not row.of:
            assert row.resolved()["model.name"] and len(row.code_hash()) == 8
            assert all(value >= 0 for value in (row.tolerance, row.minutes))
    results = Results(found.folder / "results.csv")
    lines = [verdicts.line(found, row, results) for row in found.rows]
    readme = (found.folder / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(reproduce.MARKS[0])
    written, _, after = rest.partition(reproduce.MARKS[1])
    for line in lines:
        assert not line.why, f"{line.row.name} is stale"
        assert line.inside or f"`{line.row.name}`" in before + after, f"{line.row.name} is off, and no word says why"
    text = verdicts.table(found, lines, verdicts.comparisons(found, results))
    assert written.strip() == text.strip(), f"python -m experiments.reproduce {name} --table"


def test_the_listing_names_every_row():
    text = reproduce.listing()
    for name in study.names():
        assert name in text and all(row.name in text for row in study.load(name).rows)


GOLDEN = (0.460427, 0.252938, 0.364566, 0.28128, 0.462885, 0.35425)  # norm of the gradient, step by step


@pytest.mark.slow
def test_the_trainer_learns_what_it_did_when_results_were_stored():
    """Fails when the trainer changes what a run learns: then raise experiments.study.TRAINER and renew GOLDEN."""
    plan = make_plan(tiny(total_steps=6, optim__lr=0.5))
    state, step, norms = plan.new_state(), plan.train_step(), []
    for now in range(6):
        state, aux = step(state, plan.place(plan.batches[now]))
        norms.append(float(jax.block_until_ready(aux["grad_norm"])))
    np.testing.assert_allclose(norms, GOLDEN, rtol=1e-2)


def test_config_paths_are_of_the_checkout():
    for name in study.names():
        for row in study.load(name).rows:
            assert row.of or (ROOT / row.config.partition(":")[0]).is_file()
