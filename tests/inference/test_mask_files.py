"""A network for pixels, from files to files: trained on a folder of masks, predicting masks whole and in tiles."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cnn import cli
from cnn.card import make_card, spec_of
from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo, Feature
from cnn.inference.predictor import load
from cnn.inference.preprocess import Preprocess
from cnn.inference.readers import Raw
from cnn.inference.tiles import Tiling
from cnn.tasks import build_task
from tests.support.runs import tiny


@pytest.fixture(scope="module")
def run(trained):
    """(workdir, pictures): a U-Net that has learned to find what is light, in a few steps."""
    folder = trained("masks")
    return folder / "run", folder / "data"


def test_the_run_is_scored_beside_otsu(run):
    summary = json.loads((run[0] / "summary.json").read_text())
    assert summary["test"]["miou"] > 0.9 and summary["test"]["boundary_f"] > 0.8
    assert {"majority", "per_position", "otsu"} == set(summary["baselines"])
    assert summary["baselines"]["otsu"]["dice"] > 0.9 > summary["baselines"]["majority"]["dice"]
    assert {"figures/examples.png", "figures/per_class.png"} <= set(summary["figures"])


@pytest.fixture
def picture(tmp_path):
    """A larger picture, and its truth."""
    light = np.zeros((70, 90), np.uint8)
    light[10:40, 20:70] = 1
    pixels = np.clip(np.random.default_rng(1).normal(50 + 150 * light[..., None], 8, (70, 90, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "large.png")
    return tmp_path / "large.png", light


@pytest.mark.parametrize("extra", [(), ("--tile=32",), ("--tile=200", "--overlap=0.25")])
def test_masks_are_written_in_the_picture_s_size(run, picture, tmp_path, capfd, extra):
    path, light = picture
    argv = ["predict", f"--workdir={run[0]}", str(path), "--json", f"--masks={tmp_path / 'said'}", *extra]
    assert cli.main(argv) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out)
    assert found["mask"] == str(tmp_path / "said" / "large.png")
    mask = Image.open(found["mask"])
    assert mask.mode == "P" and mask.size == (90, 70)
    assert (np.asarray(mask) == light).mean() > (0.97 if extra else 0.9)  # without tiles it was squeezed to 32x32
    assert found["areas"]["foreground"] == pytest.approx(light.mean(), abs=0.05)


def test_tiles_are_the_whole_within_the_receptive_field(run, picture):
    predictor = load(str(run[0]))
    image = predictor.raw(str(picture[0]))
    whole = predictor.tiled(image, Tiling(image.shape[:2], multiple=predictor.stride))
    found = predictor.tiled(image, Tiling((48, 48), margin=16, multiple=predictor.stride), batch_size=3)
    np.testing.assert_array_equal(found, whole)


def test_two_pictures_of_one_name(run, picture, tmp_path, capfd):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "large.png").write_bytes(picture[0].read_bytes())
    (tmp_path / "bad.png").write_bytes(b"nothing")
    argv = ["predict", f"--workdir={run[0]}", f"{tmp_path}/**/*.png", f"--masks={tmp_path / 'said'}"]
    assert cli.main(argv) == 1
    out, err = capfd.readouterr()
    assert "bad.png: not an image" in out and err == "1 of 3 inputs could not be predicted\n"
    assert sorted(path.name for path in (tmp_path / "said").iterdir()) == ["large-2.png", "large.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tile=-3"], "must not be negative"),
        (["--masks={0}/x", "--tile=32", "--overlap=1"], "overlap must be in"),
        (["--masks={0}/x", "--tile=1"], "too small for a margin"),
    ],
)
def test_mistakes(run, picture, tmp_path, capfd, flags, said):
    argv = ["predict", f"--workdir={run[0]}", str(picture[0]), *(flag.format(tmp_path) for flag in flags)]
    assert cli.main(argv) == 2
    assert said in "".join(capfd.readouterr())


def test_inputs_of_another_kind(run):
    with pytest.raises(UserError, match="shape .9, 9., but this network takes"):
        load(str(run[0])).tiled(np.zeros((9, 9), np.uint8), Tiling((8, 8)))


@pytest.mark.parametrize(
    ("transforms", "seen"),
    [
        ((("resize", {"size": 16}),), None),
        ((("resize_short", {"size": 20}), ("center_crop", {"size": 20})), 0.5),
    ],
)
def test_predictions_are_about_the_raw_picture(tmp_path, transforms, seen):
    """Sizes and shares are those of the file; what a crop cut off has no class."""
    info = DatasetInfo("mine", {"image": Feature.image()}, {"mask": Feature.mask(None, None)}, ("sky", "sea"))
    card = make_card(tiny(input__eval_transforms=transforms), info, spec_of(info))
    task = build_task("segmentation", info, (), ())
    example, frame = Preprocess.from_card(card)(Raw({"image": np.zeros((40, 80, 3), np.uint8)}, "dir/x.png"))
    size = example["image"].shape[0]
    mask = np.zeros((size, size), np.uint8)
    mask[: size // 4] = 1
    frame = dataclasses.replace(frame, stem="x")
    found = task.describe({"mask": mask}, frame) | task.write({"mask": mask}, frame, str(tmp_path))
    wanted = {"shape": [40, 80], "areas": {"sky": 0.75, "sea": 0.25}, "mask": str(tmp_path / "x.png")}
    assert found == wanted | ({"seen": seen} if seen else {})
    written = np.asarray(Image.open(tmp_path / "x.png"))
    assert written.shape == (40, 80) and (written[:10, 20:60] == 1).all() and (written[10:, 20:60] == 0).all()
    assert (written[:, :20] == (IGNORE if seen else written[:, 20:21])).all()
