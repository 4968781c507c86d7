"""EfficientNet. lukemelas is `efficientnet_pytorch`, which counts its blocks through all stages."""

from cnn.convert.rules import Rules

BLOCK = r"stage\d+/block\d+"

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

TABLES: dict[str, Rules] = {"lukemelas": LUKEMELAS}
