"""Data sets prepared by TFDS as ArrayRecord files and read by random access, without TensorFlow."""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cnn.data import Provider, data_root
from cnn.data.sources import RecordSource, in_memory
from cnn.errors import UserError
from cnn.features import KINDS, LABEL, DatasetInfo

FILE_FORMAT = "array_record"
_DECODED = 1  # raise it when decoding changes


class Records(Provider):
    """A TFDS builder behind the table of data sets.

    Args:
      make: called with data_dir=, file_format=; a builder class, or `tfds.builder` with its name.
      splits: names of the splits that can be used.
      help: what a user does where preparing fails, for data that need a download.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        data_dir: str,
        splits: tuple[str, ...] = ("train", "test"),
        help: str = "",
    ):
        self.splits, self.root, self._help = splits, data_root(data_dir), help
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self.builder = make(data_dir=self.root, file_format=FILE_FORMAT)
        self.info = self._describe()

    def _describe(self) -> DatasetInfo:
        features = self.builder.info.features
        key = next(key for key in KINDS if key in features)
        names = tuple(features["label"].names)
        return DatasetInfo(self.builder.name, {key: KINDS[key](*tuple(features[key].shape))}, {"label": LABEL}, names)

    @property
    def directory(self) -> str:
        """The folder of the prepared files."""
        return os.fspath(self.builder.data_path)

    def prepare(self) -> None:
        if not self.complete():
            try:
                with _lock(self.root, self.info.name):
                    if not self.complete():  # another process may have made it while this one waited
                        self._make()
            except OSError as error:
                raise UserError(f"cannot write prepared data to {self.root}: {error}") from error
        self.info = self._describe()  # some builders learn the names of the classes from their files

    def _make(self) -> None:
        import tensorflow_datasets as tfds

        parent, name = os.path.split(self.directory)
        if os.path.isdir(self.directory):
            _refuse_other_format(self.directory, self.info.name)
            print(f"{self.info.name}: {self.directory} is damaged, making it again", file=sys.stderr)
            shutil.rmtree(self.directory)
        for left_over in os.listdir(parent) if os.path.isdir(parent) else ():
            if left_over.startswith("incomplete.") or left_over.startswith(f"{name}.incomplete"):
                shutil.rmtree(os.path.join(parent, left_over))  # of a process that was killed
        print(f"{self.info.name}: preparing in {self.directory} (once)", file=sys.stderr)
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        logger = logging.getLogger("urllib3")
        level = logger.level
        logger.setLevel(logging.ERROR)  # else a line per retry without a network
        try:
            with (
                without_tensorflow(sys.modules[type(self.builder).__module__]),
                contextlib.redirect_stdout(io.StringIO()),  # two lines that say nothing new
            ):
                self.builder.download_and_prepare()
        except UserError:
            raise
        except ImportError as error:  # of what the examples come from
            package = (error.name or str(error)).split(".")[0]
            raise UserError(
                f"preparing {self.info.name} needs the package '{package}': pip install 'cnn[data]'"
            ) from error
        except Exception as error:
            if not self._help:
                raise
            lines = str(error).strip().splitlines() or [""]
            cause = f"{type(error).__name__}: {lines[0][:200]}"
            advice = self._help.replace("DATA_DIR", self.root)
            raise UserError(f"cannot prepare {self.info.name} ({cause}). {advice}") from error
        finally:
            logger.setLevel(level)

    def complete(self) -> bool:
        """Whether every file that the prepared data set names is there and can be opened."""
        if not os.path.isfile(os.path.join(self.directory, "dataset_info.json")):
            return False
        try:
            self.builder.info.read_from_directory(self.directory)
            found = self.builder.info.splits
            for name in self.splits:
                if name not in found:
                    return False
                paths = [os.fspath(path) for path in found[name].filepaths]
                if not all(os.path.isfile(path) and os.path.getsize(path) for path in paths):
                    return False
                if len(paths) > 16:  # opening thousands of files would cost more than it finds
                    continue
                source, size = self.source(name), found[name].num_examples
                if len(source) != size or not size:
                    return False
                source[0], source[size - 1]
        except Exception:  # whatever a truncated file makes the readers raise
            return False
        return True

    def contents(self) -> tuple[str, ...]:
        return (self.builder.info.full_name,)

    def sizes(self) -> dict[str, int]:
        return {name: self.builder.info.splits[name].num_examples for name in self.splits}

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        if split not in self._arrays:
            self._arrays[split] = self._decoded(split)
        return self._arrays[split]

    def _decoded(self, split: str) -> dict[str, np.ndarray]:
        """The decoded split; where decoding takes long it is kept beside the records for the next run."""
        paths = [os.fspath(path) for path in self.builder.info.splits[split].filepaths]
        facts = [(os.path.basename(p), os.path.getsize(p), os.stat(p).st_mtime_ns) for p in paths]
        mark = hashlib.blake2b(repr((_DECODED, facts)).encode(), digest_size=8).hexdigest()
        kept = os.path.join(self.directory, f"decoded-{split}-{mark}.npz")
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            with np.load(kept) as file:  # reading checks the CRC of every array
                return {key: file[key] for key in file.files}
        began = time.monotonic()
        arrays = in_memory(self.source(split)).arrays
        if time.monotonic() - began > 1:
            part = f"{kept}.{os.getpid()}.tmp"
            with contextlib.suppress(OSError):  # a read-only place is no mistake
                with open(part, "wb") as file:
                    np.savez(file, **arrays)
                os.replace(part, kept)
        return arrays

    def source(self, split: str) -> RecordSource:
        records = self.builder.as_data_source(split=split)
        return RecordSource(records, self.info, f"{self.info.name} '{split}'")


def _refuse_other_format(directory: str, name: str) -> None:
    found = [file for file in os.listdir(directory) if "tfrecord" in file]
    if found:
        raise UserError(
            f"{directory} holds {name} as TFRecord, which only TensorFlow reads; give another "
            f"data_dir, or convert it with tfds.core's `convert_format` to {FILE_FORMAT}"
        )


@contextlib.contextmanager
def _lock(root: str, name: str) -> Iterator[None]:
    """Only one process of a machine prepares a data set; the system frees the lock of a killed one."""
    import fcntl

    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, f".{name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _encode_png(encoder: Any, image: np.ndarray) -> bytes:
    from PIL import Image

    if image.dtype != np.uint8:
        raise TypeError(f"images must be uint8, got {image.dtype}")
    buffer = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(squeezed).save(buffer, format=encoder.encoding_format or "png")
    return buffer.getvalue()


def _decode(data: bytes) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _encode_jpeg(image: np.ndarray) -> Any:
    """What TensorFlow gives: something whose `numpy()` is the bytes."""
    png = _encode_png(types.SimpleNamespace(encoding_format="png"), image)
    return types.SimpleNamespace(numpy=lambda: _to_rgb_jpeg(png))


def _to_rgb_jpeg(data: bytes, quality: int = 95) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()


@contextlib.contextmanager
def without_tensorflow(*modules: types.ModuleType) -> Iterator[None]:
    """Inside, TFDS's own builders encode arrays with PIL and read files with Python.

    Their code calls TensorFlow for few small things: encoding and decoding pictures, opening a file, listing a
    folder, asking whether something exists. `modules` are those of the builders that do so themselves.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature

    gfile = types.SimpleNamespace(GFile=open_file, exists=os.path.exists, listdir=os.listdir)
    stand_in = types.SimpleNamespace(
        io=types.SimpleNamespace(gfile=gfile, encode_jpeg=_encode_jpeg),
        image=types.SimpleNamespace(decode_image=_decode),
        shape=np.shape,
        compat=types.SimpleNamespace(as_text=lambda x: x.decode() if isinstance(x, bytes) else x),
    )
    places = [
        (image_feature._ImageEncoder, "_encode_image", _encode_png),
        (tfds.core.utils, "png_to_jpeg", _to_rgb_jpeg),
        (tfds.core.utils, "jpeg_cmyk_to_rgb", _to_rgb_jpeg),
    ]
    folder = {os.path.dirname(module.__file__ or "") for module in modules}
    near = [m for m in list(sys.modules.values()) if os.path.dirname(_file(m)) in folder]
    places += [(module, "tf", stand_in) for module in [extractor, *near] if "tf" in vars(module)]
    before = [(place, name, vars(place)[name]) for place, name, _ in places]
    for place, name, value in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _file(module: Any) -> str:
    return getattr(module, "__file__", None) or ""


def open_file(path: Any, mode: str = "r") -> Any:
    """`open`, with the name and the arguments that TFDS's builders use."""
    return open(os.fspath(path), mode)
