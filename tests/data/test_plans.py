"""`cnn data plan`: what is derived from the data, and that the config it writes trains."""

import math

import numpy as np
import pytest

from cnn import cli, flags
from cnn.data.tools import plans, verbs
from cnn.data.volumes_folder import VolumesFolder
from cnn.errors import UserError
from tests.support import volumes


def planned(root, memory_gb=8.0, base=8, dtype="float32"):
    provider = VolumesFolder(str(root))
    provider.prepare()
    return plans.make(provider, memory_gb, base, dtype)


def test_an_isotropic_volume_is_halved_evenly():
    strides, kernels = plans.levels((64, 64, 64), (1.0, 1.0, 1.0))
    assert strides == ((2, 2, 2),) * 4 and kernels == ((3, 3, 3),) * 5
    assert plans.total_stride(strides) == (16, 16, 16)
    assert plans.levels((4096, 16, 16), (1, 1, 1))[0][:3] == ((2, 2, 2), (2, 2, 2), (2, 1, 1))
    assert len(plans.levels((4096,) * 3, (1,) * 3)[1]) == plans.MAX_LEVELS


def test_thick_slices_wait_until_pixels_are_as_coarse():
    strides, kernels = plans.levels((16, 128, 128), (4.0, 1.0, 1.0))
    assert strides[:3] == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert plans.total_stride(strides)[0] <= 16 // plans.LEAST


def test_a_tiny_volume_still_has_two_levels():
    strides, kernels = plans.levels((5, 5, 3), (1.0, 1.0, 1.0))
    assert strides == ((2, 2, 1),) and len(kernels) == 2


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5, 4.0])
@pytest.mark.parametrize(("shape", "spacing"), [((60, 200, 180), (3.0, 1.0, 1.0)), ((150, 150, 150), (1.0, 1.0, 1.0))])
def test_a_patch_fits_divides_and_is_nearly_a_cube(shape, spacing, limit):
    patch = plans.fitted_patch(shape, spacing, 8, 3, limit * plans.GIB, 4)
    strides, kernels = plans.levels(patch, spacing)
    needed = plans.memory(patch, strides, plans.widths_of(len(kernels), 8), 3, 2, 4)
    assert needed <= limit * plans.GIB
    assert all(n % step == 0 for n, step in zip(patch, plans.total_stride(strides), strict=True))
    assert all(n <= have for n, have in zip(patch, shape, strict=True))
    whole = all(n + step > have for n, have, step in zip(patch, shape, plans.total_stride(strides), strict=True))
    if not whole:  # the memory is used, and the window is no slab
        assert needed > 0.3 * limit * plans.GIB
        sides = [n * mm for n, mm in zip(patch, spacing, strict=True)]
        assert max(sides) < 2.1 * min(sides)


def test_more_memory_or_smaller_numbers_never_give_less():
    sizes = [
        math.prod(plans.fitted_patch((150,) * 3, (1.0,) * 3, 16, 3, gib * plans.GIB, size))
        for gib, size in ((0.1, 4), (0.1, 2), (1, 4), (1, 2), (10, 4))
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    with pytest.raises(UserError, match="no window of 8 voxels or more fits into 0.0001 GiB"):
        plans.fitted_patch((150,) * 3, (1.0,) * 3, 16, 3, 0.0001 * plans.GIB, 4)


def test_the_plan_of_a_folder(tmp_path):
    root = volumes.folder(tmp_path / "mine", count=5, shape=(20, 18, 12), spacing=(1.0, 1.0, 2.5))
    volume, mask = volumes.blob(9, (40, 36, 12))
    for folder, voxels in (("imagesTr", volume), ("labelsTr", mask)):
        volumes.save(root / folder / "case_0.nii.gz", voxels, (0.5, 0.5, 5.0))
    found = planned(root)
    assert found.spacing == (2.5, 1.0, 1.0) and found.held_out
    assert found.patch == (12, 16, 20) and found.window[0] >= 24  # case 0 is 24 voxels deep at 2.5 mm
    assert found.batch == 2 and found.memory < 8 * plans.GIB
    assert found.intensity["modality"] == "ct"
    source = VolumesFolder(str(root))
    source.prepare()
    train = source.source("train")
    values = np.concatenate([train[i]["volume"][..., 0][train[i]["mask"] > 0] for i in range(len(train))])
    low, high = np.percentile(values, (0.5, 99.5))
    assert found.intensity["clip"] == pytest.approx((low, high), abs=0.06)
    assert found.intensity["mean"] == pytest.approx(np.clip(values, low, high).mean(), abs=0.01)
    text = " ".join(found.reasons)
    span = "median along each axis (from 2.5 x 0.5 x 0.5 to 5 x 1 x 1)"
    for word in (span, "whole median volume", "anisotropic", "CT is absolute"):
        assert word in text, text
    small = planned(root, memory_gb=0.005)
    assert math.prod(small.patch) < math.prod(found.patch) and "as much as fits" in " ".join(small.reasons)
    window, why = plans._window(np.array([300, 200, 200]), ((2, 2, 2),), (8, 16), 0.2 * plans.GIB, 4)
    assert max(window) < 200 and "by tiles" in why
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace('"CT"', '"MRI"'))
    assert planned(root).intensity == {"modality": "mr"}


def test_the_config_that_is_written_trains(tmp_path, capsys):
    """The verb's own words: its last line is a command; here with fewer steps and a smaller network."""
    root = volumes.folder(tmp_path / "my volumes", count=4)
    out = tmp_path / "made" / "mine.py"
    options = [f"--out={out}", "--width=4", "--memory_gb=0.02", "--steps=30"]
    assert verbs.main(["plan", str(root), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"{out}: cnn train --config={out} --workdir=runs/my_volumes"
    config = flags.load_config(str(out), {})
    assert config.total_steps == 30 and config.eval.split == "validation" and config.model.widths[0] == 4
    for line in printed.splitlines()[:-1]:
        assert line in out.read_text()
    argv = [f"--config={out}", f"--workdir={tmp_path / 'run'}", "--config.total_steps=4", "--config.mesh.devices=1"]
    assert cli.main(["train", *argv]) == 0, capsys.readouterr().err
    assert "test (1 examples)" in capsys.readouterr().out


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="does not exist; it names the labels"):
        verbs.main(["plan", str(tmp_path)])
    root = volumes.folder(tmp_path / "mine", count=1)
    with pytest.raises(UserError, match="Did you mean 'float32'"):
        verbs.main(["plan", str(root), "--dtype=float31"])
    with pytest.raises(UserError, match="must be above 0"):
        verbs.main(["plan", str(root), "--memory_gb=0"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        verbs.main(["plan", str(root), f"--out={tmp_path / 'file' / 'x.py'}"])
    assert planned(root).held_out is False
