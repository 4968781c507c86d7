"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 70000 grey pictures of clothes, 28x28, 10 classes."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn.data.fetch import from_debian
from cnn.data.records import Records
from cnn.errors import UserError

# sha256 of the unpacked files; packed ones differ between distributors.
RAW_FILES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CLASSES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = os.path.join("usr", "share", "datasets", "fashion-mnist")
HELP = (
    f"Install the Debian package {DEBIAN_PACKAGE}, or put its four .gz files into the data_dir, or run "
    "`cnn data prepare fashion_mnist --data_dir=DIR` on a machine with a network and copy DIR here"
)


class FashionMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """60000 / 10000 pictures, from the four files of the authors."""

    name = "fashion_mnist"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, description=__doc__, license="MIT"
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        files = find_files(os.fspath(self.data_dir_root))
        if files is None:
            url = tfds.image_classification.FashionMNIST.URL
            files = {name: os.fspath(dl_manager.download(url + name)) for name in RAW_FILES}
        raw = {name: unpack(path, RAW_FILES[name]) for name, path in files.items()}
        return {
            split: self._generate_examples(
                np.frombuffer(raw[f"{stem}-images-idx3-ubyte.gz"], np.uint8, offset=16),
                np.frombuffer(raw[f"{stem}-labels-idx1-ubyte.gz"], np.uint8, offset=8),
            )
            for split, stem in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(self, images: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, image in enumerate(images.reshape(len(labels), 28, 28, 1)):
            yield i, {"image": image, "label": int(labels[i])}


def unpack(path: str, sha256: str) -> bytes:
    """The unpacked content of a gz file.

    Raises:
      UserError: it is not what the authors published.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}); delete it and try again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the published file (sha256 differs); delete it and try again")
    return content


def find_files(root: str) -> dict[str, str] | None:
    """The four files in `root`, of the installed Debian package, or fetched from Debian into `root`."""
    fetched = os.path.join(root, "downloads", DEBIAN_PACKAGE)
    for folder in (
        root,
        os.path.join(root, "fashion_mnist"),
        os.path.join(os.sep, DEBIAN_FOLDER),
        os.path.join(fetched, DEBIAN_FOLDER),
    ):
        files = {name: os.path.join(folder, name) for name in RAW_FILES}
        if all(map(os.path.isfile, files.values())):
            return files
    if from_debian(DEBIAN_PACKAGE, fetched, [os.path.join(DEBIAN_FOLDER, name) for name in RAW_FILES]):
        return {name: os.path.join(fetched, DEBIAN_FOLDER, name) for name in RAW_FILES}
    return None


def fashion_mnist(data_dir: str = "") -> Records:
    """The data set 'fashion_mnist'."""
    return Records(FashionMnist, data_dir, help=HELP)
