"""Image folders for tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Verdicts about a test's files are kept with the test."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, seed=0, size=(12, 10), **options)`: saves a smooth RGB picture and returns its path."""
    from PIL import Image

    def save(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10), **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path, **options)
        return path

    return save


@pytest.fixture
def image_folder(tmp_path, picture) -> Path:
    """Two classes of 20 pictures."""
    for k, name in enumerate(("cats", "dogs")):
        for i in range(20):
            picture(tmp_path / "mine" / name / f"{i}.png", 100 * k + i, (12 + i % 2, 10))
    return tmp_path / "mine"
