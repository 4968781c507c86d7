"""VGG: the libraries differ behind the last pool, where timm's dense layers are convolutions."""

from cnn.convert.rules import Rules

FEATURES: Rules = (
    (r"features\.(\d+)", r"stage\d+/conv\d+/conv", "convs in order"),
    (r"features\.(\d+)", r"stage\d+/conv\d+/bn", "norms in order"),
)

TABLES: dict[str, Rules] = {
    "torchvision": (
        *FEATURES,
        (r"classifier\.0", "hidden/fc1", "flatten_chw:512,7,7"),
        (r"classifier\.3", "hidden/fc2"),
        (r"classifier\.6", "head"),
    ),
    "timm": (
        *FEATURES,
        (r"pre_logits\.fc1", "hidden/fc1", "flatten_chw:512,7,7"),
        (r"pre_logits\.fc2", "hidden/fc2"),
        (r"head\.fc", "head"),
    ),
}
