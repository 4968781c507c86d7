"""Data sets of the table: round trips, splits, repair, fake data, and no TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cnn import config
from cnn.data import DATASETS, open_dataset, open_provider
from cnn.data.pipeline import TrainBatches, example_spec
from cnn.data.sources import ArraySource, parse_split, targets
from cnn.errors import UserError
from cnn.transforms import build_transforms

SIZES = {"train": 898, "test": 899}


def opened(name, data_dir="", **fields):
    c = config.default().input
    c.dataset, c.data_dir = name, str(data_dir)
    c.update(fields)
    return open_dataset(c)


def test_digits_round_trip(data_dir):
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)
    dataset = opened("digits", data_dir)
    assert dataset.splits == SIZES
    assert dataset.info.num_classes == 10 and dataset.info.input_shape == (8, 8, 1)
    for split, part in (("train", slice(0, 898)), ("test", slice(898, None))):
        arrays = dataset.source(split).arrays
        found = sorted((a.tobytes(), int(b)) for a, b in zip(arrays["image"], arrays["label"], strict=True))
        truth = zip(images[part], data.target[part], strict=True)
        assert found == sorted((a.tobytes(), int(b)) for a, b in truth)


def test_memory_and_records_give_the_same_batches(data_dir):
    batches = [
        TrainBatches(opened("digits", data_dir, in_memory=way).source("train[:50%]"), [], 16, 0)
        for way in ("yes", "no")
    ]
    assert isinstance(batches[0].source, ArraySource) and not isinstance(batches[1].source, ArraySource)
    for key, value in batches[0][40].items():
        assert np.array_equal(value, batches[1][40][key]) and value.dtype == batches[1][40][key].dtype


@pytest.mark.parametrize("damage", ["truncate", "delete", "no info", "left over"])
def test_half_prepared_data_are_repaired(data_dir, tmp_path, damage):
    import shutil

    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    folder = next((tmp_path / "digits").glob("1.*"))
    record = next(folder.glob("*train*array_record*"))
    if damage == "truncate":
        os.truncate(record, record.stat().st_size // 2)
    elif damage == "delete":
        record.unlink()
    elif damage == "no info":
        (folder / "dataset_info.json").unlink()
    else:  # killed while it was written
        folder.rename(folder.parent / f"incomplete.ABC_{folder.name}")
    dataset = opened("digits", tmp_path)
    assert len(dataset.source("train").arrays["label"]) == 898
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write prepared data"):
        opened("digits", tmp_path / "file")


def test_split_syntax():
    def size(text):
        return sum(stop - start for _, start, stop in parse_split(text, SIZES))

    assert parse_split("train", SIZES) == [("train", 0, 898)]
    assert parse_split("train[:90%] + test[-10:]", SIZES) == [("train", 0, 808), ("test", 889, 899)]
    assert size("train[:33%]") + size("train[33%:]") == 898
    assert size("train[10:20]") == 10 and size("train[-20%:]") == 180 and size("train[800:99999]") == 98
    for text in ("train[5]", "train[:x%]", "", "train[:101%]", "train[50:10]", "train[:0]"):
        with pytest.raises(UserError):
            parse_split(text, SIZES)
    with pytest.raises(UserError, match="Did you mean 'train'.*test, train"):
        parse_split("trian", SIZES)


def test_splits_of_parts(data_dir):
    dataset = opened("digits", data_dir)
    whole = dataset.source("train").arrays["label"]
    first, second = dataset.source("train[:300]"), dataset.source("train[300:]")
    assert np.array_equal(np.concatenate([first.arrays["label"], second.arrays["label"]]), whole)
    assert np.shares_memory(first.arrays["image"], dataset.source("train").arrays["image"])
    lazy = opened("digits", data_dir, in_memory="no").source("train[890:]+test[:5]")
    eager = dataset.source("train[890:]+test[:5]")
    assert len(lazy) == len(eager) == 13
    for i in range(13):
        assert np.array_equal(lazy[i]["image"], eager[i]["image"]) and lazy[i]["label"] == eager[i]["label"]
    assert "record 2 of digits 'test'" in lazy.describe(10)


@pytest.mark.parametrize("name", DATASETS)
def test_fake_data(name):
    dataset = opened(name, fake=True)
    assert dataset.splits["train"] == 64 and dataset.splits["test"] == dataset.splits["validation"] == 40
    source, again = dataset.source("train"), opened(name, fake=True).source("train")
    for name, feature in dataset.info.features.items():
        array = source.arrays[name]
        assert len(array) == 64 and array.dtype == feature.dtype
        assert np.array_equal(array, again.arrays[name])
        for have, want in zip(array.shape[1:], feature.shape, strict=True):
            assert want in (None, have)
    target = source.arrays[dataset.info.target_key]
    if dataset.info.class_names:
        assert 0 <= target.min() and target.max() < dataset.info.num_classes
    assert len(dataset.source("train[:90%]")) == 58


def test_fake_examples_of_one_class_are_alike():
    arrays = opened("digits", fake=True).source("train").arrays
    images, labels = arrays["image"].astype(float), arrays["label"]
    same = np.abs(images[labels == 1][0] - images[labels == 1][1]).mean()
    assert same < 0.5 * np.abs(images[labels == 1][0] - images[labels == 2][0]).mean()


@pytest.mark.slow
def test_mnist1d_is_the_published_one(data_dir):
    from mnist1d.data import get_dataset_args, make_dataset

    state = np.random.get_state()[1].copy()
    arrays = opened("mnist1d", data_dir).source("train").arrays
    assert np.array_equal(np.random.get_state()[1], state)
    assert arrays["series"].shape == (4000, 40, 1) and arrays["series"].dtype == np.float32
    truth = make_dataset(get_dataset_args())
    assert sorted(map(bytes, arrays["series"])) == sorted(map(bytes, truth["x"].astype(np.float32)))


def test_cifar10_from_its_files_without_tensorflow(tmp_path, monkeypatch):
    """TFDS's own builder, fed with a tiny archive of the published layout."""
    import tensorflow_datasets as tfds

    folder = tmp_path / "raw" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for i, name in enumerate(names):
        rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        rows[:, 0] = i % 10
        (folder / name).write_bytes(rows.tobytes())
    classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n")
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(tmp_path / "raw")
    )
    dataset = opened("cifar10", tmp_path / "data")
    assert dataset.splits == {"train": 20, "test": 4} and dataset.info.class_names == tuple(classes)
    assert opened("cifar10", tmp_path / "data").info == dataset.info
    found = dataset.source("test").arrays["image"]
    planes = np.frombuffer((folder / "test_batch.bin").read_bytes(), np.uint8).reshape(4, 3073)[:, 1:]
    truth = planes.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    assert sorted(map(bytes, found)) == sorted(np.ascontiguousarray(x).tobytes() for x in truth)


def test_downloads_that_fail_say_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def offline(self, url):
        raise ConnectionError("Max retries exceeded")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", offline)
    with pytest.raises(UserError, match="Max retries.*cnn data prepare cifar100"):
        opened("cifar100", tmp_path)
    with pytest.raises(UserError, match="image-net.org.*ILSVRC2012_img_train.tar"):
        opened("imagenet2012", tmp_path)


def test_imagenet_without_tensorflow(tmp_path):
    """TFDS's own builder on archives of the published layout, with a CMYK picture and a PNG."""
    import io
    import tarfile

    from PIL import Image

    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)

    def add(tar, name, content):
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))

    def encoded(mode="RGB", kind="jpeg"):
        buffer = io.BytesIO()
        Image.new(mode, (20, 16)).save(buffer, format=kind)
        return buffer.getvalue()

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        add(tar, "n01440764_1.JPEG", encoded())
        add(tar, "n01739381_1309.JPEG", encoded("CMYK"))
        add(tar, "n02105855_2933.JPEG", encoded(kind="png"))
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as tar:
        add(tar, "n01440764.tar", inner.getvalue())
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as tar:
        for i in range(1, 4):
            add(tar, f"ILSVRC2012_val_{i:08d}.JPEG", encoded())
    dataset = opened("imagenet2012", tmp_path)
    assert dataset.splits == {"train": 3, "validation": 3} and dataset.info.num_classes == 1000
    source = dataset.source("train")
    assert [source[i]["image"].shape for i in range(3)] == [(16, 20, 3)] * 3


def test_fashion_mnist_files_are_verified(tmp_path):
    import gzip

    from cnn.data.datasets import fashion_mnist

    for name in fashion_mnist.RAW_FILES:
        (tmp_path / name).write_bytes(gzip.compress(b"something else"))
    assert fashion_mnist.find_files(str(tmp_path))["t10k-labels-idx1-ubyte.gz"].startswith(str(tmp_path))
    with pytest.raises(UserError, match="sha256 differs"):
        opened("fashion_mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gz")
    with pytest.raises(UserError, match="cannot be unpacked"):
        opened("fashion_mnist", tmp_path)


def test_names_are_checked():
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        open_provider("digts")
    with pytest.raises(UserError, match="dataset is not set"):
        open_provider("")
    with pytest.raises(UserError, match="auto, no, yes"):
        opened("digits", fake=True, in_memory="maybe")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"needs the package 'sklearn': pip install 'cnn\[data\]'"):
        opened("digits", tmp_path)


def test_fingerprint(data_dir):
    first = opened("digits", data_dir)
    assert first.fingerprint == opened("digits", data_dir, in_memory="no").fingerprint
    fakes = [opened(name, fake=True).fingerprint for name in ("digits", "mnist1d", "mnist1d_shuffled")]
    assert len({first.fingerprint, *fakes}) == 4


@pytest.mark.parametrize("way", ["yes", "no"])
def test_labels_without_decoding(data_dir, image_folder, way):
    source = opened("digits", data_dir, in_memory=way).source("train[:30]+test[:5]")
    assert way == "no" or np.array_equal(targets(source), [source[i]["label"] for i in range(35)])
    assert way == "yes" or targets(source) is None
    dataset = opened("folder", image_folder, in_memory=way if way == "no" else "auto")
    source = dataset.source("train[3:9]+validation")
    assert np.array_equal(targets(source), [source[i]["label"] for i in range(len(source))])


def test_shape_of_an_example(data_dir, image_folder):
    transforms = build_transforms((("channels", {}), ("resize", {"size": (7, 9)})))
    for dataset in (opened("digits", data_dir), opened("folder", image_folder), opened("folder", fake=True)):
        found = example_spec(dataset.source("train"), transforms)
        assert found == {"image": ((7, 9, 3), np.uint8), "label": ((), np.int32)}


NO_TENSORFLOW = """
import sys
from cnn import config
from cnn.data import open_dataset
from cnn.data.pipeline import EvalBatches, TrainBatches, iterate
from cnn.transforms import TRANSFORMS, build_transforms

assert "numpy" not in sys.modules or True
c = config.default().input
c.dataset, c.data_dir, c.in_memory = "digits", {data_dir!r}, "no"
dataset = open_dataset(c)
transforms = build_transforms((("shift", {{}}), ("flip", {{}}), ("randaugment", {{}})))
next(iterate(TrainBatches(dataset.source("train"), transforms, 8, 0), 0, 2))
next(iterate(EvalBatches(dataset.source("test"), transforms, 8)))
print("tensorflow" in sys.modules)
"""


def test_tensorflow_is_never_imported(data_dir):
    done = subprocess.run(
        [sys.executable, "-c", NO_TENSORFLOW.format(data_dir=str(data_dir))],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("module", ["cnn.data", "cnn.transforms"])
def test_tables_are_light(module):
    code = f"import sys, {module}; print([m for m in ('jax', 'numpy', 'grain', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
