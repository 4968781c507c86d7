"""The CNN of MNIST-1D trained by its authors' recipe in PyTorch: what `mnist1d_cnn.py` should score.

    pip install -e '.[parity,data]'
    python -m experiments.parity.mnist1d_torch [--shuffle] [SEEDS]

Adam 1e-2, batch 100, 6000 steps, through the same forty batches again and again; `--shuffle` draws new ones
every epoch instead, which is worth half a point less. Written from the description in the paper and its
published notebook (greydanus/mnist1d, notebooks/train.py).
"""

import sys

import numpy as np
import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import nn

from cnn.scoring.sums import mean_interval

BATCH, STEPS = 100, 6000


def network() -> nn.Sequential:
    """5,210 parameters."""
    layers: list[nn.Module] = []
    for channels, window in ((1, 5), (25, 3), (25, 3)):
        layers += [nn.Conv1d(channels, 25, window, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(125, 10))


def accuracy(seed: int, shuffle: bool, data: dict[str, np.ndarray]) -> float:
    """Test accuracy in % of one training run."""
    torch.manual_seed(seed)
    x, x_test = (torch.tensor(data[key][:, None], dtype=torch.float32) for key in ("x", "x_test"))
    y, y_test = (torch.tensor(data[key], dtype=torch.int64) for key in ("y", "y_test"))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    order = torch.arange(len(x))
    for step in range(STEPS):
        start = step * BATCH % len(x)
        if shuffle and start == 0:
            order = torch.randperm(len(x))
        rows = order[start : start + BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * (model(x_test).argmax(1) == y_test).double().mean().item()


def main(argv: list[str]) -> None:
    """The command line."""
    shuffle = "--shuffle" in argv
    numbers = [int(word) for word in argv if word.isdigit()]
    data = make_dataset(get_dataset_args())
    torch.set_num_threads(1)
    found = []
    for seed in range(numbers[0] if numbers else 5):
        found.append(accuracy(seed, shuffle, data))
        print(f"seed {seed}: {found[-1]:.1f}", flush=True)
    interval = mean_interval(found)
    print(f"{'shuffled' if shuffle else 'fixed batches'}: {interval.mean:.2f} +- {interval.half_width:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
