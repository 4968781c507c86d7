"""FCN: torchvision's layout. Its files hold the auxiliary head, which is dropped without `aux`."""

from cnn.convert.rules import Rules
from cnn.convert.tables.resnet import TORCHVISION as RESNET


def head(theirs: str, ours: str) -> Rules:
    """torchvision's FCNHead: convolution, normalisation, ReLU, dropout, classifier."""
    return (
        (rf"{theirs}\.0", f"{ours}/conv/conv"),
        (rf"{theirs}\.1", f"{ours}/conv/bn"),
        (rf"{theirs}\.4", f"{ours}/classifier"),
    )


# torchvision's backbones keep their names below `backbone`, and have no classifier.
BACKBONE: Rules = tuple((rf"backbone\.{theirs}", f"backbone/{ours}") for theirs, ours in RESNET if ours != "head")
AUX = head("aux_classifier", "aux")
NO_AUX: Rules = ((r"aux_classifier\..*", None),)
NETWORK = BACKBONE + head("classifier", "head")

TABLES: dict[str, Rules] = {"torchvision": NETWORK + AUX, "torchvision_without_aux": NETWORK + NO_AUX}
