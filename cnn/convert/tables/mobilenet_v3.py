"""MobileNet v3. The last 1x1 convolution is our stage 5's block 4 in the large and in the small network."""

from cnn.convert.rules import Options, Rules
from cnn.convert.tables.efficientnet import BLOCK, FIRST, LATER, REST

LAST = "stage5/block4/project"

TIMM: Rules = (
    # The last convolution's norm is called `bn1`, as those of the widening layers are.
    (rf"{LATER}\.bn1", f"{BLOCK}/expand/bn|{LAST}/bn", "in order"),
    (
        rf"{FIRST}\.bn\d|{LATER}\.bn[23]",
        rf"(?!{LAST}){BLOCK}/(depthwise|project)/bn",
        "in order",
    ),
    (r"conv_head", "hidden"),
    *REST,
)

TORCHVISION: Rules = (
    (r"features\.0\.0", "stem/conv"),
    (r"features\.0\.1", "stem/bn"),
    (r"features\.(?!1\.)\d+\.block\.0\.0", f"{BLOCK}/expand/conv", "in order"),
    (r"features\.(?!1\.)\d+\.block\.0\.1", f"{BLOCK}/expand/bn", "in order"),
    (r"features\.\d+(\.block\.\d)?\.0", f"{BLOCK}/(depthwise|project)/conv", "in order"),
    (r"features\.\d+(\.block\.\d)?\.1", f"{BLOCK}/(depthwise|project)/bn", "in order"),
    (r"features\.\d+\.block\.\d\.fc1", f"{BLOCK}/se/reduce", "in order"),
    (r"features\.\d+\.block\.\d\.fc2", f"{BLOCK}/se/expand", "in order"),
    (r"classifier\.0", "hidden"),
    (r"classifier\.3", "head"),
)

OPTIONS: Options = {"torchvision": {"mobilenetv3_*": {"norm_epsilon": 1e-3}}}

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION}
