"""Single nuclei: a trained network + watershed beside Otsu's threshold + watershed, on the test quadrant of nuclei2d.

    python -m experiments.benchmarks.instances --workdir=RUN [--data_dir=DIR]

Prints the share hits / (hits + extra + missed) at IoU 0.5 to 0.9, with the foreground's Dice.
"""

import argparse

import numpy as np

from cnn.data import open_provider
from cnn.inference.predictor import load
from cnn.scoring import instances, overlap
from cnn.tasks.segmentation import baselines

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
LEAST = 20  # pixels; the training quadrants' smallest nucleus, cut by a border, has 24


def row(name: str, said: np.ndarray, nuclei: np.ndarray) -> str:
    """One line of the table, of a foreground mask and the numbered true nuclei."""
    parted = instances.watershed_instances(said > 0, least=LEAST)
    found = [instances.match(parted, nuclei, threshold) for threshold in THRESHOLDS]
    dice = overlap.dice(overlap.count(said[None], (nuclei[None] > 0).astype(np.uint8), 2).sum(axis=0))[1]
    first = found[0]
    counts = f"{first.hits} found, {first.extra} made up, {first.missed} missed"
    return f"{name:<24} {dice:.4f} " + " ".join(f"{m.ap:.3f}" for m in found) + f"  {counts}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data_dir", default="")
    args = parser.parse_args()
    provider = open_provider("nuclei2d", args.data_dir)
    provider.prepare()
    nuclei, test = provider.nuclei("test"), provider.arrays("test")
    predictor = load(args.workdir)
    print(f"{'':<24} Dice   " + " ".join(f"@{threshold:.1f} " for threshold in THRESHOLDS) + "  at 0.5")
    said = predictor.rows([predictor.example(image) for image in test["image"]])
    otsu = baselines.bright(test["image"])
    for name, masks in (("Otsu + watershed", otsu), ("network + watershed", [r["mask"] for r in said])):
        for mask, true in zip(masks, nuclei, strict=True):
            print(row(name, mask, true))


if __name__ == "__main__":
    main()
