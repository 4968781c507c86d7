"""LR-ASPP: torchvision's layout."""

from cnn.convert.rules import Rules
from cnn.convert.tables.deeplab import MOBILENET_BACKBONE

TABLES: dict[str, Rules] = {
    "torchvision": (
        *MOBILENET_BACKBONE,
        (r"classifier\.cbr\.0", "head/conv/conv"),
        (r"classifier\.cbr\.1", "head/conv/bn"),
        (r"classifier\.scale\.1", "head/gate"),
        (r"classifier\.low_classifier", "head/fine"),
        (r"classifier\.high_classifier", "head/coarse"),
    )
}
