"""Every geometric transform of the table: its map says where its pixels, masks, boxes and points went."""

import dataclasses

import numpy as np
import pytest

from cnn.draws import Draws
from cnn.features import IGNORE, Feature
from cnn.tables import resolve
from cnn.transforms import TRANSFORMS, build_transforms, maps
from cnn.transforms.apply import RANKS, traced, transform_examples, transformed
from cnn.transforms.rows import Geometric

SIZES = {"image": (32, 28), "volume": (14, 18, 16), "series": (40,)}
CUTS = {"degrees": 25, "scale": 0.2}
# Options to sweep; what is not here is swept with its defaults.
OPTIONS = {
    "resize": [{"size": (17, 41)}],
    "resize_short": [{"size": 15}, {"size": 50, "method": "bilinear"}],
    "center_crop": [{"size": (25, 19)}],
    "random_crop": [{"size": 22}, {"size": (40, 22)}],
    "random_resized_crop": [{"size": 30, "area": (0.4, 1.0)}],
    "pad_crop": [{"padding": 5}],
    "shift": [{"size": 4}],
    "affine": [{"degrees": 40, "scale": 0.3, "shear": 0.2, "shift": 0.1}],
    "elastic": [{"std": 1.5}],
    "resample": [{"steps": 25}, {"steps": 63}],
    "flip": [{}, {"axis": "h"}, {"axis": "t"}],
    "volume_spacing": [{"spacing": 1.0}, {"spacing": 2.0, "mask": "nearest"}],
    "volume_fit": [{"size": (12, 20, 16)}, {"multiple": 10}],
    "volume_patch": [{"size": 13}, {"size": (12, 16, 14), "degrees": 20, "scale": 0.2, "elastic": 0.4}],
}
GEOMETRIC = [name for name in TRANSFORMS if issubclass(resolve("transform", TRANSFORMS, name), Geometric)]
COPIES = ("center_crop", "random_crop", "pad_crop", "shift", "flip", "rotate90", "volume_fit", "volume_mirror")


def cases():
    for name in GEOMETRIC:
        for options in OPTIONS.get(name, [{}]):
            (transform,) = build_transforms(((name, options),))
            for key in (transform.key,) if isinstance(transform.key, str) else transform.key:
                yield pytest.param(name, options, key, id=f"{name}-{options}-{key}")


def blank(key, channels=1):
    dtype = np.uint8 if key == "image" else np.float32
    found = {key: np.zeros((*SIZES[key], channels), dtype)}
    return found | {"spacing": np.array([2.0, 1.0, 1.5], np.float32)} if key == "volume" else found


def draws(seed):
    return Draws(seed, np.zeros(1, np.int64))


def trace(name, options, example, seed):
    return traced(example, build_transforms(((name, options),)), draws(seed))


sweep = pytest.mark.parametrize(("name", "options", "key"), list(cases()))
seeds = pytest.mark.parametrize("seed", range(4))


def test_every_transform_that_moves_masks_is_geometric():
    assert len(GEOMETRIC) >= 15 and {"affine", "shift", "volume_patch", "resize"} <= set(GEOMETRIC)
    assert not {"channels", "erase", "noise", "volume_gamma"} & set(GEOMETRIC)


@seeds
@sweep
def test_forward_and_back(name, options, key, seed):
    out, done = trace(name, options, blank(key), seed)
    assert done.before == SIZES[key] and done.after == out[key].shape[: RANKS[key]]
    points = np.random.default_rng(seed).uniform(2, np.array(done.after) - 2, (30, RANKS[key]))
    back = done.backward(points)
    np.testing.assert_allclose(done.forward(back), points, atol=1e-6)
    np.testing.assert_allclose(done.inverse().forward(points), back, atol=1e-9)
    assert (done.linear is None) == ("elastic" in (name, *options))


@seeds
@sweep
def test_a_bright_pixel_goes_where_its_point_goes(name, options, key, seed):
    example = blank(key)
    place = np.random.default_rng(seed).integers(3, np.array(SIZES[key]) - 3)
    example[key][tuple(place)] = 200
    example["points"] = (place + 0.5)[None].astype(np.float32)
    out, done = trace(name, options, example, seed)
    (there,) = done.forward(example["points"])
    margin = 2.0  # what is resampled is spread over neighbours
    if not ((there > margin) & (there < np.array(done.after) - margin)).all():
        return
    np.testing.assert_array_equal(out["points"], [there])
    light = np.maximum(out[key][..., 0].astype(np.float64), 0)
    assert light.sum() > 0
    centres = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in light.shape], indexing="ij"), -1)
    middle = (centres * light[..., None]).sum(tuple(range(light.ndim))) / light.sum()
    np.testing.assert_allclose(middle, there, atol=1e-4 if name in COPIES else 0.75)


def painted(key, seed):
    """A mask of one box in the middle, and that box."""
    size, rng = np.array(SIZES[key]), np.random.default_rng(seed)
    low = rng.integers(size // 4, size // 2 - 1)
    high = rng.integers(size // 2 + 2, size - size // 4 + 1)
    example = blank(key)
    example["mask"] = np.zeros(SIZES[key], np.uint8)
    example["mask"][tuple(map(slice, low, high))] = 1
    return example | {"boxes": np.concatenate([low, high])[None].astype(np.float32)}


@seeds
@sweep
def test_a_mask_of_a_box_goes_where_the_box_goes(name, options, key, seed):
    if key == "series":
        return  # no masks
    example = painted(key, seed)
    out, done = trace(name, options, example, seed)
    same = out["mask"] == done.move_mask(example["mask"])
    assert same.mean() == 1 if name in COPIES else same.mean() > 0.97
    (box,), (whole,) = done.move_boxes(example["boxes"], 1.0)
    if not whole and name not in COPIES:
        return  # of a turned mask that is cut off, less may be left than of the box around it
    found = np.stack(np.nonzero(out["mask"] == 1))
    found = np.stack([found.min(1), found.max(1) + 1])
    np.testing.assert_allclose(box.reshape(2, -1), found, atol=1e-4 if name in COPIES else 1.3)
    if whole:
        np.testing.assert_array_equal(out["boxes"], [box])


@seeds
@sweep
def test_boxes_do_not_depend_on_the_batch_and_leave_pixels_alone(name, options, key, seed):
    """Four examples with 0 to 3 boxes, stacked or not."""
    (transform,) = build_transforms(((name, options),))
    rng = np.random.default_rng(seed)
    many = []
    for count in range(4):
        example = blank(key)
        example[key] = rng.integers(0, 255, example[key].shape).astype(example[key].dtype)
        low = rng.uniform(0, np.array(SIZES[key]) - 6, (count, RANKS[key]))
        example["boxes"] = np.concatenate([low, low + rng.uniform(2, 6, low.shape)], -1).astype(np.float32)
        many.append(example | {"box_labels": np.arange(count, dtype=np.int32), "label": np.int32(count)})
    together = transformed(many, [transform], Draws(seed, np.arange(4)))
    without = [{k: v for k, v in example.items() if not k.startswith("box")} for example in many]
    pixels = transformed(without, [transform], Draws(seed, np.arange(4)))
    for i, example in enumerate(many):
        (alone,) = transformed([example], [transform], Draws(seed, np.array([i])))
        for entry, value in alone.items():
            np.testing.assert_array_equal(value, together[i][entry])
            assert value.dtype == np.asarray(example[entry]).dtype
        kept = alone["box_labels"]
        assert len(kept) == len(alone["boxes"]) and set(kept.tolist()) <= set(range(i))
        now = pixels[key][i] if isinstance(pixels, dict) else pixels[i][key]
        np.testing.assert_array_equal(alone[key], now)
        _, done = traced(example, [transform], Draws(seed, np.array([i])))
        moved, keep = done.move_boxes(example["boxes"], transform.visible)
        np.testing.assert_array_equal(alone["boxes"], moved[keep])


@pytest.mark.parametrize("axis", ["w", "h"])
def test_flipping_twice(axis):
    example = painted("image", 3)
    twice = traced(example, build_transforms((("flip", {"p": 1, "axis": axis}),)) * 2, draws(0))[0]
    for key, value in example.items():
        np.testing.assert_array_equal(twice[key], value)


CHAIN = [("resize", {"size": (40, 36)}), ("affine", CUTS), ("flip", {"p": 1}), ("elastic", {"std": 1}),
         ("random_crop", {"size": 30}), ("rotate90", {}), ("color_jitter", {}), ("resize", {"size": 25})]  # fmt: skip


@seeds
def test_a_composed_map_is_one_after_the_other(seed):
    transforms = [transform for name, options in CHAIN for transform in build_transforms(((name, options),))]
    example = painted("image", seed)
    out, done = traced(example, transforms, draws(seed))
    steps, current = [], example
    for n, transform in enumerate(transforms):
        stream = "Resize#2" if n == 7 else type(transform).__name__
        own = draws(seed).stream(stream)
        if isinstance(transform, Geometric):
            one = current if not transform.batched else {key: value[None] for key, value in current.items()}
            steps += transform.maps(one, own)
        (current,) = transformed([current], [transform], draws(seed)) if n < 7 else [current]
    points = np.random.default_rng(seed).uniform(5, 20, (12, 2))
    expected = points
    for step in steps:
        expected = step.forward(expected)
    np.testing.assert_allclose(done.forward(points), expected, atol=1e-9)
    np.testing.assert_allclose(done.backward(done.forward(points)), points, atol=1e-4)
    assert [type(part).__name__ for part in done.parts] == ["Linear", "Bend", "Linear"]
    assert done.before == SIZES["image"] and done.after == (25, 25) == out["image"].shape[:2]
    with pytest.raises(ValueError, match="cannot be followed by one from"):
        maps.compose(steps[::-1])
    with pytest.raises(ValueError, match="no maps"):
        maps.compose([])


def test_what_is_outside_is_dropped_with_all_that_is_of_it():
    example = blank("image") | {
        "boxes": np.array([[0, 0, 4, 4], [10, 10, 20, 20], [0, 10, 16, 14], [8, 8, 8, 12]], np.float32),
        "box_labels": np.array([5, 6, 7, 8]),
        "box_points": np.full((4, 3, 2), 12, np.float32),
        "points": np.array([[1, 1], [12, 12]], np.float32),
        "point_labels": np.array([1, 2]),
        "label": np.int32(9),
    }
    crop = {"size": 18}  # of 32 x 28: begins at (7, 5)
    out, _ = traced(example, build_transforms((("center_crop", crop),)))
    np.testing.assert_array_equal(out["boxes"], [[3, 5, 13, 15], [0, 5, 9, 9], [1, 3, 1, 7]])
    assert out["box_labels"].tolist() == [6, 7, 8] and (out["box_points"] == [5, 7]).all()
    assert out["points"].tolist() == [[5, 7]] and out["point_labels"].tolist() == [2] and out["label"] == 9
    strict, _ = traced(example, build_transforms((("center_crop", crop | {"visible": 0.6}),)))
    assert strict["box_labels"].tolist() == [6, 8]  # 9 of the 16 rows of box 7 are inside
    some, _ = traced(example, build_transforms((("center_crop", crop | {"visible": 0}),)))
    assert some["box_labels"].tolist() == [5, 6, 7, 8] and some["boxes"].min() == 0


def test_a_batch_is_padded_after_boxes_were_dropped():
    ragged = {
        "boxes": Feature((None, 4), "float32", "n c", pad=5, fill=-1),
        "box_labels": Feature((None,), "int32", "n", pad=5),
    }
    many = []
    for i in range(4):
        boxes = np.array([[0, 0, 9, 9], [12, 12, 20, 18], [30, 26, 32, 28]], np.float32)[: i % 4]
        labels = np.arange(len(boxes), dtype=np.int32)
        many.append(blank("image") | {"boxes": boxes, "box_labels": labels, "label": np.int32(i)})
    transforms = build_transforms((("random_crop", {"size": 22}), ("flip", {}), ("color_jitter", {})))
    out = transform_examples(many, transforms, Draws(1, np.arange(4)), ragged)
    assert out["image"].shape == (4, 22, 22, 1) and out["boxes"].shape == (4, 5, 4) and out["label"].shape == (4,)
    lengths = out["boxes_length"].tolist()
    assert lengths == out["box_labels_length"].tolist() and lengths[0] == 0 and 0 < sum(lengths) < 6
    for i, length in enumerate(lengths):
        (alone,) = transformed([many[i]], transforms, Draws(1, np.array([i])))
        np.testing.assert_array_equal(out["boxes"][i, :length], alone["boxes"])
        assert (out["boxes"][i, length:] == -1).all()


def test_the_way_back_of_a_mask():
    """A prediction on the network's grid over the input again: cut-off pixels are not known."""
    mask = np.random.default_rng(0).integers(0, 3, (32, 28)).astype(np.uint8)
    out, done = traced({"image": mask[..., None], "mask": mask}, build_transforms((("center_crop", {"size": 20}),)))
    back = done.inverse().move_mask(out["mask"])
    np.testing.assert_array_equal(back[6:26, 4:24], mask[6:26, 4:24])
    assert (back != IGNORE).sum() == 400 and (done.inverse().move_mask(out["mask"], 0) != IGNORE).all()
    out, done = traced({"image": mask[..., None], "mask": mask}, build_transforms((("resize", {"size": (96, 56)}),)))
    np.testing.assert_array_equal(done.inverse().move_mask(out["mask"]), mask)


def test_an_example_without_pixels_or_steps_has_a_map_without_axes():
    _, done = traced({"table": np.zeros(3, np.float32)}, [])
    assert (done.before, done.after) == ((), ())


def test_an_example_with_two_inputs_has_the_map_of_the_first():
    example = blank("image") | blank("series")
    steps = (("shift", {"size": 5, "mode": "wrap"}), ("resize", {"size": 16}))  # the shift is of the series
    _, done = traced(example, build_transforms(steps), draws(0))
    assert (done.before, done.after) == (SIZES["image"], (16, 16)) and not done.linear.offset.any()


def test_the_second_use_of_a_transform_draws_anew():
    example = {"image": np.arange(64 * 8 * 8, dtype=np.uint8).reshape(64, 8, 8, 1)}
    one, two = (build_transforms((("flip", {"axis": axis}),))[0] for axis in "wh")
    rows = Draws(0, np.arange(64))
    first, second = rows.stream("Flip").bernoulli(0.5), rows.stream("Flip#2").bernoulli(0.5)
    assert (first != second).any()
    out = transform_examples(example, [one, two], Draws(0, np.arange(64)))["image"]
    for i in range(64):
        expected = example["image"][i]
        expected = expected[:, ::-1] if first[i] else expected
        np.testing.assert_array_equal(out[i], expected[::-1] if second[i] else expected)


def test_a_share_is_checked():
    for name in GEOMETRIC:
        (transform,) = build_transforms(((name, OPTIONS.get(name, [{}])[0]),))
        with pytest.raises(ValueError, match=r"visible must be in 0\.\.1, got 2"):
            dataclasses.replace(transform, visible=2)


def test_the_inverse_of_a_strong_bend():
    """A field that stretches by up to 2.5 and shrinks to a fifth has an inverse, which is found."""
    rows = np.arange(40, dtype=np.float32)
    field = np.stack([0.8 * 6 * np.sin(rows / 6)[:, None] * np.ones((40, 30), np.float32), np.zeros((40, 30))])
    bend = maps.Bend(field.astype(np.float32))
    points = np.random.default_rng(0).uniform(3, 27, (50, 2))
    np.testing.assert_allclose(bend.inverse().forward(bend.forward(points)), points, atol=1e-5)
    assert np.abs(bend.forward(points) - points).max() > 2
