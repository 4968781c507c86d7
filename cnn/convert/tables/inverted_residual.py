"""timm's names in the families that are lists of inverted residuals.

timm's stages are the rows of the papers' tables, ours end where the resolution does, so blocks are matched in order.
Its numbers shift with what a block has: `bn1` is the widening's, except in blocks without one, all of them in row 0.
"""

from cnn.convert.rules import Rules

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
