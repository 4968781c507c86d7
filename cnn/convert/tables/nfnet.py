"""NFNet and NF-ResNet, as timm names them."""

from cnn.convert.rules import Rules

BLOCK = r"stages\.(\d)\.(\d+)"
OURS = "stage{1+1}/block{2+1}"

TIMM: Rules = (
    (r"stem\.conv(\d)\.gain", "stem/conv{1}/gain", "reshape"),
    (r"stem\.conv\.gain", "stem/conv1/gain", "reshape"),
    (r"stem\.conv(\d)", "stem/conv{1}"),
    (r"stem\.conv", "stem/conv1"),
    (rf"{BLOCK}\.conv(\d)(b?)\.gain", OURS + "/conv{3}{4}/gain", "reshape"),
    (rf"{BLOCK}\.conv(\d)(b?)", OURS + "/conv{3}{4}"),
    (rf"{BLOCK}\.downsample\.conv\.gain", OURS + "/proj/gain", "reshape"),
    (rf"{BLOCK}\.downsample\.conv", OURS + "/proj"),
    (rf"{BLOCK}\.attn_last\.fc1", OURS + "/se/reduce"),
    (rf"{BLOCK}\.attn_last\.fc2", OURS + "/se/expand"),
    (rf"{BLOCK}\.attn_last\.conv\.weight", OURS + "/eca/kernel"),
    (rf"{BLOCK}\.skipinit_gain", OURS + "/skip_gain"),
    (r"final_conv\.gain", "last_conv/gain", "reshape"),
    (r"final_conv", "last_conv"),
    (r"head\.fc", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM}
