"""One config on 1x1, 1x4, 2x2 and 4x1 (processes x devices): the same data, losses, evaluations and checkpoints."""

import argparse
import json
import sys

import jax
import numpy as np
import pytest

from cnn import distributed, tree
from cnn.errors import UserError
from cnn.plan import make_plan
from cnn.run import checkpoint
from tests.support.hosts import Hosts
from tests.support.runs import tiny

TOLERANCE, STEPS = 1e-6, 20
LAYOUTS = [(1, 1), (1, 4), (2, 2), pytest.param((4, 1), marks=pytest.mark.exhaustive)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs((processes, devices))`: the run on this layout, which has ended; once per layout."""
    found = {}

    def run(layout):
        if layout not in found:
            folder = tmp_path_factory.mktemp("x".join(map(str, layout)))
            program = (sys.executable, "-m", "tests.support.journal", str(folder))
            found[layout] = Hosts(folder, *layout, program=program)
            assert found[layout].ended() == 0, found[layout].said
        return found[layout]

    return run


def fed(run, processes):
    """Rows of the data set, step by step, all processes' blocks side by side."""
    files = [run.folder / f"rows_{i}.jsonl" for i in range(processes)]
    steps = [[json.loads(line) for line in file.read_text().splitlines()][:STEPS] for file in files]
    return [sum(rows, []) for rows in zip(*steps, strict=True)]


def losses(run, process):
    """As this process saw them."""
    lines = (run.folder / f"losses_{process}.jsonl").read_text().splitlines()
    return [float(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_the_layout_changes_nothing(runs, layout):
    one, other = runs((1, 1)), runs(layout)
    assert len(fed(one, 1)) == STEPS and fed(other, layout[0]) == fed(one, 1)
    want = losses(one, 0)
    assert len(want) == STEPS
    for process in range(layout[0]):
        np.testing.assert_allclose(losses(other, process), want, rtol=0, atol=TOLERANCE)
    lines, wanted = ([line for line in run.logged() if "eval/loss" in line] for run in (other, one))
    assert [line["step"] for line in lines] == [line["step"] for line in wanted] == [10, 20]
    for line, want in zip(lines, wanted, strict=True):
        assert line["eval/accuracy"] == want["eval/accuracy"] and line["eval/top5"] == want["eval/top5"]
        assert abs(line["eval/loss"] - want["eval/loss"]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_one_process_writes_and_all_have_one_checkpoint(runs, layout):
    run = runs(layout)
    meta = json.loads((run.workdir / "summary.json").read_text())
    assert meta["steps"] == STEPS and meta["environment"]["processes"] == layout[0]
    assert run.said.count("summary, pictures and report.html") == 1
    assert run.steps()[-1] == STEPS
    found, wanted = loaded(run, 1), loaded(runs((1, 1)), 1)
    for name, want in wanted.items():
        gap = np.abs(found[name].astype(np.float64) - want).max(initial=0)
        assert gap <= 2 * TOLERANCE, (name, gap)


def loaded(run, devices):
    """The last checkpoint on so many devices of this process."""
    plan = make_plan(tiny(mesh__devices=devices))
    kept = checkpoint.Checkpoints(run.workdir / "checkpoints")
    state, meta = kept.restore(plan.abstract)
    kept.close()
    assert meta["position"] == STEPS * plan.config.input.batch_size
    return tree.flatten(jax.device_get(state))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_any_layout_saved_every_device_count_loads(runs, layout):
    arrays = [loaded(runs(layout), devices) for devices in (1, 2, 4, 8)]
    for other in arrays[1:]:
        assert all(np.array_equal(other[name], arrays[0][name]) for name in arrays[0])
    as_numpy = checkpoint.load_arrays(checkpoint.find(str(runs(layout).workdir), "last"))
    assert all(isinstance(x, np.ndarray) and np.array_equal(x, arrays[0][name]) for name, x in as_numpy.items())
    assert as_numpy.keys() == arrays[0].keys()


@pytest.mark.slow
def test_two_processes_go_on_from_what_one_saved_and_back(tmp_path):
    start = Hosts(tmp_path, 1, 1, training=("--config.total_steps=6",))
    assert start.ended() == 0, start.said
    for processes, devices, total in ((2, 2, 9), (1, 8, 12)):
        folder = tmp_path / f"{processes}"
        folder.mkdir()
        (tmp_path / "run" if processes == 2 else tmp_path / "2" / "run").rename(folder / "run")
        (folder / "run" / "config.json").unlink()  # another length is another run
        run = Hosts(folder, processes, devices, training=(f"--config.total_steps={total}",))
        assert run.ended() == 0, run.said
        assert f"resume at step {total - 3} of {total}" in run.said and run.steps()[-1] == total


def arguments(*words):
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    return parser.parse_args(words)


PLACES = {  # name: (flags, environment, what JAX is told)
    "alone": ((), {}, None),
    "flags": (
        ("--coordinator=host:1", "--processes=4", "--process=3"),
        {},
        {"coordinator_address": "host:1", "num_processes": 4, "process_id": 3},
    ),
    "environment": (
        (),
        {"CNN_COORDINATOR": "host:1", "CNN_PROCESSES": "2", "CNN_PROCESS": "0"},
        {"coordinator_address": "host:1", "num_processes": 2, "process_id": 0},
    ),
    "a Job of Kubernetes": (
        (),
        {"JAX_COORDINATOR_ADDRESS": "job-0:1", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"},
        {"coordinator_address": "job-0:1", "num_processes": 2, "process_id": 1},
    ),
    "a cluster that JAX asks": ((), {"CNN_DISTRIBUTED": "1", "SLURM_JOB_ID": "1"}, {}),
    "one process": (("--coordinator=host:1", "--processes=1", "--process=0"), {}, None),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_process_finds_its_place(name):
    words, environment, wanted = PLACES[name]
    assert distributed.place(arguments(*words), environment) == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--processes=2", "--process=0"), "need --coordinator"),
        (("--coordinator=host:1",), "needs --processes and --process"),
        (("--coordinator=host", "--processes=2", "--process=0"), "is not HOST:PORT"),
        (("--coordinator=host:1", "--processes=2", "--process=2"), "process 2 of 2"),
    ],
)
def test_half_a_place_is_one_line(words, said):
    with pytest.raises(UserError, match=said) as error:
        distributed.place(arguments(*words), {})
    assert "\n" not in str(error.value)
