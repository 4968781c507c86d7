"""Transforms of volumes: masks go with them exactly, results do not depend on the batch, resampling keeps places."""

import numpy as np
import pytest
from scipy import ndimage

from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import IGNORE, LABEL, SPACING, DatasetInfo, Feature
from cnn.transforms import TRANSFORMS, build_transforms, check_transforms
from cnn.transforms.apply import transform_examples
from cnn.transforms.intensity import Intensity
from cnn.transforms.volume import (
    Fit,
    Mirror,
    Patch,
    Spacing,
    resampled,
    resampled_mask,
    rotation,
    windowed,
)

SHAPE = (12, 14, 10)
WARP = {"size": (8, 6, 7), "degrees": 30, "scale": 0.3, "elastic": 1.0}
CASES = {  # options, the shape that SHAPE becomes
    "volume_spacing": [({"spacing": 1.0}, (24, 14, 15)), ({"spacing": (4, 1, 1.5), "mask": "nearest"}, (6, 14, 10))],
    "volume_intensity": [
        ({}, SHAPE),
        ({"modality": "ct", "clip": (-1, 1), "mean": 0.2, "std": 2.0}, SHAPE),
        ({"modality": "microscopy"}, SHAPE),
    ],
    "volume_fit": [({"size": 8}, (8, 8, 8)), ({"size": (16, 4, 10)}, (16, 4, 10)), ({"multiple": 8}, (16, 16, 16))],
    "volume_patch": [
        ({"size": 5}, (5, 5, 5)),
        ({"size": 20, "foreground": 1.0}, (20, 20, 20)),
        (WARP, (8, 6, 7)),
        (WARP | {"size": 20, "foreground": 0}, (20, 20, 20)),
    ],
    "volume_mirror": [({"axes": "w"}, SHAPE), ({}, SHAPE)],
    "volume_gamma": [({}, SHAPE), ({"p": 1.0}, SHAPE)],
    "scale": [({}, SHAPE)],
    "noise": [({}, SHAPE)],
}
FIXED = ("volume_spacing", "volume_intensity", "volume_fit")


def example(seed=0, shape=SHAPE, channels=2):
    """Blobs of classes 0, 3 and 7 with the same blobs in the volume, and a few ignored voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, [-(-n // 4) for n in shape])
    mask = np.array([0, 3, 7], np.uint8)[np.kron(coarse, np.ones((4, 4, 4), int))][tuple(map(slice, shape))]
    volume = mask[..., None] + rng.normal(0, 0.1, (*shape, channels))
    mask[0, 0] = IGNORE
    return {"volume": volume.astype(np.float32), "mask": mask, "spacing": np.array([2, 1, 1.5], np.float32)}


def apply(transform, one, seed=0, position=0):
    found = transform_examples([one], [transform], Draws(seed, np.array([position])))
    return {key: value[0] for key, value in found.items()}


SWEEP = [pytest.param(name, *case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def test_every_transform_of_volumes_is_swept():
    assert {name for name in TRANSFORMS if name.startswith("volume_")} <= CASES.keys()


@pytest.mark.parametrize(("name", "options", "shape"), SWEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_types_purity_and_batches(name, options, shape, channels):
    (transform,) = build_transforms(((name, options),))
    check_transforms([transform], DatasetInfo(
        "mine",
        {"volume": Feature.volume(*SHAPE, 1), "spacing": SPACING},
        {"mask": Feature.mask(*SHAPE)},
        ("a", "b"),
    ))
    many = [example(seed, channels=channels) for seed in range(3)]
    for one in many:
        for value in one.values():
            value.flags.writeable = False
    draws = Draws(1, np.arange(50, 53))
    together = transform_examples(many, [transform], draws)
    assert together["volume"].shape == (3, *shape, channels) and together["volume"].dtype == np.float32
    assert together["mask"].shape == (3, *shape) and together["mask"].dtype == np.uint8
    stacked = {key: np.stack([one[key] for one in many]) for key in many[0]}
    again = transform_examples(stacked, [transform], Draws(1, np.arange(50, 53)))
    for i in range(3):
        alone = apply(transform, many[i], 1, 50 + i)
        for key, value in together.items():
            assert np.array_equal(value[i], alone[key]) and np.array_equal(value[i], again[key][i])
        allowed = {*np.unique(many[i]["mask"]).tolist(), IGNORE}
        assert set(np.unique(alone["mask"]).tolist()) <= allowed, "a class that was not there"
        assert np.isfinite(alone["volume"]).all()
    if name in FIXED:
        without = {"volume": many[0]["volume"], "spacing": many[0]["spacing"]}  # as `cnn predict` has it
        assert np.array_equal(apply(transform, without, 1, 50)["volume"], together["volume"][0])


@pytest.mark.parametrize("name", [name for name in CASES if name not in FIXED])
def test_random_ones_differ_between_positions(name):
    (transform,) = build_transforms(((name, CASES[name][-1][0]),))
    found = {apply(transform, example(), 0, i)["volume"].tobytes() for i in range(8)}
    assert len(found) > 2


def painted(one):
    """A volume whose values are its mask, so that what moves the one must move the other."""
    return one | {"volume": one["mask"][..., None].astype(np.float32)}


@pytest.mark.parametrize("options", [{"size": 6}, {"size": 20}, {"size": (20, 6, 6), "foreground": 1.0}])
def test_a_patch_moves_both_alike(options):
    for i in range(5):
        found = apply(Patch(**options), painted(example(i)), 0, i)
        inside = found["mask"] != IGNORE
        assert inside.any() and np.array_equal(found["volume"][..., 0][inside], found["mask"][inside])


@pytest.mark.parametrize("transform", [Mirror(), Mirror("d"), Fit(size=16), Fit(size=(6, 20, 10))])
def test_mirror_and_fit_move_both_alike(transform):
    found = apply(transform, painted(example()), 0, 3)
    inside = found["mask"] != IGNORE
    assert np.array_equal(found["volume"][..., 0][inside], found["mask"][inside])


def test_a_warped_mask_follows_its_volume():
    """Where the linear value is one class's, all eight neighbours have it, so the nearest voxel does too."""
    one = painted(example(shape=(24, 24, 24)))
    one["volume"][one["mask"] == IGNORE] = 0
    found = apply(Patch(size=12, degrees=30, scale=0.3, elastic=1.5), one, 0, 5)
    value, mask = found["volume"][..., 0], found["mask"]
    sure = np.isclose(value, 7) & (mask != IGNORE)
    assert sure.sum() > 20 and (mask[sure] == 7).all()


def test_a_rotation_by_a_quarter_turn_is_exact():
    """`rotation` against numpy's own quarter turns, through the resampling."""
    from cnn.transforms.volume import sampled

    one = example(shape=(9, 9, 9))
    grid = np.stack(np.meshgrid(*(np.arange(9) - 4.0,) * 3, indexing="ij"))
    for axis, axes in enumerate([(1, 2), (0, 2), (0, 1)]):
        angles = np.zeros(3)
        angles[axis] = np.pi / 2
        place = np.einsum("ij,jdhw->idhw", rotation(angles), grid).round(9) + 4
        found = sampled(one, place)
        wanted = [np.rot90(one["mask"], k, axes) for k in (1, 3)]
        assert sum(np.array_equal(found["mask"], turned) for turned in wanted) == 1
        k = 1 if np.array_equal(found["mask"], wanted[0]) else 3
        assert np.allclose(found["volume"], np.rot90(one["volume"], k, axes), atol=1e-5)


def test_what_comes_from_outside_is_ignored_and_dark():
    one = example()
    found = windowed(one, (-2, 3, 5), (5, 20, 3))
    assert (found["mask"][:2] == IGNORE).all() and (found["mask"][:, 11:] == IGNORE).all()
    assert (found["volume"][:2] == one["volume"].min()).all()
    assert np.array_equal(found["mask"][2:, :11], one["mask"][:3, 3:, 5:8])
    assert np.array_equal(found["volume"][2:, :11], one["volume"][:3, 3:, 5:8])


def test_foreground_balance():
    """One voxel of class 1 and one of class 2 in 40^3: half of the windows that are asked for hold each."""
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[3, 20, 30], mask[30:34, 5:9, 5:9] = 1, 2
    one = {"volume": np.zeros((*mask.shape, 1), np.float32), "mask": mask}
    found = [apply(Patch(size=8, foreground=0.6), one, 0, i)["mask"] for i in range(300)]
    small, large = (np.mean([(m == k).any() for m in found]) for k in (1, 2))
    assert 0.22 < small < 0.40 and 0.24 < large < 0.42  # 0.3 each, and a little by chance
    never = [apply(Patch(size=8, foreground=0.0), one, 0, i)["mask"] for i in range(300)]
    assert np.mean([(m == 1).any() for m in never]) < 0.05
    empty = {"volume": one["volume"], "mask": np.zeros_like(mask)}
    assert apply(Patch(size=8, foreground=1.0), empty)["mask"].shape == (8, 8, 8)


def test_windows_reach_every_place_equally():
    mask = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    one = {"volume": mask[..., None].astype(np.float32), "mask": mask}
    first = [int(apply(Patch(size=(7, 4, 4), foreground=0), one, 0, i)["mask"][0, 0, 0]) for i in range(400)]
    counts = np.bincount(first, minlength=4)
    assert len(counts) == 4 and counts.min() > 65


def test_resampling_keeps_places():
    """A smooth function of millimetres is the same function on the new grid, away from the border."""
    def wave(shape, spacing):
        places = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
        d, h, w = np.meshgrid(*places, indexing="ij")
        return (np.sin(d / 9) + np.cos(h / 8) * np.sin(w / 10)).astype(np.float32)[..., None]

    coarse, fine = wave((20, 30, 20), (3, 2, 3)), wave((30, 20, 60), (2, 3, 1))
    found = resampled(coarse, (1.5, 2 / 3, 3.0))
    assert found.shape == fine.shape and np.abs(found - fine)[4:-4, 4:-4, 4:-4].max() < 0.02
    assert resampled(coarse, (1.0, 1.0, 1.0)) is coarse


@pytest.mark.parametrize("method", ["onehot", "nearest"])
def test_resampling_a_mask(method):
    mask = example(shape=(16, 16, 16))["mask"]
    doubled = resampled_mask(mask, (2, 2, 2), "nearest")
    assert np.array_equal(doubled, np.kron(mask, np.ones((2, 2, 2), np.uint8)))
    found = resampled_mask(mask, (2, 2, 2), method)
    if method == "nearest":
        assert np.array_equal(resampled_mask(found, (0.5,) * 3, method), mask)
    assert (found == doubled).mean() > 0.9 and set(np.unique(found)) == set(np.unique(mask))
    ball = np.linalg.norm(np.stack(np.mgrid[:20, :20, :20]) - 9.5, axis=0) < 7
    large = resampled_mask(ball.astype(np.uint8), (2.0, 1.5, 1.25), method)
    assert large.sum() == pytest.approx(ball.sum() * 2 * 1.5 * 1.25, rel=0.03)


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 4, 4, 1), np.float32)
    stripes[::4] = 1
    plain = ndimage.zoom(stripes[..., 0], (0.25, 1, 1), order=1, grid_mode=True, mode="nearest")
    smooth = resampled(stripes, (0.25, 1, 1), order=1)
    assert np.abs(plain - 0.25).max() > 0.2 and np.abs(smooth - 0.25)[1:-1].max() < 0.05


def test_intensities():
    one = example()
    one["volume"][2:5] = 0
    found = apply(Intensity("mr"), one)["volume"]
    for channel in range(2):
        seen = one["volume"][..., channel] != 0
        assert found[..., channel][seen].mean() == pytest.approx(0, abs=1e-5)
        assert found[..., channel][seen].std() == pytest.approx(1, abs=1e-5)
    clipped = apply(Intensity("ct", clip=(0, 3), mean=1, std=2), one)["volume"]
    assert np.allclose(clipped, (np.clip(one["volume"], 0, 3) - 1) / 2)
    scaled = apply(Intensity("microscopy", percentiles=(0, 100)), one)["volume"]
    assert scaled.min() == 0 and scaled.max() == pytest.approx(1)
    constant = {"volume": np.zeros((3, 3, 3, 1), np.float32)}
    for modality in ("ct", "mr", "microscopy"):
        assert np.isfinite(apply(Intensity(modality), constant)["volume"]).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("volume_spacing", {"spacing": 0}),
        ("volume_spacing", {"spacing": (1, 2)}),
        ("volume_intensity", {"modality": "xray"}),
        ("volume_intensity", {"std": 0}),
        ("volume_patch", {"size": 0}),
        ("volume_patch", {"size": 4, "foreground": 2}),
        ("volume_mirror", {"axes": "x"}),
        ("volume_gamma", {"gamma": (2, 1)}),
    ],
)
def test_options_are_checked(name, options):
    with pytest.raises(UserError, match=f"transform '{name}'"):
        build_transforms(((name, options),))


def test_data_without_a_spacing():
    with pytest.raises(UserError, match="does not say the spacing"):
        apply(Spacing(1.0), {"volume": np.zeros((4, 4, 4, 1), np.float32)})
    for name in ("volume_patch", "volume_mirror"):
        (transform,) = build_transforms(((name, CASES[name][0][0]),))
        with pytest.raises(UserError, match=f"'{name}' needs 'volume', data set 'mine' has 'image'"):
            check_transforms([transform], DatasetInfo(
                "mine", {"image": Feature.image(8, 8, 1)}, {"label": LABEL}, ("a", "b")
            ))


class Counting:
    """Volumes of different sizes that count how often they are read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 3

    def __getitem__(self, i):
        self.read.append(i)
        return example(i, (12 + i, 14, 10), 1)

    def get(self, indices):
        return [self[i] for i in indices]

    def describe(self, i):
        return f"example {i}"


def test_transforms_that_draw_nothing_are_applied_once(monkeypatch):
    from cnn.data import pipeline

    steps = ("volume_spacing", {"spacing": 2.0}), ("volume_intensity", {}), ("volume_patch", {"size": 4}), ("noise", {})
    transforms = build_transforms(steps)
    source = Counting()
    batches = pipeline.TrainBatches(source, transforms, 2, seed=5)
    found = [batches[step] for step in range(6)]
    assert sorted(source.read) == [0, 1, 2] and len(batches.transforms) == 2
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT", 0)  # no room: the same, only slower
    slow = pipeline.TrainBatches(Counting(), transforms, 2, seed=5)
    for step, batch in enumerate(found):
        again = slow[step]
        assert all(np.array_equal(value, again[key]) for key, value in batch.items())
    assert len(slow.source.source.source.read) == 12
    evaluated = pipeline.EvalBatches(Counting(), build_transforms((("volume_fit", {"size": 8}),)), 2)
    assert evaluated[1]["volume"].shape == (2, 8, 8, 8, 1) and evaluated[1]["valid"].tolist() == [True, False]
