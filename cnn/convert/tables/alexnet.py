"""AlexNet: torchvision's layout."""

from cnn.convert.rules import Rules

TABLES: dict[str, Rules] = {
    "torchvision": (
        (r"features\.(\d+)", r"stage\d+/conv\d+/conv", "convs in order"),
        (r"classifier\.1", "hidden/fc1", "flatten_chw:256,6,6"),
        (r"classifier\.4", "hidden/fc2"),
        (r"classifier\.6", "head"),
    )
}
