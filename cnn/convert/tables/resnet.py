"""ResNet: torchvision and timm share their names."""

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

TABLES: dict[str, Rules] = {"torchvision": TORCHVISION, "timm": TORCHVISION}
