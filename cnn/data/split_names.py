"""Folders named as splits: 'train', 'Training', 'val', 'dev', 'TEST', ..., and folders that should have been."""

import os
from collections.abc import Sequence

from cnn.errors import UserError, printable
from cnn.files.walk import folders

SPLITS = {
    "train": "train", "training": "train", "trainset": "train", "train_set": "train", "training_set": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "validationset": "validation", "validation_set": "validation", "val_set": "validation",
    "test": "test", "testing": "test", "testset": "test", "test_set": "test",
}  # fmt: skip


def split_of_folder(name: str) -> str:
    """'train', 'validation', 'test', or '' where a folder's name is none of a split; case counts nothing."""
    return SPLITS.get(name.lower().replace("-", "_").replace(" ", "_"), "")


def found_splits(root: str, names: Sequence[str], what: str) -> dict[str, str]:
    """{split: its folder} of folders in `root` that are named as splits.

    Args:
      what: a data set holds, for the message.

    Raises:
      UserError: two of them are the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of_folder(name)
        if split in found:
            both = f"both '{found[split]}' and '{name}' are {what} for '{split}'"
            raise UserError(f"{root}: {both}; put all of them into one of the two")
        if split:
            found[split] = name
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def check_no_splits(root: str, classes: Sequence[str]) -> None:
    """Refuses "classes" that all hold the same folders: they are splits of another name.

    Raises:
      UserError: they do; says which.
    """
    inside = [set(folders(os.path.join(root, name))) for name in classes]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    if len(shared) > 1:
        named = " and ".join(f"'{printable(name)}'" for name in classes[:2])
        raise UserError(
            f"{root}: the folders {named} hold the same folders ({', '.join(sorted(shared)[:4])}), so they look like "
            "splits and not like classes; name them train, validation and test, or let each class have its files in "
            "one folder"
        )
