"""EfficientNet, and timm's names in all families that are lists of inverted residuals.

timm's stages are the rows of the papers' tables, ours end where the resolution does, so blocks are matched in order.
Its numbers shift with what a block has: `bn1` is the widening's, except in blocks without one, all of them in row 0.
lukemelas is `efficientnet_pytorch`, which counts its blocks through all stages.
"""

from cnn.convert.rules import Options, Rules

BLOCK = r"stage\d+/block\d+"
ROW, FIRST, LATER = r"blocks\.\d+\.\d+", r"blocks\.0\.\d+", r"blocks\.[1-9]\d*\.\d+"

NORMS: Rules = (
    (rf"{LATER}\.bn1", f"{BLOCK}/expand/bn", "in order"),
    (rf"{FIRST}\.bn\d|{LATER}\.bn[23]", f"{BLOCK}/(depthwise|project)/bn", "in order"),
)
REST: Rules = (
    (r"conv_stem", "stem/conv"),
    (r"bn1", "stem/bn"),
    (rf"{LATER}\.(conv_pw|conv_exp)", f"{BLOCK}/expand/conv", "in order"),
    (rf"{ROW}\.conv_dw", f"{BLOCK}/depthwise/conv", "in order"),
    (rf"{FIRST}\.conv_pw|{ROW}\.(conv_pwl|conv)", f"{BLOCK}/project/conv", "in order"),
    (rf"{ROW}\.se\.conv_reduce", f"{BLOCK}/se/reduce", "in order"),
    (rf"{ROW}\.se\.conv_expand", f"{BLOCK}/se/expand", "in order"),
    (r"conv_head", "top/conv"),
    (r"bn2", "top/bn"),
    (r"classifier", "head"),
)

TIMM: Rules = NORMS + REST

LUKEMELAS: Rules = (
    (r"_conv_stem", "stem/conv"),
    (r"_bn0", "stem/bn"),
    (r"_blocks\.\d+\._expand_conv", f"{BLOCK}/expand/conv", "in order"),
    (r"_blocks\.\d+\._bn0", f"{BLOCK}/expand/bn", "in order"),
    (r"_blocks\.\d+\._depthwise_conv", f"{BLOCK}/depthwise/conv", "in order"),
    (r"_blocks\.\d+\._bn1", f"{BLOCK}/depthwise/bn", "in order"),
    (r"_blocks\.\d+\._se_reduce", f"{BLOCK}/se/reduce", "in order"),
    (r"_blocks\.\d+\._se_expand", f"{BLOCK}/se/expand", "in order"),
    (r"_blocks\.\d+\._project_conv", f"{BLOCK}/project/conv", "in order"),
    (r"_blocks\.\d+\._bn2", f"{BLOCK}/project/bn", "in order"),
    (r"_conv_head", "top/conv"),
    (r"_bn1", "top/bn"),
    (r"_fc", "head"),
)

# The first convolution of a block widens, except in the first row; with squeeze-and-excitation between them,
# the depthwise one and the projection are numbers 1 and 3.
ALL, WIDENING = r"features\.\d\.\d+\.block", r"features\.[2-9]\.\d+\.block"
TORCHVISION: Rules = (
    (r"features\.0\.0", "stem/conv"),
    (r"features\.0\.1", "stem/bn"),
    (rf"{WIDENING}\.0\.0", f"{BLOCK}/expand/conv", "in order"),
    (rf"{WIDENING}\.0\.1", f"{BLOCK}/expand/bn", "in order"),
    (rf"{ALL}\.\d\.0", f"{BLOCK}/(depthwise|project)/conv", "in order"),
    (rf"{ALL}\.\d\.1", f"{BLOCK}/(depthwise|project)/bn", "in order"),
    (rf"{ALL}\.\d\.fc1", f"{BLOCK}/se/reduce", "in order"),
    (rf"{ALL}\.\d\.fc2", f"{BLOCK}/se/expand", "in order"),
    (r"features\.[78]\.0", "top/conv"),
    (r"features\.[78]\.1", "top/bn"),
    (r"classifier\.1", "head"),
)

# TensorFlow's epsilon, of which torchvision kept some and timm's own recipes none.
OPTIONS: Options = {
    "timm": {"efficientnet_b[67]": {"norm_epsilon": 1e-5}},
    "torchvision": {"efficientnet_b[567]": {"norm_epsilon": 1e-3}},
    "lukemelas": {"*": {"padding": "SAME", "norm_epsilon": 1e-3}},
}

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION, "lukemelas": LUKEMELAS}
