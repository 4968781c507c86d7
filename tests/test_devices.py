"""One config on 1, 2 and 8 simulated devices: the same data, the same randomness, nearly the same numbers."""

import signal

import jax
import numpy as np
import pytest

from cnn import train, tree
from cnn.errors import UserError
from cnn.plan import Plan, make_plan
from tests.support.runs import Killable, tiny

STEPS, TOLERANCE = 20, 1e-6
INTERRUPTED = 75
EVERYTHING = ".*"


def settings(**changes):
    """20 steps at a rate at which rounding is not amplified: the networks stay comparable."""
    return tiny(**{"total_steps": STEPS, "mesh__devices": 0, "eval__every_steps": 10, "optim__lr": 0.02} | changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    server = Killable(tmp_path_factory.mktemp("runs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def on_one_device(runs, tmp_path_factory):
    """The workdir of the run that all others are compared with."""
    workdir = tmp_path_factory.mktemp("one")
    assert runs.run(settings(), workdir) == 0, runs.log(workdir)
    return workdir


def compare(runs, workdir, reference):
    """Order and augmentation equal, every float within TOLERANCE, every integer equal."""
    lines = [[line for line in runs.journal(w) if line["step"] < STEPS] for w in (workdir, reference)]
    assert lines[0] == lines[1], "the examples, their order or their augmentation differ"
    found, wanted = runs.arrays(workdir), runs.arrays(reference)
    assert found.keys() == wanted.keys()
    distances = {
        name: float(np.abs(found[name].astype(np.float64) - wanted[name]).max(initial=0)) for name in wanted
    }
    far = {name: d for name, d in distances.items() if d > (TOLERANCE if wanted[name].dtype.kind == "f" else 0)}
    assert not far, f"further apart than {TOLERANCE}: {far}\n{runs.log(workdir)}"


PARTS = {
    "8": [(8, "")],
    "1 then 8 then 2": [(1, ""), (8, ""), (2, "")],
    "sharded on 8": [(8, EVERYTHING)],
    "sharded on 8, then 1, then sharded on 2": [(8, EVERYTHING), (1, ""), (2, EVERYTHING)],
}


@pytest.mark.slow
@pytest.mark.parametrize("parts", PARTS)
def test_device_count_may_change_between_parts_of_a_run(runs, on_one_device, tmp_path, parts):
    workdir = tmp_path / parts.replace(" ", "_")
    stop = {"at": "after_step", "n": 7, "signal": signal.SIGTERM}  # saves; the next part goes on
    for i, (devices, fsdp) in enumerate(PARTS[parts]):
        last = i == len(PARTS[parts]) - 1
        status = runs.run(settings(mesh__fsdp=fsdp), workdir, None if last else stop, devices)
        assert status == (0 if last else INTERRUPTED), runs.log(workdir)
        assert f"on {devices} cpu device(s)" in runs.log(workdir)
    compare(runs, workdir, on_one_device)


@pytest.mark.parametrize("fsdp", ["", EVERYTHING, "params/.*kernel"])
def test_what_the_rule_names_is_sharded_and_nothing_else(fsdp):
    plan = make_plan(settings(mesh__fsdp=fsdp))
    names = {name for name, x in tree.flatten(plan.abstract).items() if not x.sharding.is_fully_replicated}
    split = {name for name, x in tree.flatten(plan.abstract).items() if any(n % 8 == 0 for n in x.shape)}
    wanted = {"": set(), EVERYTHING: split, "params/.*kernel": {n for n in split if "kernel" in n and "params/" in n}}
    if fsdp == "params/.*kernel":  # moments and averages follow their parameter by its path
        assert {n for n in names if n.startswith("params/")} == {n for n in wanted[fsdp] if n.startswith("params/")}
        assert all(n.endswith("kernel") for n in names)
    else:
        assert names == wanted[fsdp]


@pytest.mark.slow
def test_steps_are_awaited_on_simulated_devices(tmp_path, monkeypatch):
    """XLA:CPU deadlocks when steps with collectives of several devices are in flight."""
    make, unready = Plan.train_step, []

    def train_step(self):
        step = make(self)

        def noted(state, batch):
            unready.extend(not x.is_ready() for x in jax.tree.leaves(state))
            return step(state, batch)

        return noted

    monkeypatch.setattr(Plan, "train_step", train_step)
    config = settings(total_steps=6, mesh__devices=8, eval__split="", checkpoint__every_steps=100)
    assert train.train(config, str(tmp_path)) == 0
    assert unready and not any(unready)


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(UserError, match="mesh.devices is 99, but this machine has 8 cpu device"):
        train.train(settings(mesh__devices=99), str(tmp_path))


def test_batch_must_divide_over_the_devices(tmp_path):
    with pytest.raises(UserError, match="input.batch_size 12 must be a multiple of 8"):
        train.train(settings(mesh__devices=8, input__batch_size=12), str(tmp_path))
