"""ConvMixer."""

from cnn.convert.rules import Rules

TIMM: Rules = (
    (r"stem\.0", "stem/conv"),
    (r"stem\.2", "stem/bn"),
    (r"blocks\.(\d+)\.0\.fn\.0", "stage1/block{1+1}/depthwise/conv"),
    (r"blocks\.(\d+)\.0\.fn\.2", "stage1/block{1+1}/depthwise/bn"),
    (r"blocks\.(\d+)\.1", "stage1/block{1+1}/pointwise/conv"),
    (r"blocks\.(\d+)\.3", "stage1/block{1+1}/pointwise/bn"),
    (r"head", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM}
