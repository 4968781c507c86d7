"""ConvNeXt, both versions."""

from cnn.convert.rules import Rules

BLOCK = r"stages\.(\d)\.blocks\.(\d+)"
OURS = "stage{1+1}/block{2+1}"

TIMM: Rules = (
    (r"stem\.0", "stem"),
    (r"stem\.1", "stem_norm"),
    (r"stages\.(\d)\.downsample\.0", "down{1+1}_norm"),
    (r"stages\.(\d)\.downsample\.1", "down{1+1}"),
    (rf"{BLOCK}\.conv_dw", OURS + "/depthwise"),
    (rf"{BLOCK}\.norm", OURS + "/norm"),
    (rf"{BLOCK}\.mlp\.fc1", OURS + "/expand"),
    (rf"{BLOCK}\.mlp\.grn", OURS + "/grn"),
    (rf"{BLOCK}\.mlp\.fc2", OURS + "/reduce"),
    (rf"{BLOCK}\.gamma", OURS + "/layer_scale"),
    (r"head\.norm", "head_norm"),
    (r"head\.fc", "head"),
)

# `features` is one sequence: stem, stage 1, down 2, stage 2, ...
TORCHVISION: Rules = (
    (r"features\.0\.0", "stem"),
    (r"features\.0\.1", "stem_norm"),
    *(
        rule
        for stage in (1, 2, 3, 4)
        for rule in (
            (rf"features\.{2 * stage - 2}\.0", f"down{stage}_norm"),
            (rf"features\.{2 * stage - 2}\.1", f"down{stage}"),
            (rf"features\.{2 * stage - 1}\.(\d+)\.block\.0", f"stage{stage}/block{{1+1}}/depthwise"),
            (rf"features\.{2 * stage - 1}\.(\d+)\.block\.2", f"stage{stage}/block{{1+1}}/norm"),
            (rf"features\.{2 * stage - 1}\.(\d+)\.block\.3", f"stage{stage}/block{{1+1}}/expand"),
            (rf"features\.{2 * stage - 1}\.(\d+)\.block\.5", f"stage{stage}/block{{1+1}}/reduce"),
            (
                rf"features\.{2 * stage - 1}\.(\d+)\.layer_scale",
                f"stage{stage}/block{{1+1}}/layer_scale",
                "reshape",
            ),
        )
    ),
    (r"classifier\.0", "head_norm"),
    (r"classifier\.2", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM, "torchvision": TORCHVISION}
