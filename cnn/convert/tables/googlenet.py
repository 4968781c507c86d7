"""GoogLeNet: torchvision's layout. Its files hold the auxiliary classifiers, which are dropped without `aux`."""

from cnn.convert.rules import Rules

# torchvision: ours
BRANCHES = {
    "branch1": "branch1_conv1",
    "branch2.0": "branch2_conv1",
    "branch2.1": "branch2_conv2",
    "branch3.0": "branch3_conv1",
    "branch3.1": "branch3_conv2",
    "branch4.1": "branch4_conv1",
}
BLOCKS: Rules = tuple(
    (rf"inception(\d){letter}\.{theirs}\.(conv|bn)", f"stage{{1}}/block{block}/{ours}/{{2}}")
    for block, letter in enumerate("abcde", 1)
    for theirs, ours in BRANCHES.items()
)
NETWORK: Rules = ((r"conv(\d)\.(conv|bn)", "stem_conv{1}/{2}"), *BLOCKS, (r"fc", "head"))

TABLES: dict[str, Rules] = {
    "torchvision": (
        *NETWORK,
        (r"aux(\d)\.conv\.(conv|bn)", "aux{1}/conv/{2}"),
        (r"aux(\d)\.fc1", "aux{1}/hidden/fc1", "flatten_chw:128,4,4"),
        (r"aux(\d)\.fc2", "aux{1}/head"),
    ),
    "torchvision_without_aux": (*NETWORK, (r"aux\d\..*", None)),
}
