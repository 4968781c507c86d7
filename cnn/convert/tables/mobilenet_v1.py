"""MobileNet v1: timm's rows are our stages."""

from cnn.convert.rules import Rules

ROW, OURS = r"blocks\.(\d+)\.(\d+)", "stage{1+1}/block{2+1}"

TIMM: Rules = (
    (r"conv_stem", "stem/conv"),
    (r"bn1", "stem/bn"),
    (rf"{ROW}\.conv_dw", f"{OURS}/depthwise/conv"),
    (rf"{ROW}\.bn1", f"{OURS}/depthwise/bn"),
    (rf"{ROW}\.conv_pw", f"{OURS}/project/conv"),
    (rf"{ROW}\.bn2", f"{OURS}/project/bn"),
    (r"classifier", "head"),
)

TABLES: dict[str, Rules] = {"timm": TIMM}
