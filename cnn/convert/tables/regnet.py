"""RegNet."""

from cnn.convert.rules import Rules

BLOCK = r"s(\d)\.b(\d+)"
OURS = "stage{1}/block{2}"

TIMM: Rules = (
    (r"stem\.(conv|bn)", "stem/{1}"),
    (rf"{BLOCK}\.conv(\d)\.(conv|bn)", OURS + "/conv{3}/{4}"),
    (rf"{BLOCK}\.se\.fc1", OURS + "/se/reduce"),
    (rf"{BLOCK}\.se\.fc2", OURS + "/se/expand"),
    (rf"{BLOCK}\.downsample\.(conv|bn)", OURS + "/proj/{3}"),
    (r"head\.fc", "head"),
)

BLOCK_TV = r"trunk_output\.block(\d)\.block\d-(\d+)"
OURS_TV = "stage{1}/block{2+1}"
LAYERS = {"a": "conv1", "b": "conv2", "c": "conv3"}
PARTS = {"0": "conv", "1": "bn"}

TORCHVISION: Rules = (
    *((rf"stem\.{part}", f"stem/{ours}") for part, ours in PARTS.items()),
    *(
        (rf"{BLOCK_TV}\.f\.{layer}\.{part}", f"{OURS_TV}/{name}/{ours}")
        for layer, name in LAYERS.items()
        for part, ours in PARTS.items()
    ),
    *((rf"{BLOCK_TV}\.proj\.{part}", f"{OURS_TV}/proj/{ours}") for part, ours in PARTS.items()),
    (rf"{BLOCK_TV}\.f\.se\.fc1", OURS_TV + "/se/reduce"),
    (rf"{BLOCK_TV}\.f\.se\.fc2", OURS_TV + "/se/expand"),
    (r"fc", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION}
