"""The mesh: its axes and order, what each process reads, and training over `space`."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import config, tree
from cnn.errors import UserError
from cnn.mesh import batch_sharding, data_parallel_size, make_mesh, process_share
from cnn.plan import make_plan
from tests.support.runs import tiny

STEPS, TOLERANCE = 3, 1e-5


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `make_mesh` reads of a device."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "tpu"


def chips(slices, processes, each):
    """Chips of several slices, in an order that says nothing."""
    found = [
        Chip(p * each + i, p, p * slices // processes) for p in range(processes) for i in range(each)
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def mesh_of(**changes):
    return ConfigDict({**config.default().mesh.to_dict(), **changes})


def test_the_slow_axis_is_outermost_and_rows_stay_in_their_process():
    mesh = make_mesh(mesh_of(num_slices=2, space=2), chips(2, 4, 4))
    assert dict(mesh.shape) == {"data": 8, "space": 2} and data_parallel_size(mesh) == 8
    owners = [[(chip.slice_index, chip.process_index) for chip in row] for row in mesh.devices]
    assert owners == [[(p // 2, p)] * 2 for p in range(4) for _ in range(2)]


@pytest.mark.parametrize(
    ("space", "processes", "each", "shares"),
    [
        (1, 4, 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (2, 2, 4, [(0, 2), (1, 2)]),
        (4, 2, 2, [(0, 1), (0, 1)]),  # one image over both
        (4, 4, 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_each_process_reads_the_block_of_its_devices(monkeypatch, space, processes, each, shares):
    mesh = make_mesh(mesh_of(space=space), chips(1, processes, each))
    found = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(process_share(mesh))
    assert found == shares


@pytest.mark.parametrize(
    ("changes", "devices", "said"),
    [
        ({"devices": 99}, chips(1, 1, 8), "mesh.devices is 99, but this machine has 8"),
        ({"devices": 4}, chips(1, 2, 4), "2 processes take part with 8"),
        ({"space": 3}, chips(1, 1, 8), "mesh.space 3 x mesh.num_slices 1 does not divide 8"),
        ({"num_slices": 4}, chips(2, 2, 4), "in 2 slice"),
        ({"space": 3}, chips(1, 3, 2), "mesh.space 3 and the 2 device.s. of a process"),
    ],
)
def test_what_cannot_be_is_one_line(changes, devices, said):
    with pytest.raises(UserError, match=said) as error:
        process_share(make_mesh(mesh_of(**changes), devices))
    assert "\n" not in str(error.value)


def test_only_spatial_axes_are_split():
    mesh = make_mesh(mesh_of(space=2))
    cases = (
        ((8,), "", False),
        ((8, 10), "n", False),
        ((8, 6, 6, 3), "h w c", True),
        ((8, 5, 6, 3), "h w c", False),  # 2 does not divide 5
        ((8, 4, 6, 6, 1), "d h w c", True),
        ((8, 6, 6), "h w", True),
        ((8, 100, 4), "n c", False),  # boxes
        ((8, 40, 2), "t c", False),
        ((8, 6, 6, 3), "", False),  # nobody says what the axes are
    )
    for shape, axes, split in cases:
        wanted = ("data", "space") if split else ("data",)
        assert tuple(batch_sharding(mesh, shape, axes).spec) == wanted, (shape, axes)


def volumes(**changes):
    """A 3-D U-Net on made-up volumes."""
    c = tiny(total_steps=STEPS, input__batch_size=4, eval__split="")
    with c.unlocked():
        c.model = ConfigDict({"name": "unet3d", "widths": (4, 8)})
        c.task = ConfigDict({"name": "segmentation", "loss": "ce+dice"})
        c.input.dataset, c.input.mean, c.input.std = "nuclei3d", (), ()
        c.input.train_transforms = (("volume_patch", {"size": (8, 8, 8), "foreground": 0.0}),)
        c.eval.metric = "dice"
        for name, value in changes.items():
            c.mesh[name] = value
    return c


def images(**changes):
    return tiny(total_steps=STEPS, **{f"mesh__{name}": value for name, value in changes.items()})


def trained(settings):
    plan = make_plan(settings)
    update, state, losses = plan.train_step(), plan.new_state(), []
    for step in range(STEPS):
        state, aux = jax.block_until_ready(update(state, plan.place(plan.batches[step])))
        losses.append(float(aux["loss"]))
    return losses, tree.flatten(jax.device_get(state.variables())), plan


@pytest.mark.slow
@pytest.mark.parametrize("make", [images, volumes])
def test_training_over_space_equals_one_device(make):
    losses, want, _ = trained(make(devices=1))
    for devices, space in ((4, 2), (4, 4)):
        found, arrays, plan = trained(make(devices=devices, space=space))
        assert data_parallel_size(plan.built.mesh) == devices // space
        np.testing.assert_allclose(found, losses, atol=TOLERANCE)
        for name, array in want.items():
            np.testing.assert_allclose(arrays[name], array, rtol=0, atol=TOLERANCE, err_msg=name)
