"""The runs that tests share: how each is trained. `trained(name)` of tests/conftest.py gives a test its copy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn.train import train
from tests.support import mistakes, volumes
from tests.support.runs import tiny

DIGITS: dict[str, Any] = {"total_steps": 6, "log_every_steps": 1, "eval__every_steps": 2, "eval__test_split": "test"}


def digits(folder: Path) -> None:
    """`run`: a network on made-up digits, of the config `tiny(**DIGITS)`."""
    assert train(tiny(**DIGITS), str(folder / "run")) == 0


def digits_again(folder: Path) -> None:
    """`seed` and `rate`: as `digits`, with another seed and with another learning rate."""
    for name, changes in (("seed", {"seed": 4}), ("rate", {"optim__lr": 0.01})):
        assert train(tiny(**DIGITS, **changes), str(folder / name)) == 0


def mistaken(folder: Path) -> None:
    """`base.py` and `run`: a config and a finished run of it."""
    from cnn import cli

    (folder / "base.py").write_text(mistakes.CONFIG)
    assert cli.main(["train", f"--config={folder}/base.py", f"--workdir={folder}/run"]) == 0


def masks(folder: Path) -> None:
    """`data` and `run`: a U-Net that has learned to find what is light, in a few steps."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(24):
        light = np.zeros((32, 32), np.uint8)
        y, x = rng.integers(0, 20, 2)
        light[y : y + 12, x : x + 12] = 1
        pixels = np.clip(rng.normal(50 + 150 * light[..., None], 8, (32, 32, 3)), 0, 255).astype(np.uint8)
        for kind, value in (("images", pixels), ("masks", light)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(value).save(folder / "data" / kind / f"{i}.png")
    config = tiny(
        total_steps=40,
        model={"name": "unet", "widths": (8, 8)},
        task={"name": "segmentation", "loss": "ce+dice"},
        input__dataset="masks_folder",
        input__data_dir=str(folder / "data"),
        input__fake=False,
        input__train_transforms=(("flip", {}),),
        input__mean=(0.4, 0.4, 0.4),
        input__std=(0.3, 0.3, 0.3),
        input__batch_size=8,
        optim__name="adamw",
        optim__lr=0.02,
        optim__ema_decay=0.0,
        eval__split="validation",
        eval__metric="miou",
        eval__test_split="test",
        eval__every_steps=40,
        eval__batch_size=8,
        eval__baselines=True,
    )
    assert train(config, str(folder / "run")) == 0


def organs(folder: Path) -> None:
    """`data` and `run`: a 3-D U-Net that has learned to tell an organ and its core, in a few steps."""
    volumes.folder(folder / "data", count=6, shape=(24, 22, 12), spacing=(1.0, 1.0, 2.0))
    same = (
        ("volume_spacing", {"spacing": (2.0, 1.0, 1.0)}),
        ("volume_intensity", {"modality": "ct", "clip": (-300, 400), "mean": 0, "std": 200}),
    )
    config = tiny(
        total_steps=60,
        model={"name": "unet", "widths": (8, 8)},
        task={"name": "segmentation", "loss": "ce+dice", "spacing": (2.0, 1.0, 1.0)},
        input__dataset="volumes_folder",
        input__data_dir=str(folder / "data"),
        input__fake=False,
        input__train_transforms=(*same, ("volume_patch", {"size": (8, 16, 16)}), ("volume_mirror", {})),
        input__eval_transforms=(*same, ("volume_fit", {"size": (12, 22, 24)})),
        input__batch_size=8,
        optim__name="adamw",
        optim__lr=0.02,
        optim__ema_decay=0.0,
        eval__split="validation",
        eval__metric="dice",
        eval__test_split="test",
        eval__every_steps=60,
        eval__batch_size=8,
        eval__baselines=True,
    )
    assert train(config, str(folder / "run")) == 0


RECIPES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (digits, digits_again, mistaken, masks, organs)
}
