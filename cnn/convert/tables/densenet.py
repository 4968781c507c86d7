"""DenseNet: torchvision and timm share their names; old files have a dot more (`norm.1`)."""

from cnn.convert.rules import Rules

LAYER = r"features\.denseblock(\d+)\.denselayer(\d+)\."
OURS = "stage{1}/block{2}/"

TORCHVISION: Rules = (
    (r"features\.conv0", "stem_conv"),
    (r"features\.norm0", "stem_bn"),
    (LAYER + r"norm\.?(\d)", OURS + "bn{3}"),
    (LAYER + r"conv\.?(\d)", OURS + "conv{3}"),
    (r"features\.transition(\d+)\.norm", "transition{1}_bn"),
    (r"features\.transition(\d+)\.conv", "transition{1}_conv"),
    (r"features\.norm5", "bn"),
    (r"classifier", "head"),
)

TABLES: dict[str, Rules] = {"torchvision": TORCHVISION, "timm": TORCHVISION}
