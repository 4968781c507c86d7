"""MNASNet. torchvision numbers the layers of stem, first block and top through, and those in every later block."""

from cnn.convert.rules import Rules
from cnn.convert.tables.efficientnet import BLOCK, TIMM

LATER = r"layers\.\d+\.\d+\.layers"

TORCHVISION: Rules = (
    (r"layers\.0", "stem/conv"),
    (r"layers\.1", "stem/bn"),
    (rf"{LATER}\.0", f"{BLOCK}/expand/conv", "in order"),
    (rf"{LATER}\.1", f"{BLOCK}/expand/bn", "in order"),
    (rf"(layers|{LATER})\.3", f"{BLOCK}/depthwise/conv", "in order"),
    (rf"(layers|{LATER})\.4", f"{BLOCK}/depthwise/bn", "in order"),
    (rf"(layers|{LATER})\.6", f"{BLOCK}/project/conv", "in order"),
    (rf"(layers|{LATER})\.7", f"{BLOCK}/project/bn", "in order"),
    (r"layers\.14", "top/conv"),
    (r"layers\.15", "top/bn"),
    (r"classifier\.1", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION}
