"""Stores what MONAI says of 200 random pairs of masks: the reference of tests/scoring/test_surfaces.py.

    pip install monai torch scikit-image          # a large environment, so tests read the stored answers
    python -m experiments.parity.surfaces_monai   # writes tests/scoring/surfaces_monai.npz

The pairs are made from their number alone, by `pair`, which the test calls too: only answers and a sum of each mask are
stored. Every tenth truth and every tenth prediction is empty, one pair in a hundred both; a fifth are pictures.
"""

from pathlib import Path

import numpy as np

COUNT = 200
TOLERANCE = 1.5  # of the surface Dice, in the units of the spacing
FILE = Path(__file__).resolve().parents[2] / "tests" / "scoring" / "surfaces_monai.npz"


def pair(number: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """(truth, prediction, spacing) of case `number`: blobs that overlap, with specks; pure integers and sines."""
    rng = np.random.Generator(np.random.PCG64(number))
    rank = 2 if number % 5 == 4 else 3
    shape = tuple(int(n) for n in rng.integers(6, 22, rank))
    spacing = tuple(float(s) for s in rng.integers(2, 16, rank) / 4)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    column = (slice(None),) + (None,) * rank
    centre = rng.integers(0, np.array(shape))
    radius = rng.integers(2, 8)

    def blob(move: int) -> np.ndarray:
        place = centre + rng.integers(-move, move + 1, rank)
        inside = ((grid - place[column]) ** 2).sum(0) <= (radius + rng.integers(-1, 2)) ** 2
        return inside ^ (rng.integers(0, 40, shape) == 0)

    truth, predicted = blob(0), blob(3)
    if number % 10 == 0:
        truth[:] = False
    if number % 10 == 1 or number % 100 == 0:
        predicted[:] = False
    return truth, predicted, spacing


def main() -> None:
    """Asks MONAI and writes the file."""
    import monai
    import torch
    from monai import metrics

    answers = np.zeros((COUNT, 4))
    for number in range(COUNT):
        truth, predicted, spacing = pair(number)
        t, p = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (truth, predicted))
        options = {"include_background": True, "spacing": spacing}
        answers[number] = [
            metrics.compute_dice(p, t, include_background=True, ignore_empty=False).item(),
            metrics.compute_hausdorff_distance(p, t, percentile=95, **options).item(),
            metrics.compute_average_surface_distance(p, t, symmetric=True, **options).item(),
            metrics.compute_surface_dice(p, t, [TOLERANCE], **options).item(),
        ]
    sums = np.array([[mask.sum() for mask in pair(number)[:2]] for number in range(COUNT)])
    np.savez_compressed(FILE, answers=answers, sums=sums, version=monai.__version__)
    print(f"{FILE.name}: {COUNT} pairs, MONAI {monai.__version__}")


if __name__ == "__main__":
    main()
