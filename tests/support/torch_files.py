"""Writes PyTorch's two file formats by hand, without torch: what the reader is tested on.

The pickles are put together opcode by opcode, so that a test can also write what no honest program would.
"""

import io
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

PROTO, STOP = b"\x80\x02", b"."
KINDS = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage", "bfloat16": "BFloat16Storage",
}  # fmt: skip


class Stored(NamedTuple):
    """A storage: its key in the file, PyTorch's type, its bytes and number of elements."""

    key: str
    kind: str
    data: bytes
    size: int


class View(NamedTuple):
    """A strided tensor over a storage; offset and strides count elements."""

    storage: Stored
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Raw(NamedTuple):
    """Opcodes that put one value on the stack."""

    code: bytes


def stored(key: str, array: np.ndarray, dtype: str = "") -> Stored:
    return Stored(key, KINDS[dtype or array.dtype.name], array.tobytes(), array.size)


def view(key: str, array: np.ndarray) -> View:
    """The whole array as a tensor with a storage of its own."""
    array = array.copy(order="C")
    return View(stored(key, array), 0, array.shape, tuple(s // array.itemsize for s in array.strides))


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, View]:
    return {name: view(str(i), array) for i, (name, array) in enumerate(arrays.items())}


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: Any) -> Raw:
    """The opcodes that would import and call a function: what a reader must never do."""
    return Raw(name(module, attribute) + code(arguments) + b"R")


def code(value: Any) -> bytes:
    """Opcodes that put `value` on the stack."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, View):
        s = value.storage
        pid = ("storage", Raw(name("torch", s.kind)), s.key, "cpu", s.size)
        storage = Raw(code(pid) + b"Q")
        tensor = (storage, value.offset, value.shape, value.strides, False, ORDERED_DICT)
        return call("torch._utils", "_rebuild_tensor_v2", *tensor).code
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


ORDERED_DICT = call("collections", "OrderedDict")


def pickled(value: Any) -> bytes:
    return PROTO + code(value) + STOP


def storages(value: Any) -> dict[str, Stored]:
    if isinstance(value, View):
        return {value.storage.key: value.storage}
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if isinstance(value, Raw | Stored):
        return {}
    return {key: s for child in inside for key, s in storages(child).items()}


def zip_file(value: Any, *, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> bytes:
    """The zip format."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(value))
        archive.writestr("net/byteorder", b"little")
        for key, storage in storages(value).items():
            archive.writestr(f"net/data/{key}", storage.data)
        archive.writestr("net/version", b"3\n")
        for member, data in (extra or {}).items():
            archive.writestr(member, data)
    return buffer.getvalue()


def legacy_file(value: Any, *, little_endian: bool = True) -> bytes:
    """The format before PyTorch 1.6."""
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": sizes}
    found = storages(value)
    head = magic + pickled(1001) + pickled(machine) + pickled(value) + pickled(list(found))
    return head + b"".join(struct.pack("<q", s.size) + s.data for s in found.values())
