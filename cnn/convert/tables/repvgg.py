"""RepVGG in the form that is trained, as timm names it."""

from cnn.convert.rules import Rules

BLOCK = r"stages\.(\d)\.(\d+)"
OURS = "stage{1+1}/block{2+1}"

TIMM: Rules = (
    (r"stem\.conv_kxk\.(conv|bn)", "stem/conv3x3/{1}"),
    (r"stem\.conv_1x1\.(conv|bn)", "stem/conv1x1/{1}"),
    (rf"{BLOCK}\.conv_kxk\.(conv|bn)", OURS + "/conv3x3/{3}"),
    (rf"{BLOCK}\.conv_1x1\.(conv|bn)", OURS + "/conv1x1/{3}"),
    (rf"{BLOCK}\.identity", OURS + "/identity"),
    (r"head\.fc", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM}
