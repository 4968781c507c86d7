"""The table of MNIST-1D (Greydanus & Kobak 2024): does structure help, and is it the order that helps?

The tolerance is the larger of two numbers, rounded up to a half: how far the authors' own table and notebook are
apart, and the half width of the 95 % Wilson interval of the published accuracy on 1000 test examples. It was set before
the rows were run.
"""

from experiments.study import Row

QUESTION = "MNIST-1D: which network profits from the order of the steps?"
TABLE = "Greydanus & Kobak 2024 (arXiv 2011.14439), table in the README of greydanus/mnist1d"
FOLDER = "configs/classification"
GRU = {"model.name": "experiments.recurrent:bigru"}


def row(name: str, config: str, expected: float, tolerance: float, **overrides: str) -> Row:
    """One network, on the ordered or on the shuffled steps."""
    if name.endswith("_shuffled"):
        overrides["input.dataset"] = "mnist1d_shuffled"
    return Row(
        name, f"{FOLDER}/mnist1d_{config}.py", overrides, expected, tolerance, TABLE, size="ci", minutes=0.3
    )


# Their notebook at 6000 steps: 31.5, 65.1, 92.3, 89.1; shuffled 31.5, 66.0, 58.7, 53.3.
ROWS = [
    row("logistic", "logistic", 32, 3),
    row("mlp", "mlp", 68, 3),
    row("cnn", "cnn", 94, 2),
    row("gru", "cnn", 91, 2, **GRU),
    row("logistic_shuffled", "logistic", 32, 3),
    row("mlp_shuffled", "mlp", 68, 3),
    row("cnn_shuffled", "cnn", 56, 3.5),
    row("gru_shuffled", "cnn", 57, 4, **GRU),
]
COMPARE = [
    ("cnn", "mlp"),
    ("cnn", "gru"),
    ("cnn", "cnn_shuffled"),
    ("mlp", "mlp_shuffled"),
    ("cnn_shuffled", "mlp_shuffled"),
]
