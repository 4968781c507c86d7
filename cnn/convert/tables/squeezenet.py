"""SqueezeNet: torchvision's layout."""

from cnn.convert.rules import Rules

TABLES: dict[str, Rules] = {
    "torchvision": (
        (r"features\.0", "stem/conv"),
        *(
            (rf"features\.\d+\.{name}", rf"stage\d+/block\d+/{name}/conv", "in order")
            for name in ("squeeze", "expand1x1", "expand3x3")
        ),
        (r"classifier\.1", "head"),
    )
}
