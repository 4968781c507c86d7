"""A volume that is larger than memory should be, through a network in tiles: seconds and the most memory held.

    python -m experiments.benchmarks.tiles [--size=512] [--tile=128] [--overlap=0.25] [--model=unet3d]

Input and result lie in files. The network is a small one with fresh weights: what is measured is the way through, whose
memory does not depend on the depth of the volume. Beside the peak of the process stands what it held before.
"""

import argparse
import os
import resource
import tempfile
import time

import jax
import numpy as np

from cnn.inference.tiles import Tiling, slab_bytes, tiled
from cnn.models import build_model


def memory() -> float:
    """GiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--model", default="unet3d")
    parser.add_argument("--widths", type=int, nargs="+", default=(4, 8, 8))
    args = parser.parse_args()
    model = build_model(args.model, {"num_classes": 2, "widths": tuple(args.widths)})
    space, tile = (args.size,) * 3, (args.tile,) * 3
    tiling = Tiling(tile, args.overlap, multiple=max(model.feature_strides))
    one = np.zeros((1, *tile, 1), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), one, train=False))()
    step = jax.jit(lambda x: jax.nn.softmax(model.apply(variables, x, train=False)["logits"]))
    jax.block_until_ready(step(one))
    before = memory()
    with tempfile.TemporaryDirectory() as folder:
        x = np.lib.format.open_memmap(os.path.join(folder, "x.npy"), "w+", np.float32, (*space, 1))
        out = np.lib.format.open_memmap(os.path.join(folder, "out.npy"), "w+", np.uint8, space)
        began = time.monotonic()
        tiled(step, x, tiling, finish=lambda values: values.argmax(-1).astype(np.uint8), out=out)
        seconds = time.monotonic() - began
    tiles = np.prod([len(tiling.starts(axis, args.size)) for axis in range(3)])
    size, side = "x".join(map(str, space)), "x".join(map(str, tile))
    whole = 4 * 3 * np.prod(space) / 2**30  # values of one channel in, two classes out
    print(f"{size} in {tiles} tiles of {side}: {seconds:.0f} s, peak {memory():.2f} GiB ({before:.2f} before)")
    print(f"sums {slab_bytes(space, tiling, 2) / 2**30:.2f} GiB; the whole input and its logits: {whole:.2f} GiB")


if __name__ == "__main__":
    main()
