"""MobileNet v2. torchvision counts its blocks through, and the layers in a block: the first one does not widen."""

from cnn.convert.rules import Rules
from cnn.convert.tables.efficientnet import BLOCK, TIMM

TORCHVISION: Rules = (
    (r"features\.0\.0", "stem/conv"),
    (r"features\.0\.1", "stem/bn"),
    (r"features\.(?!1\.)\d+\.conv\.0\.0", f"{BLOCK}/expand/conv", "in order"),
    (r"features\.(?!1\.)\d+\.conv\.0\.1", f"{BLOCK}/expand/bn", "in order"),
    (r"features\.\d+\.conv\.\d(\.0)?", f"{BLOCK}/(depthwise|project)/conv", "convs in order"),
    (r"features\.\d+\.conv\.\d(\.1)?", f"{BLOCK}/(depthwise|project)/bn", "norms in order"),
    (r"features\.18\.0", "top/conv"),
    (r"features\.18\.1", "top/bn"),
    (r"classifier\.1", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION}
