"""Overlap and surface distances: against MONAI's stored answers, by hand, and at the edges."""

import math
from pathlib import Path

import numpy as np
import pytest

from cnn.errors import UserError
from cnn.scoring import surfaces
from experiments.parity.surfaces_monai import COUNT, TOLERANCE, pair

STORED = np.load(Path(__file__).parent / "surfaces_monai.npz")


def summary(truth, predicted, class_names, spacing=()):
    """Of two parts of a split, as an evaluation adds them."""
    found = surfaces.Summary(class_names, spacing)
    for part in (slice(0, 1), slice(1, None)):
        found.add(truth[part], predicted[part])
    return found.result()


def test_equal_to_monai_on_200_random_pairs():
    empty = 0
    for number in range(COUNT):
        truth, predicted, spacing = pair(number)
        assert [truth.sum(), predicted.sum()] == STORED["sums"][number].tolist(), "the pair is another one"
        found = surfaces.compare(truth, predicted, spacing, TOLERANCE)
        wanted = STORED["answers"][number]
        assert found.dice == pytest.approx(wanted[0], abs=1e-6), number
        if truth.any() and predicted.any():
            assert found[1:] == pytest.approx(wanted[1:], rel=1e-5), number
            continue
        empty += 1
        if truth.any() or predicted.any():  # MONAI's percentile of one empty and one infinite list is NaN
            assert not math.isfinite(wanted[1]) and found[1:] == (math.inf, math.inf, 0.0)
            assert wanted[2] == math.inf
        else:
            assert np.isnan(wanted[1:3]).all() and np.isnan(found[1:]).all()
    assert empty == 40


def ball(shape, centre, radius):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ((grid - np.array(centre)) ** 2).sum(-1) <= radius**2


def test_two_points():
    truth, predicted = np.zeros((2, 3, 4, 5), bool)
    truth[0, 0, 0], predicted[0, 0, 3] = True, True
    assert surfaces.compare(truth, predicted, (1, 1, 2.5)) == (0.0, 7.5, 7.5, 0.0)
    assert surfaces.compare(truth, predicted, (1, 1, 2.5), tolerance=7.5).surface_dice == 1.0
    assert surfaces.compare(truth, truth) == (1.0, 0.0, 0.0, 1.0)


def test_a_shifted_plane_is_as_far_as_its_shift():
    truth, predicted = np.zeros((2, 20, 6, 6), bool)
    truth[5], predicted[9] = True, True
    found = surfaces.compare(truth, predicted, (1.5, 1, 1))
    assert found.hd95 == found.assd == 6.0


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flips_and_swaps_change_nothing(axes):
    truth, predicted = ball((12, 10, 9), (5, 5, 4), 3), ball((12, 10, 9), (6, 4, 4), 4)
    found = surfaces.compare(truth, predicted, (1, 2, 0.5))
    flipped = surfaces.compare(np.flip(truth, axes), np.flip(predicted, axes), (1, 2, 0.5))
    swapped = surfaces.compare(predicted, truth, (1, 2, 0.5))
    assert found == pytest.approx(flipped) and found == pytest.approx(swapped)


def test_per_class_leaves_ignored_voxels_out():
    truth = np.zeros((4, 6), np.uint8)
    truth[:, :2], truth[:, 4:] = 1, 255
    predicted = np.zeros((4, 6), np.uint8)
    predicted[:, :2], predicted[:, 4:] = 1, 2
    found = surfaces.per_class(truth, predicted, ("background", "a", "b"))
    assert found["a"] == (1.0, 0.0, 0.0, 1.0)
    assert found["b"].dice == 1.0 and math.isnan(found["b"].hd95)
    assert list(found) == ["a", "b"]


def test_largest_component():
    mask = np.zeros((8, 8), np.uint8)
    mask[:3, :3], mask[6, 6], mask[5, :2], mask[7, 7] = 1, 1, 2, 255
    found = surfaces.largest_component(mask)
    assert (found == 1).sum() == 9 and (found == 2).sum() == 2 and found[6, 6] == 0 and found[7, 7] == 255
    assert np.array_equal(surfaces.largest_component(found), found) and mask[6, 6] == 1
    assert not surfaces.largest_component(np.zeros((3, 3, 3), np.uint8)).any()


def test_the_summary_of_many():
    truth = np.zeros((3, 8, 8, 8), np.uint8)
    truth[0, 2:5, 2:5, 2:5] = truth[1, 2:5, 2:5, 2:5] = 1
    truth[0, 6, 6, 6] = 2
    predicted = truth.copy()
    predicted[0, 6, 6, 6] = 0  # one empty: infinitely far, counted
    predicted[1, 2:5, 2:5, 5:7] = 1  # two voxels too wide
    predicted[2, 7, 7, 7] = 255  # nothing said, nothing true
    found = summary(truth, predicted, ("background", "a", "b"), (1, 1, 2))
    one, two = found["surfaces"]
    wide = surfaces.compare(truth[1] == 1, predicted[1] == 1, (1, 1, 2))
    assert one["class"] == "a" and one["examples"] == 2 and one["one_empty"] == 0
    assert one["hd95"] == pytest.approx(wide.hd95 / 2) and one["dice"] == pytest.approx((1 + wide.dice) / 2)
    assert two == {
        "class": "b", "dice": 0.0, "hd95": pytest.approx(math.nan, nan_ok=True), "surface_dice": 0.0,
        "assd": pytest.approx(math.nan, nan_ok=True), "examples": 1, "one_empty": 1,
    }  # fmt: skip
    assert found["hd95"] == one["hd95"] and found["surface_dice"] == pytest.approx(2 * one["surface_dice"] / 3)
    predicted[1] = truth[1]
    predicted[1, 7, 0, 0] = 1  # a speck, which the clean-up removes
    again = summary(truth, predicted, ("background", "a", "b"))
    assert again["assd"] > 0 and again["largest_component"]["assd"] == 0
    assert summary(truth[:0], predicted[:0], ("background", "a"))["surfaces"] == []


def test_mistakes():
    a = np.zeros((4, 4), bool)
    with pytest.raises(UserError, match="different shapes"):
        surfaces.compare(a, np.zeros((4, 5), bool))
    with pytest.raises(UserError, match="needs 2 spacings above 0"):
        surfaces.compare(a, a, (1, 1, 1))
