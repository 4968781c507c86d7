"""ResNet v2 and BiT, as timm names them. Its head is a 1x1 convolution."""

from cnn.convert.rules import Rules

BLOCK = r"stages\.(\d)\.blocks\.(\d+)"
OURS = "stage{1+1}/block{2+1}"

TIMM: Rules = (
    (r"stem\.conv(\d?)", "stem/conv1"),
    (rf"{BLOCK}\.conv(\d)", OURS + "/conv{3}"),
    (rf"{BLOCK}\.norm(\d)", OURS + "/bn{3}"),
    (rf"{BLOCK}\.downsample\.conv", OURS + "/proj"),
    (r"norm", "bn"),
    (r"head\.fc", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM}
