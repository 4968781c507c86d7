"""Every transform of the table: shape, dtype, purity, and the same result in every batch layout."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import KINDS, LABEL, DatasetInfo, Feature
from cnn.pixels import as_channels, resized
from cnn.transforms import FORMAT_1_ORDER, build_transforms, check_transforms
from cnn.transforms import TRANSFORMS as EVERY
from cnn.transforms.apply import transform_examples
from cnn.transforms.geometry import RandomResizedCrop
from cnn.transforms.image import Channels
from cnn.transforms.randaugment import OPERATIONS, RandAugment

B = 6
TRANSFORMS = [name for name in EVERY if not name.startswith("volume_")]  # test_volume.py sweeps those
# Options to sweep, and the shape that an image of 12x10 (or a series of 16 steps) then has.
CASES = {
    "channels": [({"count": 3}, (12, 10, 3)), ({"count": 1}, (12, 10, 1))],
    "resize_short": [
        ({"size": 5}, (6, 5)),
        ({"size": 20}, (24, 20)),
        ({"size": 5, "method": "bicubic"}, (6, 5)),
        ({"size": 20, "method": "bilinear"}, (24, 20)),
    ],
    "resize": [({"size": 7}, (7, 7)), ({"size": (4, 30)}, (4, 30))],
    "center_crop": [({"size": 7}, (7, 7)), ({"size": (12, 10)}, (12, 10))],
    "random_scale": [({"factor": (2, 2)}, (24, 20)), ({"factor": (0.5, 0.5)}, (6, 5))],
    "random_crop": [({"size": 7}, (7, 7)), ({"size": (5, 20)}, (5, 20)), ({"size": 30}, (30, 30))],
    "random_resized_crop": [({"size": 8}, (8, 8)), ({"size": 8, "area": (0.5, 0.6), "aspect": (1, 1)}, (8, 8))],
    "pad_crop": [({}, (12, 10)), ({"padding": 2, "mode": "reflect"}, (12, 10)), ({"padding": 0}, (12, 10))],
    "shift": [({}, (12, 10)), ({"size": 3, "mode": "wrap"}, (12, 10))],
    "affine": [({}, (12, 10)), ({"degrees": 90, "shift": 0.2}, (12, 10))],
    "elastic": [({}, (12, 10)), ({"std": 2, "grid": 5}, (12, 10))],
    "rotate90": [({}, (12, 10))],
    "flip": [({}, (12, 10)), ({"p": 1.0, "axis": "h"}, (12, 10))],
    "color_jitter": [({}, (12, 10))],
    "randaugment": [({}, (12, 10)), ({"layers": 3, "magnitude": 28}, (12, 10))],
    "fill_gaps": [({}, None)],
    "resample": [({"steps": 16}, None)],
    "scale": [({}, None)],
    "noise": [({}, None)],
    "erase": [({"p": 1}, (12, 10)), ({"p": 1, "fill": "noise"}, (12, 10)), ({"p": 1, "fill": "mean"}, (12, 10))],
}
SERIES = {"scale", "noise", "shift", "flip"}


def examples(key, channels=3):
    rng = np.random.default_rng(0)
    if key == "series":
        values = rng.normal(size=(B, 16, channels)).astype(np.float32)
    else:
        values = rng.integers(0, 256, (B, 12, 10, channels), dtype=np.uint8)
    return {key: values, "label": np.arange(B, dtype=np.int32)}


def cases():
    for name in TRANSFORMS:
        assert name in CASES, f"add options for '{name}' to CASES"
        for options, shape in CASES[name]:
            keys = ["series"] if shape is None else ["image"] + ["series"] * (name == "shift")
            for key in keys:
                for channels in (1, 3):
                    yield pytest.param(name, options, shape, key, channels, id=f"{name}-{options}-{key}{channels}")


@pytest.mark.parametrize("name, options, shape, key, channels", list(cases()))
def test_transform(name, options, shape, key, channels):
    (transform,) = build_transforms(((name, options),))
    stacked = examples(key, channels)
    stacked[key].flags.writeable = False  # writing into the input would raise
    draws = Draws(3, np.arange(100, 100 + B))
    out = transform_examples(stacked, [transform], draws)
    shape = stacked[key].shape[1:] if shape is None or key == "series" else shape
    assert out[key].shape[1 : 1 + len(shape)] == shape
    assert out[key].dtype == stacked[key].dtype and np.array_equal(out["label"], stacked["label"])

    again = transform_examples(stacked, [transform], Draws(3, np.arange(100, 100 + B)))
    assert np.array_equal(out[key], again[key])
    for i in range(B):  # one alone, and the middle of another batch
        row = {k: v[i] for k, v in stacked.items()}
        alone = transform_examples([row], [transform], Draws(3, np.array([100 + i])))
        assert np.array_equal(alone[key][0], out[key][i])
    order = np.array([4, 1])
    some = transform_examples({k: v[order] for k, v in stacked.items()}, [transform], Draws(3, 100 + order))
    assert np.array_equal(some[key], out[key][order])
    listed = [{k: v[i] for k, v in stacked.items()} for i in range(B)]
    assert np.array_equal(transform_examples(listed, [transform], draws)[key], out[key])


FIXED = ("channels", "resize_short", "resize", "center_crop", "fill_gaps", "resample")
FIXED = (*FIXED, "random_scale")  # to other sizes


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in FIXED])
def test_random_ones_differ_between_positions_and_seeds(name):
    key = "series" if name in ("scale", "noise") else "image"
    (transform,) = build_transforms(((name, CASES[name][0][0]),))
    value = examples(key)[key][:1]
    if key == "image":
        value = np.arange(360, dtype=np.uint16).reshape(1, 12, 10, 3).astype(np.uint8)
    same = {key: np.repeat(value, 64, 0)}
    out = transform_examples(same, [transform], Draws(0, np.arange(64)))[key]
    assert len({row.tobytes() for row in out}) > (1 if name in ("flip", "rotate90") else 3)
    other = transform_examples(same, [transform], Draws(1, np.arange(64)))[key]
    assert not np.array_equal(out, other)


def test_names_and_options_are_checked():
    with pytest.raises(UserError, match="Did you mean 'pad_crop'"):
        build_transforms((("padcrop", {}),))
    with pytest.raises(UserError, match="Did you mean 'padding'"):
        build_transforms((("pad_crop", {"paddin": 2}),))
    for name, options in (
        ("flip", {"p": 1.5}),
        ("resize", {"size": 0}),
        ("erase", {"fill": "red"}),
        ("randaugment", {"magnitude": 31}),
        ("random_resized_crop", {"size": 4, "area": (0.5, 0.1)}),
        ("resize", {}),
    ):
        with pytest.raises(UserError, match=f"transform '{name}' with"):
            build_transforms(((name, options),))


@pytest.mark.parametrize(
    ("steps", "got"),
    [
        ({"flip": {}}, "got {'flip': {}}"),
        (ConfigDict({"flip": {}}), "got flip: {}"),
        ("flip", "got 'flip'"),
        (("flip",), "'flip' is no"),
        (("flip", {}), "'flip' is no"),
        ((("flip",),), r"\('flip',\) is no"),
        ((("flip", 3),), r"\('flip', 3\) is no"),
        ((("flip", {}), None), "None is no"),
        ([["flip", {"p": [1] * 99}, 1]], r"\['flip', {'p': \[1, .{,60} ... is no"),
    ],
)
def test_another_form_is_one_line_with_the_right_one(steps, got):
    with pytest.raises(UserError, match=rf"transforms are \(\(name, options\), .* or \(\); {got}"):
        build_transforms(steps)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_wrong_kind_of_data_is_refused(name):
    (transform,) = build_transforms(((name, CASES[name][0][0]),))
    takes = (transform.key,) if isinstance(transform.key, str) else transform.key
    kinds = ("image", "series") if takes is None else takes
    for key, shape in (("image", (12, 10, 3)), ("series", (16, 1))):
        info = DatasetInfo("mine", {key: KINDS[key](*shape)}, {"label": LABEL}, ("a", "b"))
        if key in kinds:
            check_transforms([transform], info)
            transform_examples(examples(key), [transform], Draws(0, np.arange(B)))
        else:
            needed = "' or '".join(kinds)
            said = f"transform '{name}' needs '{needed}', data set 'mine' has '{key}'"
            with pytest.raises(UserError, match=said):
                check_transforms([transform], info)


def test_a_flip_of_time_is_for_series():
    info = DatasetInfo("mine", {"series": Feature.series(16, 1)}, {"label": LABEL}, ("a", "b"))
    check_transforms(build_transforms((("flip", {"axis": "t"}),)), info)
    with pytest.raises(UserError, match="'flip' needs 'image'"):
        check_transforms(build_transforms((("flip", {}),)), info)


def test_axes_and_type_of_an_entry_are_checked():
    raw = Feature((12, 10), "uint16", "h w")
    info = DatasetInfo("mine", {"series": Feature.series(9), "image": raw}, {"label": LABEL}, ("a", "b"))
    check_transforms(build_transforms((("noise", {}),)), info)
    with pytest.raises(UserError, match=r"'flip' takes 'image' as uint8 \[h w c\], data set 'mine' has uint16 \[h w\]"):
        check_transforms(build_transforms((("flip", {}),)), info)
    both = DatasetInfo("mine", {"series": Feature.series(9), "image": Feature.image()}, {"label": LABEL}, ("a", "b"))
    check_transforms(build_transforms((("noise", {}), ("flip", {}))), both)  # not only of the main input


def test_the_order_of_format_1_names_every_transform_of_then():
    assert len(set(FORMAT_1_ORDER)) == len(FORMAT_1_ORDER) == 24 and set(FORMAT_1_ORDER) <= set(EVERY)


def test_the_order_is_the_config_s():
    found = build_transforms((("erase", {}), ("flip", {}), ("resize", {"size": 8})))
    assert [type(transform).__name__ for transform in found] == ["Erase", "Flip", "Resize"]
    batch, twice = examples("image"), (("flip", {"p": 1}), ("flip", {"p": 1}))
    out = transform_examples(batch, build_transforms(twice), Draws(0, np.arange(B)))
    assert np.array_equal(out["image"], batch["image"])


def test_a_new_transform_leaves_the_others_alone():
    batch, draws = examples("image"), Draws(0, np.arange(B))
    alone = transform_examples(batch, build_transforms((("shift", {"size": 2}),)), draws)
    both = transform_examples(batch, build_transforms((("shift", {"size": 2}), ("flip", {"p": 0}))), draws)
    assert np.array_equal(alone["image"], both["image"])


def test_pad_crop_is_a_crop_of_the_padded_image():
    batch = examples("image")
    out = transform_examples(batch, build_transforms((("pad_crop", {"padding": 2}),)), Draws(0, np.arange(B)))
    padded = np.pad(batch["image"], ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = Draws(0, np.arange(B)).stream("PadCrop").integers(0, 5, (2,))
    for i, (top, left) in enumerate(offsets):
        assert np.array_equal(out["image"][i], padded[i, top : top + 12, left : left + 10])


def test_every_shift_is_equally_likely():
    image = np.zeros((900, 3, 3, 1), np.uint8)
    image[:, 1, 1] = 1
    (transform,) = build_transforms((("shift", {"size": 1}),))
    counts = transform_examples({"image": image}, [transform], Draws(0, np.arange(900)))["image"].sum(0)
    assert counts.sum() == 900 and counts.min() > 65 and counts.max() < 140


def test_flip_mirrors():
    batch = examples("image")
    out = transform_examples(batch, build_transforms((("flip", {"p": 1}),)), Draws(0, np.arange(B)))
    assert np.array_equal(out["image"], batch["image"][:, :, ::-1])
    series = examples("series")
    out = transform_examples(series, build_transforms((("flip", {"p": 1, "axis": "t"}),)), Draws(0, np.arange(B)))
    assert np.array_equal(out["series"], series["series"][:, ::-1])


def test_random_resized_crop_boxes():
    crop, draws = RandomResizedCrop(8, (0.2, 0.5), (0.5, 2.0)), Draws(0, np.arange(200))
    for i in range(200):
        top, left, h, w = crop.box(60, 90, draws.one(i))
        assert 0 <= top <= 60 - h and 0 <= left <= 90 - w
        assert 0.17 < h * w / 5400 < 0.53 and 0.45 < w / h < 2.1
    assert crop.box(2, 500, draws.one(0))[2] == 2  # nothing fits: the middle


def test_center_crop_of_a_small_image_is_explained():
    with pytest.raises(UserError, match="resize_short"):
        transforms = build_transforms((("center_crop", {"size": 30}),))
        transform_examples(examples("image"), transforms, Draws(0, np.arange(B)))


def test_channels():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgb = as_channels(rgba, 3)
    assert rgb[0, 0].tolist() == [10, 20, 30] and rgb[1, 1].tolist() == [255] * 3
    grey = np.full((2, 2, 1), 77, np.uint8)
    assert (as_channels(as_channels(grey, 3), 1) == 77).all()
    with pytest.raises(ValueError):
        Channels(2)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_randaugment_operations_change_gradually(operation):
    from PIL import Image

    function, full, signed = OPERATIONS[operation]
    pixels = np.random.default_rng(0).integers(0, 200, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    zero = np.array(function(image, 0.0))
    if full:
        assert np.abs(zero.astype(int) - pixels).max() <= 1  # magnitude 0 does nothing
        assert (np.array(function(image, full)) != pixels).any()
    for amount in (3 * full, -3 * full if signed else 3 * full):  # the magnitude goes up to 30
        assert np.array(function(image, amount)).shape == pixels.shape


def test_randaugment_refuses_other_channels():
    with pytest.raises(UserError, match="2 channels"):
        RandAugment()({"image": np.zeros((4, 4, 2), np.uint8)}, Draws(0, np.array([0])))


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_published_ways_of_resizing_are_pillow_s(method):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    found = resized(image, 16, 24, method)
    wanted = Image.fromarray(image).resize((24, 16), getattr(Image.Resampling, method.upper()))
    np.testing.assert_array_equal(found, np.asarray(wanted))
    assert resized(image[..., :1], 16, 24, method).shape == (16, 24, 1)


def test_an_unknown_way_of_resizing():
    with pytest.raises(UserError, match="method must be one of area, bilinear, bicubic, got 'nearest'"):
        build_transforms((("resize_short", {"size": 8, "method": "nearest"}),))


def test_a_narrow_image_is_cropped_before_it_is_resized():
    """1 x 20,000 pixels at a short side of 256 would be 1.3 billion; the crop that follows sees the same middle."""
    from cnn.transforms.apply import traced

    narrow = np.random.default_rng(0).integers(0, 256, (1, 20_000, 3), dtype=np.uint8)
    middle = narrow[:, 10_000 - 50 : 10_000 + 50]
    steps = build_transforms((("resize_short", {"size": 256, "method": "bilinear"}), ("center_crop", {"size": 224})))
    found, map_ = traced({"image": narrow, "mask": narrow[..., 0]}, steps)
    wanted, _ = traced({"image": middle, "mask": middle[..., 0]}, steps)
    assert found["image"].shape == (224, 224, 3)
    np.testing.assert_array_equal(found["image"], wanted["image"])
    np.testing.assert_array_equal(found["mask"], wanted["mask"])
    np.testing.assert_allclose(map_.backward(np.array([[112.0, 112.0]])), [[0.5, 10_000]], atol=1e-6)
    odd, _ = traced({"image": narrow[:, 1:]}, steps)
    wanted, _ = traced({"image": narrow[:, 1:][:, 9_999 - 50 : 9_999 + 51]}, steps)
    np.testing.assert_array_equal(odd["image"], wanted["image"])
    whole, _ = traced({"image": narrow[:, :400]}, steps[:1])
    assert whole["image"].shape == (256, 102_400, 3), "what fits is not cropped"
    for grow in (("resize", {"size": 10_000}), ("random_scale", {"factor": (3000.0, 3000.0)})):
        with pytest.raises(UserError, match="makes too many pixels .the limit is 67,108,864"):
            traced({"image": narrow}, build_transforms((grow,)))
