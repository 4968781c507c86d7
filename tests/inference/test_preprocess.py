"""Preprocessing by the card alone: what it does, what it refuses, and the way back to the raw input."""

import numpy as np
import pytest

from cnn.card import make_card, spec_of
from cnn.errors import UserError
from cnn.features import IGNORE, LABEL, SPACING, DatasetInfo, Feature
from cnn.inference.preprocess import Preprocess
from cnn.inference.readers import Raw
from cnn.transforms.series import filled, resampled
from tests.support.runs import tiny
from tests.test_architecture import IMPORT_ALL_WITHOUT, run_python

RNG = np.random.default_rng(0)
OPEN_IMAGE = Feature.image(None, None, 3)


def made(feature, transforms=(), *, kind="", train=(), preparation=(), whole=False):
    """Preprocess of a card as training writes it."""
    kind = kind or {"h w c": "image", "d h w c": "volume", "t c": "series"}[feature.axes]
    inputs = {kind: feature} | ({"spacing": SPACING} if kind == "volume" else {})
    info = DatasetInfo("mine", inputs, {"label": LABEL}, ("a", "b"), preparation=preparation)
    config = tiny(input__eval_transforms=transforms, input__train_transforms=train)
    return Preprocess.from_card(make_card(config, info, spec_of(info)), whole=whole)


def image(height, width, channels=3):
    return Raw({"image": RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)}, "x.png")


def test_nothing_heavy_is_imported():
    heavy = ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "matplotlib", "tensorflow_datasets", "nibabel")
    modules = ["cnn.inference.preprocess", "cnn.inference.readers", "cnn.inference.inputs"]
    strangers = "print([name for name in sys.modules if name.startswith(('cnn.models', 'cnn.tasks', 'cnn.step'))])"
    said = run_python(IMPORT_ALL_WITHOUT.format(blocked=heavy, modules=modules) + strangers)
    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("feature", "transforms", "given", "wanted"),
    [
        (Feature.image(8, 8, 1), (), image(8, 8, 1), (8, 8, 1)),
        (Feature.image(8, 8, 1), (), image(20, 30, 3), (8, 8, 1)),  # all training images had one size
        (Feature.image(8, 8, 3), (), image(20, 30, 4), (8, 8, 3)),
        (Feature.image(8, 8, 3), (("resize_short", {"size": 10}),), image(20, 30), (10, 15, 3)),
        (OPEN_IMAGE, (), image(5, 7, 1), (5, 7, 3)),
        (OPEN_IMAGE, (("resize", {"size": (6, 4)}),), image(5, 7), (6, 4, 3)),
        (OPEN_IMAGE, (("channels", {"count": 1}), ("center_crop", {"size": 4})), image(5, 7), (4, 4, 1)),
        (Feature.image(None, None, None), (), image(5, 7, 1), (5, 7, 3)),
        (Feature.series(9, 2), (), Raw({"series": np.zeros((9, 2), np.int64)}), (9, 2)),
        (Feature.series(9, 1), (), Raw({"series": np.zeros(9)}), (9, 1)),
        (Feature.series(None, 2), (), Raw({"series": np.zeros((5, 2))}), (5, 2)),
        (Feature.volume(None, None, None, 1), (), Raw({"volume": np.zeros((4, 5, 6))}), (4, 5, 6, 1)),
    ],
)
def test_shapes_and_types(feature, transforms, given, wanted):
    example, frame = made(feature, transforms)(given)
    (key,) = given.arrays
    assert example[key].shape == wanted and example[key].dtype == feature.dtype
    assert frame.shape == given.arrays[key].shape[: len(frame.shape)] and frame.path == given.path


def test_a_grey_image_keeps_its_values():
    given = image(8, 8, 1)
    rgb = Raw({"image": np.repeat(given.arrays["image"], 3, -1)})
    np.testing.assert_array_equal(made(Feature.image(8, 8, 1))(rgb)[0]["image"], given.arrays["image"])


@pytest.mark.parametrize(
    ("feature", "given", "said"),
    [
        (OPEN_IMAGE, {"image": np.zeros((4, 4, 3), np.float32)}, "images are uint8 in 0..255, got float32"),
        (OPEN_IMAGE, {"image": np.zeros((4, 4, 5), np.uint8)}, "5 channels is neither grey nor RGB"),
        (OPEN_IMAGE, {"image": np.zeros(4, np.uint8)}, r"shape \(4,\), but this network takes \(None, None, 3\)"),
        (OPEN_IMAGE, {"image": np.zeros((0, 4, 3), np.uint8)}, "holds no values"),
        (OPEN_IMAGE, {}, "lacks image; this network takes image"),
        (Feature.series(9, 1), {"series": np.zeros((8, 1))}, r"shape \(8, 1\), but this network takes \(9, 1\)"),
        (Feature.series(9, 1), {"series": np.full((9, 1), np.nan)}, "series holds values that are not finite"),
        (Feature.series(None, 2), {"series": np.zeros((8, 1))}, "this network takes"),
        (Feature.volume(None, None, None, 2), {"volume": np.zeros((3, 4, 5))}, r"shape \(3, 4, 5, 1\)"),
    ],
)
def test_what_is_refused_is_one_line_that_names_the_input(feature, given, said):
    with pytest.raises(UserError, match=f"^dir/x: .*{said}"):
        made(feature, kind=next(iter(given), "image"))(Raw(given, "dir/x"))


def test_a_crop_of_an_image_that_is_too_small_names_it():
    with pytest.raises(UserError, match="^x.png: center_crop of 9x9 from an image of 4x6"):
        made(OPEN_IMAGE, (("center_crop", {"size": 9}),))(image(4, 6))


def test_series_are_prepared_as_the_data_set_did():
    series = RNG.normal(size=(7, 2))
    series[2:4, 1] = np.nan
    steps = (("fill_gaps", {}), ("resample", {"steps": 12}))
    example, frame = made(Feature.series(12, 2), preparation=steps)(Raw({"series": series}, rate=10.0))
    np.testing.assert_array_equal(example["series"], resampled(filled(series), 12).astype(np.float32))
    np.testing.assert_allclose(frame.times_back(np.array([0.5, 11.5])), [0.05, 0.65])  # the first and the last step


IMAGES = {
    "nothing": ((), False),
    "resize": ((("resize", {"size": (10, 50)}),), False),
    "short": ((("resize_short", {"size": 30}),), False),
    "crop": ((("center_crop", {"size": (12, 20)}),), True),
    "resize and crop": ((("resize_short", {"size": 30}), ("center_crop", {"size": 28})), True),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_way_back_from_an_image(name):
    """A disk that the network would find exactly is found again in the raw image."""
    transforms, cut = IMAGES[name]
    y, x = np.mgrid[:20, :40]
    disk = ((y - 9.5) ** 2 + (x - 20) ** 2 < 30).astype(np.uint8)
    pixels = np.repeat(255 * disk[..., None], 3, -1)
    example, frame = made(OPEN_IMAGE, transforms)(Raw({"image": pixels}))
    found = (example["image"][..., 0] > 127).astype(np.uint8)
    back = frame.mask_back(found)
    assert back.shape == frame.shape == (20, 40)
    assert (back[back != IGNORE] == disk[back != IGNORE]).mean() > 0.95
    assert (IGNORE in back) == cut and back[10, 20] == 1
    points = RNG.uniform(0, 20, (5, 2))
    np.testing.assert_allclose(frame.points_back(frame.map.forward(points)), points, atol=1e-9)
    boxes = np.array([[8.0, 15.0, 12.0, 22.0]])
    there, _ = frame.map.move_boxes(boxes)
    np.testing.assert_allclose(frame.boxes_back(there), boxes, atol=1e-9)
    assert frame.raw().mask_back(disk) is disk


def test_the_way_back_from_a_volume():
    voxels = np.zeros((6, 8, 10, 1), np.float32)
    voxels[2:4, 2:6, 3:8] = 1
    affine = np.diag([3.0, 2.0, 1.0, 1.0])
    given = Raw({"volume": voxels, "spacing": np.array([3, 2, 1], np.float32)}, "x.nii", affine=affine)
    spacing = (("volume_spacing", {"spacing": (1.5, 1.0, 1.0)}),)
    example, frame = made(Feature.volume(None, None, None, 1), spacing)(given)
    assert example["volume"].shape == (12, 16, 10, 1) and frame.spacing == (3, 2, 1)
    mask = frame.mask_back((example["volume"][..., 0] > 0.5).astype(np.uint8))
    np.testing.assert_array_equal(mask, voxels[..., 0])


def test_whole_inputs_for_tiles():
    """What resizes images and what cuts off or pads is left out; voxels keep the spacing of training."""
    example, frame = made(Feature.image(8, 8, 1), whole=True)(image(20, 30))
    assert example["image"].shape == (20, 30, 1)
    assert made(OPEN_IMAGE, (("resize", {"size": 4}),), whole=True)(image(20, 30))[0]["image"].shape == (20, 30, 3)
    transforms = (("volume_spacing", {"spacing": 2.0}), ("volume_fit", {"size": 4}))
    train = (("volume_patch", {"size": (4, 6, 8)}),)
    given = Raw({"volume": np.zeros((6, 8, 10, 1), np.float32), "spacing": np.ones(3, np.float32)})
    found = made(Feature.volume(None, None, None, 1), transforms, train=train, whole=True)
    assert found(given)[0]["volume"].shape == (3, 4, 5, 1) and found.window == (4, 6, 8)
    assert made(Feature.volume(4, 4, 4, 1), train=(("volume_patch", {"size": 4}),), whole=True).window == (4, 4, 4)
