"""Fine-tuning: from a run, a checkpoint folder and a .npz; what was loaded, skipped and left fresh."""

import jax
import numpy as np
import pytest

from cnn import tree
from cnn.finetune import load_into
from cnn.plan import make_plan
from cnn.run import checkpoint
from cnn.train import train
from tests.support.runs import tiny


def weights(folder):
    return checkpoint.load_variables(checkpoint.find(str(folder)))[0]


@pytest.fixture(scope="module")
def run(trained):
    """A finished run and the weights to predict with."""
    folder = trained("digits") / "run"
    return folder, {name: np.asarray(x) for name, x in tree.flatten(weights(folder)).items()}


def fresh(**changes):
    """Untrained variables of the network of `tiny`."""
    state = make_plan(tiny(seed=11, **changes)).new_state()
    return {"params": state.params, "batch_stats": state.batch_stats}


@pytest.mark.parametrize("form", ["run", "checkpoint", "npz"])
def test_every_form_loads_everything_that_fits(run, form, tmp_path):
    folder, wanted = run
    np.savez(tmp_path / "x.npz", **wanted)
    path = {"run": folder, "checkpoint": folder / "checkpoints" / "6", "npz": tmp_path / "x.npz"}[form]
    said = []
    before = fresh()
    found = load_into(before, str(path), said.append)
    assert said == [f"fine-tune from {path}: loaded {len(wanted)} tensors, skipped 0, fresh 0"]
    assert tree.names(found) == tree.names(before)
    for name, value in tree.flatten(found).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
        assert value.sharding == tree.flatten(before)[name].sharding


def test_another_head_stays_fresh_and_is_reported(run):
    folder, wanted = run
    before = fresh()
    before["params"]["head"] = jax.tree.map(lambda x: x[..., :3], before["params"]["head"])
    said = []
    found = tree.flatten(load_into(before, str(folder), said.append))
    for name, value in found.items():
        same_as = tree.flatten(before) if "head" in name else wanted
        np.testing.assert_array_equal(value, same_as[name])
    assert f"loaded {len(wanted) - 2} tensors, skipped 2, fresh 2" in said[0]
    assert said[1] == "  skipped: params/head/bias, params/head/kernel"
    assert said[2] == "  fresh: params/head/bias (3,) (there (10,)), params/head/kernel (8, 3) (there (8, 10))"


def test_names_of_an_npz_may_leave_out_the_collection(tmp_path):
    before = fresh()
    kernel = np.full(before["params"]["head"]["kernel"].shape, 0.5, np.float64)
    np.savez(tmp_path / "x.npz", **{"head/kernel": kernel, "other": np.ones(2)})
    said = []
    found = load_into(before, str(tmp_path / "x.npz"), said.append)
    head = found["params"]["head"]["kernel"]
    assert head.dtype == np.float32 and (np.asarray(head) == 0.5).all()
    assert "loaded 1 tensors, skipped 1" in said[0] and said[1] == "  skipped: params/other"
    assert said[2].endswith(", ...")


def test_a_run_starts_from_the_loaded_weights(run, tmp_path, capfd):
    folder, wanted = run
    config = tiny(total_steps=1, init_from=str(folder), optim__lr=1e-9, schedule__warmup_steps=0)
    config.unlock()
    config.optim.weight_decay = 0.0
    assert train(config, str(tmp_path / "run")) == 0
    assert f"fine-tune from {folder}: loaded" in capfd.readouterr().out
    found = tree.flatten(weights(tmp_path / "run")["params"])
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[f"params/{name}"], atol=1e-6, err_msg=name)
    # The same command resumes; it does not load again.
    assert train(config, str(tmp_path / "run")) == 0
    assert "fine-tune from" not in capfd.readouterr().out
