"""`.safetensors`: eight bytes of length, a JSON header, then the tensors' bytes without gaps."""

import io
import json
import math
import struct
from typing import Any

import numpy as np

from cnn.convert.pickle_stream import Refused

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1",
}  # fmt: skip
MAX_HEADER = 10**7  # bytes; that of 100,000 tensors. The format's own limit is 10**8


def read_safetensors(file: io.BufferedIOBase, size: int) -> dict[str, np.ndarray]:
    """{name: array} in the order of the data, which is mostly that of the network.

    Args:
      size: bytes of the file.

    Raises:
      Refused: the header is broken, or an entry does not agree with the data.
    """
    start = file.read(8)
    if len(start) < 8:
        raise Refused("it is too short for a safetensors file")
    length = struct.unpack("<Q", start)[0]
    if length > size - 8:
        raise Refused(f"its header should have {length} bytes, the file has {size - 8}: it is truncated")
    if length > MAX_HEADER:
        raise Refused(f"its header has {length} bytes, the limit is {MAX_HEADER}")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_once)
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"its header is no JSON ({str(error)[:80]})") from error
    if not isinstance(header, dict):
        raise Refused("its header is no JSON object")
    header.pop("__metadata__", None)
    there, end, found = size - 8 - length, 0, {}
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    in_order = sorted(entries.items(), key=lambda item: item[1][2:])
    for name, (dtype, shape, begin, stop) in in_order:
        needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if stop - begin != needed:
            raise Refused(f"'{name[:60]}' {dtype} {shape[:8]} needs {needed} bytes, its offsets give {stop - begin}")
        if begin != end:
            raise Refused(f"'{name[:60]}' begins at byte {begin}, where {end} is due: tensors overlap or leave gaps")
        if stop > there:
            raise Refused(f"'{name[:60]}' ends at byte {stop} of {there}: the file is truncated")
        end = stop
    if end != there:
        raise Refused(f"it has {there} bytes of data, its header accounts for {end}")
    for name, (dtype, shape, begin, stop) in in_order:
        numbers = np.frombuffer(file.read(stop - begin), DTYPES[dtype])
        if dtype == "BF16":  # the upper half of a float32
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        try:
            found[name] = numbers.reshape(shape)
        except ValueError as error:
            raise Refused(f"'{name[:60]}' has a shape that no array can have {shape[:4]}") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("its header names a tensor twice")
    return found


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of one tensor."""
    keys = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or any(key not in entry for key in keys):
        raise Refused(f"the header's entry of '{name[:60]}' lacks one of {', '.join(keys)}")
    dtype, shape, offsets = (entry[key] for key in keys)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused(f"'{name[:60]}' is of type {str(dtype)[:20]}; readable are {', '.join(DTYPES)}")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(offsets) != 2 or len(shape) > 16:
        raise Refused(f"the header's entry of '{name[:60]}' has no valid shape and offsets")
    return dtype, tuple(shape), offsets[0], offsets[1]
