"""PyTorch's `.pth`, `.pt` and `.bin` files, zip and legacy, read without torch and without unpickling.

Zip (since PyTorch 1.6): `NAME/data.pkl` describes the tensors, `NAME/data/KEY` holds each storage's bytes.
Legacy: one file of five pickles (magic number, protocol, the writer's machine, the tensors, the storages' keys) and
then, per key, the number of elements as int64 and their bytes.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn.convert.pickle_stream import STORAGES, Name, Refused, Storage, Tensor, read_stream
from cnn.convert.zip_limits import read_member

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
MAX_PICKLE = 2**26  # bytes; a network of 10,000 tensors needs about 2 MiB
MAX_BLOWUP = 16  # all tensors together, against the file: some may share a storage


def read_zip(archive: zipfile.ZipFile, size: int) -> Any:
    """The object of a zip file: dicts, lists and plain values with NumPy arrays in place of tensors.

    Args:
      archive: from `open_zip`; `size`: bytes of its file.

    Raises:
      Refused: not such a file, damaged, or not plain data.
    """
    names = set(archive.namelist())
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused("it is a zip file without data.pkl, so not of PyTorch")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise Refused("it is a TorchScript program; save the weights: torch.save(model.state_dict(), FILE)")
    if f"{root}byteorder" in names and read_member(archive, f"{root}byteorder").strip() != b"little":
        raise Refused("it was written on a big-endian machine")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
        raise Refused(f"its data.pkl is above {MAX_PICKLE >> 20} MiB")
    flat: dict[Storage, np.ndarray] = {}

    def persistent(pid: Any) -> Storage:
        storage = _storage(pid)
        member = f"{root}data/{storage.key}"
        if member not in names:
            raise Refused(f"its storage '{storage.key[:40]}' is missing")
        found, wanted = archive.getinfo(member).file_size, storage.size * storage.itemsize
        if found != wanted:
            raise Refused(f"its storage '{storage.key[:40]}' should have {wanted} bytes and has {found}")
        return storage

    root_object = read_stream(io.BytesIO(read_member(archive, pickles[0])), persistent)
    tensors = _tensors_in(root_object)
    _check_total(tensors, size)
    for tensor in tensors:
        storage = tensor.storage
        if storage not in flat:
            flat[storage] = _numbers(read_member(archive, f"{root}data/{storage.key}"), storage)
    return _materialised(root_object, flat)


def read_legacy(content: io.BufferedIOBase, size: int) -> Any:
    """The object of a legacy file; as `read_zip`."""
    file = io.BytesIO(content.read(MAX_PICKLE))  # where its pickles end is not known before they are read
    if read_stream(file) != LEGACY_MAGIC or read_stream(file) != LEGACY_PROTOCOL:
        raise Refused("it does not begin like a file of PyTorch")
    machine = read_stream(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        storage = _storage(pid)
        if storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"its storage '{storage.key[:40]}' has two types or sizes")
        return storage

    root_object = read_stream(file, persistent)
    keys = read_stream(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise Refused("its list of storages is not that of its tensors")
    tensors = _tensors_in(root_object)
    _check_total(tensors, size)
    flat: dict[Storage, np.ndarray] = {}
    content.seek(file.tell())
    for key in keys:
        storage = storages[key]
        wanted = storage.size * storage.itemsize
        if content.tell() + 8 + wanted > size:
            raise Refused(f"it ends in the middle of storage '{key[:40]}': the file is truncated")
        count, data = content.read(8), content.read(wanted)
        if struct.unpack("<q", count)[0] != storage.size:
            raise Refused(f"its storage '{key[:40]}' has another size than its tensors say")
        flat[storage] = _numbers(data, storage)
    return _materialised(root_object, flat)


def _storage(pid: Any) -> Storage:
    """('storage', type, key, device, size) of both formats; legacy has a sixth field for views of views."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise Refused("it holds something else than tensors")
    kind, key, size = pid[1], pid[2], pid[4]
    if pid[5:] not in ((), (None,)):
        raise Refused("it is of a PyTorch before 0.4; load and save it with a newer one")
    if not isinstance(kind, Name) or kind.name not in STORAGES or type(size) is not int or not 0 <= size < 2**63:
        raise Refused("a storage of it has no known type or size")
    return Storage(str(key), STORAGES[kind.name], size)


def _numbers(data: bytes, storage: Storage) -> np.ndarray:
    if storage.dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, storage.dtype)


def _tensors_in(node: Any) -> list[Tensor]:
    """All tensors, found through dicts only: those of lists (an optimizer's) are no weights. Cycles end."""
    found, waiting, seen = [], [node], set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, Tensor):
            found.append(current)
        elif isinstance(current, dict) and id(current) not in seen:
            seen.add(id(current))
            waiting += current.values()
    return found


def _check_total(tensors: list[Tensor], file_size: int) -> None:
    total = sum(math.prod(t.shape) * t.storage.itemsize for t in tensors)
    if total > MAX_BLOWUP * file_size:
        raise Refused(f"its tensors would need {total} bytes, more than {MAX_BLOWUP} times the file")


def _materialised(node: Any, flat: Mapping[Storage, np.ndarray]) -> Any:
    """`node` with arrays for tensors. Dicts are changed in place, so a dict inside itself does no harm."""
    if isinstance(node, Tensor):
        return _array(node, flat)
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict) and id(current) not in seen:
            seen.add(id(current))
            waiting += current.values()
            current.update(
                {k: _array(v, flat) for k, v in current.items() if isinstance(v, Tensor)}
            )
    return node


def _array(tensor: Tensor, flat: Mapping[Storage, np.ndarray]) -> np.ndarray:
    numbers = flat[tensor.storage]
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    try:
        if not math.prod(tensor.shape):  # its strides may point anywhere
            return np.zeros(tensor.shape, numbers.dtype)
        return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
    except (ValueError, OverflowError, MemoryError) as error:
        raise Refused(f"a tensor of it has a shape or strides that no array can have {tensor.shape[:4]}") from error
