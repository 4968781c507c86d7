"""Data sets that TFDS's own builders download: CIFAR and ImageNet."""

import functools
from typing import Any

import tensorflow_datasets as tfds

from cnn.data.records import Records

_COPY = (
    "Where this machine has no network, run `cnn data prepare {0} --data_dir=DIR` on one that has, "
    "and copy DIR/{0} into the data_dir here"
)
_IMAGENET = (
    "ImageNet needs an account at image-net.org: put ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar into DATA_DIR/downloads/manual, then run "
    "`cnn data prepare imagenet2012 --data_dir=DATA_DIR` (300 GB free, some hours)"
)


def _builder(name: str, **options: Any) -> Any:
    return tfds.builder_cls(name)(**options)


def cifar10(data_dir: str = "") -> Records:
    """CIFAR-10 (Krizhevsky 2009)."""
    return Records(functools.partial(_builder, "cifar10"), data_dir, help=_COPY.format("cifar10"))


def cifar100(data_dir: str = "") -> Records:
    """CIFAR-100 (Krizhevsky 2009), the 100 fine classes."""
    return Records(functools.partial(_builder, "cifar100"), data_dir, help=_COPY.format("cifar100"))


def imagenet2012(data_dir: str = "") -> Records:
    """ImageNet-1k (Russakovsky et al. 2015); its test split has no labels and is left out."""
    splits = ("train", "validation")
    return Records(functools.partial(_builder, "imagenet2012"), data_dir, splits, _IMAGENET)
