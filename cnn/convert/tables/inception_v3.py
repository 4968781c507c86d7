"""Inception v3: torchvision and timm share their names. The auxiliary classifier is dropped without `aux`."""

from cnn.convert.rules import Rules

STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
# Our stage: the letters of its blocks.
LETTERS = {3: (5, "bcd"), 4: (6, "abcde"), 5: (7, "abc")}
# Kind of block: the foreign names of the convolutions of each of our branches.
POOL = ("pool",)
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "5b 5c 5d": (("1x1",), ("5x5_1", "5x5_2"), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"), POOL),
    "6a": (("3x3",), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3")),
    "6b 6c 6d 6e": (
        ("1x1",),
        ("7x7_1", "7x7_2", "7x7_3"),
        ("7x7dbl_1", "7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5"),
        POOL,
    ),
    "7a": (("3x3_1", "3x3_2"), ("7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4")),
    "7b 7c": (
        ("1x1",),
        ("3x3_1", "3x3_2a", "3x3_2b"),
        ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b"),
        POOL,
    ),
}


def _blocks() -> Rules:
    ours = {
        f"{number}{letter}": f"stage{stage}/block{block}"
        for stage, (number, letters) in LETTERS.items()
        for block, letter in enumerate(letters, 1)
    }
    return tuple(
        (rf"Mixed_{name}\.branch_?{conv}\.(conv|bn)", f"{ours[name]}/branch{branch}_conv{number}/{{1}}")
        for names, branches in KINDS.items()
        for name in names.split()
        for branch, convs in enumerate(branches, 1)
        for number, conv in enumerate(convs, 1)
    )


NETWORK: Rules = (
    *((rf"Conv2d_{name}\.(conv|bn)", f"stem_conv{i}/{{1}}") for i, name in enumerate(STEM, 1)),
    *_blocks(),
    (r"fc", "head"),
)
WITH_AUX: Rules = (
    *NETWORK,
    (r"AuxLogits\.conv(\d)\.(conv|bn)", "aux_head/conv{1+1}/{2}"),
    (r"AuxLogits\.fc", "aux_head/head"),
)

TABLES: dict[str, Rules] = {
    "torchvision": WITH_AUX,
    "timm": WITH_AUX,
    "torchvision_without_aux": (*NETWORK, (r"AuxLogits\..*", None)),
}
