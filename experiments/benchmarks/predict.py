"""`cnn predict` on few and on many files: files per second, and the most memory that the process held.

    python -m experiments.benchmarks.predict [--files 50 5000] [--size=64] [--model=resnet18]

Each row is a process of its own: a network with fresh weights, JPEGs of `size` pixels in a temporary folder, and
predictions into a file. Start-up and compilation are in the seconds; the rate is that of the files beyond the first
row's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cnn.convert.imported import Preprocessing, dataset_info, network, write


def pictures(folder: Path, count: int, size: int) -> None:
    """Writes `count` JPEGs, folder/00000.jpg and so on, all different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    for number in range(count):
        waves = np.sin(x[..., None] * rng.uniform(0, 20, 3) + y[..., None] * rng.uniform(0, 20, 3))
        Image.fromarray(np.uint8(127 + 120 * waves)).save(folder / f"{number:05d}.jpg", quality=90)


def measured(workdir: Path, folder: Path, out: Path) -> tuple[float, float]:
    """(seconds, most MB held) of one `cnn predict`."""
    began = time.monotonic()
    command = ["-m", "cnn", "predict", f"--workdir={workdir}", str(folder), f"--out={out}"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cnn predict ended with {process.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=(50, 5000))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--suffix", default=".jsonl", choices=(".jsonl", ".parquet"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        built = network(args.model, {}, dataset_info(10), Preprocessing(args.size, args.size))
        workdir = write(built, jax.jit(built.init)(), root / "network", {})
        warm = root / "warm"
        pictures(warm, 40, args.size)
        measured(workdir, warm, root / f"warm{args.suffix}")  # fills the compilation cache
        first, rows = None, []
        print("| files | seconds | files/s | peak MB |\n|---|---|---|---|")
        for count in args.files:
            pictures(root / str(count), count, args.size)
            seconds, peak = measured(workdir, root / str(count), root / f"{count}{args.suffix}")
            rows.append((count, seconds, peak))
            first = first or rows[0]
            beyond = (count - first[0]) / (seconds - first[1]) if count > first[0] else None
            print(f"| {count:,} | {seconds:.1f} | {f'{beyond:.0f}' if beyond else ''} | {peak:.0f} |", flush=True)
        spread = max(peak for _, _, peak in rows) - min(peak for _, _, peak in rows)
        print(f"\n{args.model}, {args.size} px: peaks within {spread:.0f} MB of each other")


if __name__ == "__main__":
    main()
