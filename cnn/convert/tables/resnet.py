"""ResNet and its relatives: torchvision and timm share their names. timm's deep stems are one sequence, `conv1`."""

from cnn.convert.rules import Rules

BLOCK = r"layer(\d)\.(\d+)"
OURS = "stage{1}/block{2+1}"

TORCHVISION: Rules = (
    (r"(conv|bn)1", "stem/{1}1"),
    (rf"{BLOCK}\.(conv|bn)(\d)", OURS + "/{3}{4}"),
    (rf"{BLOCK}\.downsample\.0", OURS + "/proj"),
    (rf"{BLOCK}\.downsample\.1", OURS + "/proj_bn"),
    (r"fc", "head"),
)

ATTENTION: Rules = (
    (rf"{BLOCK}\.se\.fc1", OURS + "/se/reduce"),
    (rf"{BLOCK}\.se\.fc2", OURS + "/se/expand"),
    (rf"{BLOCK}\.se\.conv\.weight", OURS + "/eca/kernel"),
)
# Stem: conv, bn, ReLU, conv, bn, ReLU, conv; the third normalisation is `bn1`. Behind a pooled shortcut everything
# is one place later.
TIMM_DEEP: Rules = (
    (r"conv1\.0", "stem/conv1"),
    (r"conv1\.1", "stem/bn1"),
    (r"conv1\.3", "stem/conv2"),
    (r"conv1\.4", "stem/bn2"),
    (r"conv1\.6", "stem/conv3"),
    (r"bn1", "stem/bn3"),
    (rf"{BLOCK}\.downsample\.1", OURS + "/proj"),
    (rf"{BLOCK}\.downsample\.2", OURS + "/proj_bn"),
    *TORCHVISION[1:2],
    *ATTENTION,
    *TORCHVISION[4:],
)

TABLES: dict[str, Rules] = {"torchvision": TORCHVISION, "timm": TORCHVISION + ATTENTION, "timm_deep": TIMM_DEEP}
