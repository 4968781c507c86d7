"""`cnn data check`: bounded memory, verdicts that are kept, work that does not grow with the number of classes."""

import os

import numpy as np
import pytest
from PIL import Image

from cnn import config
from cnn.data import open_dataset
from cnn.data.sources import ArraySource
from cnn.data.tools import check as checks
from cnn.data.tools.leaks import _class_telling, suspects
from cnn.features import LABEL, DatasetInfo, Feature


def opened(name, root):
    c = config.default().input
    c.dataset, c.data_dir, c.in_memory = name, str(root), "no"
    return open_dataset(c)


class Counted:
    """Examples of a size each, which notes how many bytes it was asked for together."""

    def __init__(self, sizes):
        self.sizes, self.asked = sizes, []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return self.get([i])[0]

    def get(self, rows):
        self.asked.append(sum(self.sizes[i] for i in rows))
        return [{"image": np.zeros((self.sizes[i], 1, 1), np.uint8), "label": np.int32(0)} for i in rows]

    def describe(self, i):
        return f"example {i}"


def test_few_large_examples_are_held_together():
    small = Counted([10_000] * 1000)
    assert [i for i, _ in checks.examples_of(small, range(1000), 10_000)] == list(range(1000))
    assert len(small.asked) == 4
    large = Counted([20 << 20] * 8)
    assert len(list(checks.examples_of(large, range(8), 20 << 20))) == 8 and max(large.asked) <= 64 << 20
    unknown = Counted([20 << 20] * 20)
    assert len(list(checks.examples_of(unknown, range(20)))) == 20 and len(unknown.asked) == 2  # records of any size

    class Files(Counted):
        def files(self, i):
            return [f"{i}.png"], ""

    files = Files([20 << 20] * 20)
    assert len(list(checks.examples_of(files, range(20)))) == 20 and max(files.asked) == 20 << 20


def test_a_second_check_reads_nothing_again(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    for name in "ab":
        for i in range(20):
            picture(root / name / f"{i}.png", 40 * ord(name) + i)
    os.link(root / "a" / "0.png", root / "b" / "again.png")
    dataset = opened("folder", root)
    splits = [split for split, size in dataset.splits.items() if size]
    first = checks.check(dataset, splits)
    assert first["shared"] or sum(split["duplicates"] for split in first["splits"].values()) == 1

    from cnn.data import folder

    decoded = []
    real = folder.decode_image
    monkeypatch.setattr(folder, "decode_image", lambda path: decoded.append(path) or real(path))
    monkeypatch.setattr(checks, "suspects", lambda *arguments: [])  # looks at up to 2000 small inputs
    second = checks.check(opened("folder", root), splits)
    assert second["splits"] == {k: v | {"telling_features": 0} for k, v in first["splits"].items()} and not decoded
    picture(root / "a" / "3.png", 999)
    checks.check(opened("folder", root), splits)
    assert [os.path.basename(path) for path in decoded] == ["3.png"]


def test_kept_verdicts_on_masks(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    (root / "masks").mkdir(parents=True)
    for i in range(20):
        picture(root / "images" / f"{i}.png", i, (8, 8))
        Image.fromarray(np.full((8, 8), i % 2, np.uint8)).save(root / "masks" / f"{i}.png")
    first, second = (
        checks.check(opened("masks_folder", root), ["train", "validation", "test"]) for _ in range(2)
    )
    assert first == second and sum(split["empty_masks"] for split in first["splits"].values()) == 10


def told(feature, label):
    """The definition: balanced accuracy of the nearest neighbour, halves of the examples."""
    half = len(label) // 2
    nearest = np.abs(feature[half:, None] - feature[None, :half]).argmin(1)
    hit = label[:half][nearest] == label[half:]
    return np.mean([hit[label[half:] == k].mean() for k in np.unique(label[half:])])


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_telling_features_by_their_definition(classes):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, classes, 600)
    telling = _class_telling(label)
    for noise in (0.0, 0.2, 1.0, 100.0):
        feature = label + noise * rng.normal(size=600)
        assert telling(feature) == pytest.approx(told(feature, label))
    assert telling(np.ones(600)) == 0.0 and _class_telling(np.zeros(600, int))(rng.normal(size=600)) == 0.0


def test_a_thousand_classes_cost_as_much_as_ten():
    """NumPy calls are counted, not seconds."""
    counts = {}
    for classes in (10, 1000):
        calls = []
        real = np.bincount
        x = np.random.default_rng(0).normal(size=(2000, 30, 1)).astype(np.float32)
        label = (np.arange(2000) % classes).astype(np.int32)
        names = tuple(map(str, range(classes)))
        info = DatasetInfo("x", {"series": Feature.series(30, 1)}, {"label": LABEL}, names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "bincount", lambda *a, _real=real, _calls=calls, **k: _calls.append(1) or _real(*a, **k))
            assert suspects(ArraySource({"series": x, "label": label}), info) == []
        counts[classes] = len(calls)
    assert counts[10] == counts[1000] > 0
