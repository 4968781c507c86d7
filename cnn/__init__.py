"""Convolutional networks in JAX and Flax: one trainer, one data path, one checkpoint format."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# Native libraries read these once, while they are loaded, so they are set before anything else of the
# package is imported. What the environment already says wins.
for _name, _value in {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # XLA and PJRT: errors only, no notes about the machine's features
    "GRPC_VERBOSITY": "ERROR",  # jax.distributed
    "OPENCV_LOG_LEVEL": "ERROR",  # odd image files are counted and reported by cnn itself
    "MPLBACKEND": "Agg",  # pictures go to files; there may be no display
}.items():
    os.environ.setdefault(_name, _value)


def load(path: str, which: int | str = "") -> Any:
    """The network of a run's workdir, one checkpoint folder, or a pretrained one by its name.

        cnn.load("efficientnet_lite0").predict("photo.jpg")

    See `cnn.inference.predictor.load`. JAX is imported here and not with the package.
    """
    return importlib.import_module("cnn.inference.predictor").load(path, which)
