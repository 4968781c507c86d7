"""`deterministic=invariant`: parameters and statistics have the same sha256 on 1, 2, 4 and 8 devices."""

import hashlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import tree
from cnn.errors import UserError
from cnn.native import onednn
from cnn.plan import make_plan
from cnn.process import follow
from tests.support.runs import tiny

STEPS = 100


def cnn(**changes):
    """Convolutions, BatchNorm, dropout, mixup, crops."""
    return tiny(deterministic="invariant", total_steps=STEPS, eval__split="", **changes)


def unet(**changes):
    c = cnn(**changes)
    with c.unlocked():
        c.model = ConfigDict({"name": "unet", "widths": (4, 8)})
        c.task = ConfigDict({"name": "segmentation", "loss": "ce"})  # why not Dice: cnn/invariant.py
        c.input.dataset, c.input.mean, c.input.std = "nuclei2d", (), ()
        c.input.train_transforms = (("random_crop", {"size": 16}),)
        c.eval.metric = "dice"
    return c


def tcn(**changes):
    c = cnn(**changes)
    with c.unlocked():
        c.model = ConfigDict({"name": "tcn", "width": 6, "levels": 2, "window": 3})
        c.task = ConfigDict({"name": "regression"})
        c.input.dataset, c.input.mean, c.input.std = "adding_t200", (), ()
        c.input.train_transforms = ()
        c.eval.metric, c.eval.mode = "mse", "min"
    return c


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    monkeypatch.setattr(onednn, "_threads", onednn._threads)


def trained(settings, steps):
    """({name: parameter or statistic}, losses) after that many steps."""
    follow(settings)
    plan = make_plan(settings)
    update, state, losses = plan.train_step(), plan.new_state(), []
    for step in range(steps):
        state, aux = jax.block_until_ready(update(state, plan.place(plan.batches[step])))
        losses.append(float(aux["loss"]))
    return tree.flatten(jax.device_get({"params": state.params, "stats": state.batch_stats})), losses


def fingerprint(settings):
    """(sha256 of parameters and statistics, last loss) after training."""
    arrays, losses = trained(settings, STEPS)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest(), losses[-1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [cnn, unet, tcn])
def test_bits_do_not_depend_on_the_device_count(make):
    found = {devices: fingerprint(make(mesh__devices=devices)) for devices in (1, 2, 4, 8)}
    assert np.isfinite(found[1][1])
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_it_is_the_ordinary_step_with_batch_norm_in_groups():
    """Two rows a shard; what is drawn per shard here and per batch there is left out."""
    changes = {"task__mixup_alpha": 0.0, "model__dropout": 0.0}
    found, losses = trained(cnn(mesh__devices=2, **changes), 5)
    ordinary = cnn(mesh__devices=2, **changes)
    with ordinary.unlocked():
        ordinary.deterministic, ordinary.model.bn = "", "group:2"
    wanted, wanted_losses = trained(ordinary, 5)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    for name in [name for name in wanted if name.startswith("params/")]:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh__devices": 8, "mesh__virtual_shards": 4}, "must be a multiple of the 8 device"),
        ({"mesh__virtual_shards": 12, "mesh__devices": 4}, "input.batch_size 16 must be a multiple of"),
        ({"mesh__fsdp": ".*"}, "takes no mesh.fsdp"),
        ({"optim__accumulate_steps": 2}, "takes no optim.accumulate_steps"),
        ({"deterministic": "bits"}, "deterministic"),
    ],
)
def test_what_it_does_not_take_is_one_line(changes, said):
    with pytest.raises(UserError, match=said):
        make_plan(tiny(**{"deterministic": "invariant"} | changes))
