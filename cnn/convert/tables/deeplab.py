"""DeepLab v3: torchvision's layout, on ResNet and on MobileNet v3. The auxiliary head is dropped without `aux`."""

from cnn.convert.rules import Rules
from cnn.convert.tables.fcn import AUX, BACKBONE, NO_AUX
from cnn.convert.tables.mobilenet_v3 import TORCHVISION as MOBILENET

# The branches are 1x1, three dilated 3x3, and the mean (behind the pooling, which is its number 0).
HEAD: Rules = (
    (r"classifier\.0\.convs\.0\.0", "head/aspp/point/conv"),
    (r"classifier\.0\.convs\.0\.1", "head/aspp/point/bn"),
    (r"classifier\.0\.convs\.([123])\.0", "head/aspp/atrous{1}/conv"),
    (r"classifier\.0\.convs\.([123])\.1", "head/aspp/atrous{1}/bn"),
    (r"classifier\.0\.convs\.4\.1", "head/aspp/pooled/conv"),
    (r"classifier\.0\.convs\.4\.2", "head/aspp/pooled/bn"),
    (r"classifier\.0\.project\.0", "head/aspp/join/conv"),
    (r"classifier\.0\.project\.1", "head/aspp/join/bn"),
    (r"classifier\.1", "head/conv/conv"),
    (r"classifier\.2", "head/conv/bn"),
    (r"classifier\.4", "head/classifier"),
)
# The network's list of blocks is the backbone itself.
MOBILENET_BACKBONE: Rules = tuple(
    (theirs.replace("features", "backbone", 1), f"backbone/{ours}", *how)
    for theirs, ours, *how in MOBILENET
    if theirs.startswith("features")
)

TABLES: dict[str, Rules] = {
    "torchvision": BACKBONE + HEAD + AUX,
    "torchvision_without_aux": BACKBONE + HEAD + NO_AUX,
    "torchvision_mobilenet": MOBILENET_BACKBONE + HEAD + AUX,
    "torchvision_mobilenet_without_aux": MOBILENET_BACKBONE + HEAD + NO_AUX,
}
