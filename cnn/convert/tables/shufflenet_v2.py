"""ShuffleNet v2, of torchvision: `branch2` is ours, `branch1` what passes a block that strides."""

from cnn.convert.rules import Rules

BLOCK, OURS = r"stage(\d)\.(\d+)", "stage{1}/block{2+1}"

TORCHVISION: Rules = (
    (r"conv1\.0", "stem/conv"),
    (r"conv1\.1", "stem/bn"),
    (rf"{BLOCK}\.branch1\.0", f"{OURS}/proj_depthwise/conv"),
    (rf"{BLOCK}\.branch1\.1", f"{OURS}/proj_depthwise/bn"),
    (rf"{BLOCK}\.branch1\.2", f"{OURS}/proj/conv"),
    (rf"{BLOCK}\.branch1\.3", f"{OURS}/proj/bn"),
    (rf"{BLOCK}\.branch2\.0", f"{OURS}/conv1/conv"),
    (rf"{BLOCK}\.branch2\.1", f"{OURS}/conv1/bn"),
    (rf"{BLOCK}\.branch2\.3", f"{OURS}/depthwise/conv"),
    (rf"{BLOCK}\.branch2\.4", f"{OURS}/depthwise/bn"),
    (rf"{BLOCK}\.branch2\.5", f"{OURS}/conv2/conv"),
    (rf"{BLOCK}\.branch2\.6", f"{OURS}/conv2/bn"),
    (r"conv5\.0", "top/conv"),
    (r"conv5\.1", "top/bn"),
    (r"fc", "head"),
)

TABLES: dict[str, Rules] = {"torchvision": TORCHVISION}
