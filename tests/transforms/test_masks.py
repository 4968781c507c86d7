"""Masks move with their images: labels stay labels, both move as one, and what can be undone is."""

import numpy as np
import pytest

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo, Feature
from cnn.transforms import TRANSFORMS, build_transforms, check_transforms
from cnn.transforms.affine import affine_places, bilinear, nearest_at, spline_matrix
from cnn.transforms.apply import transform_examples
from cnn.transforms.masks import nearest

B = 8
PAINT = 255 * np.eye(4, 3, dtype=np.uint8)  # classes 0..2 are red, green and blue; what is black is no class
INFO = DatasetInfo("painted", {"image": Feature.image(24, 24, 3)}, {"mask": Feature.mask(24, 24)}, ("a", "b", "c"))
# Options to sweep; True where the pixels stay where they are.
CASES = [
    ("channels", {"count": 3}, True),
    ("resize_short", {"size": 15}, False),
    ("resize_short", {"size": 40, "method": "bilinear"}, False),
    ("resize", {"size": (17, 31)}, False),
    ("center_crop", {"size": 11}, False),
    ("random_scale", {"factor": (0.7, 0.7)}, False),
    ("random_scale", {"factor": (1.6, 1.6)}, False),
    ("random_crop", {"size": 9}, False),
    ("random_crop", {"size": (30, 13)}, False),
    ("random_resized_crop", {"size": 20}, False),
    ("pad_crop", {"padding": 5}, False),
    ("pad_crop", {"padding": 5, "mode": "reflect"}, False),
    ("shift", {"size": 4}, False),
    ("shift", {"size": 4, "mode": "wrap"}, False),
    ("shift", {"size": 4, "mode": "edge"}, False),
    ("affine", {"degrees": 180, "scale": 0.4, "shift": 0.2}, False),
    ("elastic", {"std": 2}, False),
    ("rotate90", {}, False),
    ("flip", {}, False),
    ("flip", {"axis": "h"}, False),
    ("color_jitter", {}, True),
    ("erase", {"p": 1}, True),
]
MOVING = [case for case in CASES if not case[2]]


def painted(seed=0, size=(24, 24)):
    """Blocks of three classes, and the picture that is their colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (B, -(-size[0] // 4), -(-size[1] // 4))).astype(np.uint8)
    mask = np.repeat(np.repeat(coarse, 4, 1), 4, 2)[:, : size[0], : size[1]]
    return {"image": PAINT[mask], "mask": np.ascontiguousarray(mask)}


def run(example, name, options, seed=0):
    transforms = build_transforms(((name, options),))
    return transform_examples(example, transforms, Draws(seed, np.arange(len(example["mask"]))))


def test_every_transform_of_images_is_tried():
    modules = ("cnn.transforms.image", "cnn.transforms.geometry", "cnn.transforms.affine")
    of_images = {name for name, entry in TRANSFORMS.items() if entry.target.split(":")[0] in modules}
    assert {name for name, _, _ in CASES} == of_images | {"shift"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "options", "stays"), CASES)
def test_labels_never_become_others(name, options, stays, seed):
    example = painted(seed, (24, 20))
    example["mask"].flags.writeable = False
    out = run(example, name, options, seed)
    assert out["mask"].dtype == np.uint8 and out["mask"].shape == out["image"].shape[:3]
    for before, after in zip(example["mask"], out["mask"], strict=True):
        assert set(np.unique(after)) <= set(np.unique(before)) | {IGNORE}
    if stays:
        np.testing.assert_array_equal(out["mask"], example["mask"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "options", "stays"), MOVING)
def test_image_and_mask_move_as_one(name, options, stays, seed):
    """Where a painted pixel is of one colour, its label is that colour's; where it is black, it is ignored."""
    out = run(painted(seed, (24, 20)), name, options, seed)
    colours = np.append(PAINT, [[0, 0, 0]], 0)
    pure = (out["image"][..., None, :] == colours).all(-1)  # [b, h, w, colour]
    known = pure.any(-1)
    assert known.mean() > 0.2
    labels = np.array([0, 1, 2, IGNORE, IGNORE], np.uint8)[pure.argmax(-1)]
    np.testing.assert_array_equal(out["mask"][known], labels[known])
    if name not in ("resize_short", "resize", "random_scale", "random_resized_crop", "affine", "elastic"):
        assert known.all()  # these copy pixels
    if options.get("mode") in ("wrap", "edge", "reflect"):
        assert (out["mask"] != IGNORE).all()


@pytest.mark.parametrize(("name", "options", "stays"), CASES)
def test_the_image_does_not_depend_on_the_mask(name, options, stays):
    example = painted()
    with_mask = run(example, name, options)
    transforms = build_transforms(((name, options),))
    alone = transform_examples({"image": example["image"]}, transforms, Draws(0, np.arange(B)))
    np.testing.assert_array_equal(with_mask["image"], alone["image"])


@pytest.mark.parametrize(("name", "options"), [("flip", {"p": 1}), ("flip", {"p": 1, "axis": "h"})])
def test_a_flip_undoes_itself(name, options):
    example = painted(1)
    twice = run(run(example, name, options), name, options)
    for key, value in example.items():
        np.testing.assert_array_equal(twice[key], value)


def test_a_shift_that_wraps_is_undone_by_its_opposite():
    example = painted(2)
    for axis in (1, 2):
        moved = {key: np.roll(value, 3, axis=axis) for key, value in example.items()}
        for key, value in example.items():
            np.testing.assert_array_equal(np.roll(moved[key], -3, axis=axis), value)
    out = run(example, "shift", {"size": 3, "mode": "wrap"})
    offsets = 3 - Draws(0, np.arange(B)).stream("Shift").integers(0, 7, (2,))
    for i, (down, right) in enumerate(offsets):
        for key, value in example.items():
            np.testing.assert_array_equal(np.roll(out[key][i], (-down, -right), axis=(0, 1)), value[i])


def test_quarter_turns_come_back():
    example = painted(3)
    out = run(example, "rotate90", {})
    turns = Draws(0, np.arange(B)).stream("Rotate90").integers(0, 4)
    assert len(set(turns.tolist())) > 2
    for i, k in enumerate(turns):
        for key, value in example.items():
            np.testing.assert_array_equal(np.rot90(out[key][i], -k), value[i])


def affine_both(example, matrix, move=(0.0, 0.0)):
    place = affine_places((24, 24), np.full((B, 2, 2), matrix, np.float32), np.full((B, 2), move, np.float32))
    return {"image": bilinear(example["image"], place), "mask": nearest_at(example["mask"], place)}


def test_an_affine_map_and_its_inverse():
    example = painted(4)
    turn = [[0.0, 1.0], [-1.0, 0.0]]
    there = affine_both(example, turn)
    back = affine_both(there, np.linalg.inv(turn))
    for key, value in example.items():
        assert not np.array_equal(there[key], value)
        np.testing.assert_array_equal(back[key], value)
    shifted = affine_both(affine_both(example, np.eye(2), (3.0, -2.0)), np.eye(2), (-3.0, 2.0))
    np.testing.assert_array_equal(shifted["mask"][:, 3:, :-2], example["mask"][:, 3:, :-2])
    assert (shifted["mask"][:, :3] == IGNORE).all() and (shifted["mask"][:, :, -2:] == IGNORE).all()
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    back = affine_both(affine_both(example, turn), turn.T)["mask"][:, 8:-8, 8:-8]
    assert (back == example["mask"][:, 8:-8, 8:-8]).mean() > 0.85  # nearest labels, twice


def test_resizing_to_a_multiple_and_back():
    mask = painted(5)["mask"][0]
    large = nearest(mask, 72, 48)
    np.testing.assert_array_equal(large, np.repeat(np.repeat(mask, 3, 0), 2, 1))
    np.testing.assert_array_equal(nearest(large, 24, 24), mask)


def test_a_crop_of_a_small_picture_shows_all_of_it():
    example = painted(6, (10, 12))
    out = run(example, "random_crop", {"size": 16})
    places = set()
    for i in range(B):
        rows, columns = np.nonzero(out["mask"][i] != IGNORE)
        box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        np.testing.assert_array_equal(out["mask"][i][box], example["mask"][i])
        np.testing.assert_array_equal(out["image"][i][box], example["image"][i])
        assert not out["image"][i][out["mask"][i] == IGNORE].any()
        places.add((rows.min(), columns.min()))
    assert len(places) > 2


def test_random_crops_reach_every_place():
    mask = np.arange(16, dtype=np.uint8).reshape(1, 4, 4).repeat(600, 0)
    out = run({"image": mask[..., None], "mask": mask}, "random_crop", {"size": 2})
    counts = np.bincount(out["mask"][:, 0, 0], minlength=16).reshape(4, 4)
    assert counts[:3, :3].min() > 35 and counts[3].sum() == counts[:, 3].sum() == 0


def test_random_scale_draws_from_its_range():
    (scale,) = build_transforms((("random_scale", {"factor": (0.5, 2.0)}),))
    example = {key: value[0] for key, value in painted().items()}
    sizes = [scale(example, Draws(0, np.array([i])))["mask"].shape[0] for i in range(60)]
    assert 12 <= min(sizes) < 15 and 40 < max(sizes) <= 48


def test_splines_of_a_grid():
    matrix = spline_matrix(31, 4)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)  # equal displacements move all pixels alike
    np.testing.assert_allclose(matrix[[0, 10, 20, 30]], np.eye(4), atol=1e-6)  # and the grid's points are kept


@pytest.mark.parametrize("target", ["mask", "boxes", "points"])
def test_what_would_leave_targets_behind_is_refused(target):
    shapes = {"mask": Feature.mask(24, 24), "boxes": Feature((None, 4), "float32", "n c", 9)}
    info = DatasetInfo("painted", INFO.inputs, {target: shapes.get(target, shapes["boxes"])}, ("a", "b", "c"))
    with pytest.raises(UserError, match=f"'randaugment' moves pixels but not the {target} of 'painted'; use affine"):
        check_transforms(build_transforms((("randaugment", {}),)), info)
    check_transforms(build_transforms((("affine", {}), ("color_jitter", {}))), info)


@pytest.mark.parametrize(("name", "options"), [("flip", {"axis": "t"}), ("shift", {"size": 3, "mode": "edge"})])
def test_labels_of_steps_go_with_their_steps(name, options):
    labels = np.random.default_rng(0).integers(0, 9, (B, 20)).astype(np.int32)
    example = {"series": labels[..., None].astype(np.float32), "labels": labels}
    transforms = build_transforms(((name, options),))
    out = transform_examples(example, transforms, Draws(0, np.arange(B)))
    assert (out["labels"] != labels).any() and out["labels"].dtype == np.int32
    np.testing.assert_array_equal(out["series"][..., 0], out["labels"])
    info = DatasetInfo("steps", {"series": Feature.series(20)}, {"labels": Feature.labels(20)}, ("a", "b"))
    check_transforms(transforms, info)
    with pytest.raises(UserError, match="'shift' brings in steps without a class; set mode to edge"):
        check_transforms(build_transforms((("shift", {}),)), info)
