"""Folders under checkpoints older than content hashes, which know files by their sizes: still the same data."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from cnn import config
from cnn.data import open_dataset
from tests.support import volumes


def images(root):
    for number in range(6):
        for label in "ab":
            path = root / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(path)


def masks(root):
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for kind in ("images", "masks"):
            for number in range(count):
                path = root / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((np.indices((9, 8)).sum(0) * number % 2).astype(np.uint8)).save(path)


KINDS = {"folder": images, "masks_folder": masks, "volumes_folder": volumes.folder}


def opened(name, root):
    c = config.default().input
    c.dataset, c.data_dir = name, str(root)
    return open_dataset(c)


@pytest.mark.parametrize("name", KINDS)
def test_a_fingerprint_by_sizes_is_of_the_same_data_until_a_size_changes(name, tmp_path):
    root = tmp_path / "data"
    KINDS[name](root)
    dataset = opened(name, root)
    lines = list(dataset._provider.contents_by_size())
    facts = [dataset.info.name, *dataset.info.class_names, *(f"{k}={n}" for k, n in sorted(dataset.splits.items()))]
    old = hashlib.blake2b("".join(f"{part}\0" for part in (*facts, *lines)).encode(), digest_size=16).hexdigest()
    assert old != dataset.fingerprint and dataset.matches(old) and dataset.matches(dataset.fingerprint)
    assert len(lines) == sum(dataset.splits.values()) and not dataset.matches("0" * 32)
    _, *sizes, file = lines[0].split("/", 3)
    assert str((root / file).stat().st_size) in sizes
    with open(root / file, "ab") as grown:
        grown.write(b"\0" * 7)
    assert not opened(name, root).matches(old)
