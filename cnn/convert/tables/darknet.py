"""Darknet: timm's layout."""

from cnn.convert.rules import Rules

TABLES: dict[str, Rules] = {
    "timm": (
        (r"stem\.conv1\.(conv|bn)", "stem/{1}"),
        (r"stages\.(\d+)\.conv_down\.(conv|bn)", "stage{1+1}/down/{2}"),
        (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d)\.(conv|bn)", "stage{1+1}/block{2+1}/conv{3}/{4}"),
        (r"head\.fc", "head"),
    )
}
