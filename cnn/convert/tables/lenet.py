"""LeNet-5: neither library has it; the names are those of PyTorch's tutorials."""

from cnn.convert.rules import Rules

TABLES: dict[str, Rules] = {
    "tutorial": (
        (r"conv(\d)", "stage{1}/conv"),
        (r"fc1", "hidden/fc1", "flatten_chw:16,5,5"),
        (r"fc2", "hidden/fc2"),
        (r"fc3", "head"),
    )
}
