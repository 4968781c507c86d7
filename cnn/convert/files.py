"""Files of weights, of any kind that is known by its first bytes: PyTorch zip and legacy, safetensors, npz."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn.convert.pickle_stream import Opaque, Refused
from cnn.convert.safetensors_file import read_safetensors
from cnn.convert.torch_file import LEGACY_START, read_legacy, read_zip
from cnn.convert.zip_limits import open_zip, read_member
from cnn.errors import UserError, printable
from cnn.files.regular import open_regular

# Where training programs put the weights inside of what they save; averaged ones are what they score.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "params", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
ZIP = b"PK\x03\x04"


class Weights(NamedTuple):
    """What a file of weights holds.

    Attributes:
      arrays: {key: array} in the order of the file, without the prefixes of wrappers.
      aside: {key: array} of those that had not the prefix of most; mostly counters and losses.
      chosen: which of the state dicts in the file this is, such as 'state_dict_ema'; '' where there is one.
      others: the state dicts that were not chosen.
      prefix: what was taken off the keys.
    """

    arrays: dict[str, np.ndarray]
    aside: dict[str, np.ndarray]
    chosen: str
    others: tuple[str, ...]
    prefix: str


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """{key: array} of a file, in its order; prefixes that wrappers put before every key are gone.

    Raises:
      UserError: as `read_weights`.
    """
    found = read_weights(path)
    return found.arrays | found.aside


def read_weights(path: str | Path, which: str = "auto") -> Weights:
    """The weights of a file.

    Args:
      which: of a file with both: 'ema' the averaged ones, 'plain' the others, 'auto' averaged ones where there are any.

    Raises:
      UserError: it is not there, is of no known kind, is damaged, holds something else than tensors or a number
        that is not finite. Nothing of the file is executed.
    """
    name = printable(str(path))
    if not Path(path).exists():
        raise UserError(f"'{name}' does not exist; give a .pth, .pt, .safetensors or .npz file")
    try:
        with open_regular(path) as file:
            found = _read(file, os.fstat(file.fileno()).st_size)
        state, chosen, others = _weights_in(found, which)
        return _stripped(_checked(state), chosen, others)
    except Refused as error:
        raise UserError(f"{name} is refused: {printable(str(error))}") from error
    except OSError as error:
        what = f"is not a file ({error})" if os.path.exists(path) else "cannot be read"
        raise UserError(f"'{name}' {what}; give a .pth, .pt, .safetensors or .npz file") from error
    except (Exception, MemoryError) as error:  # a file made by hand can be wrong in ways that nobody thought of
        raise UserError(f"{name} is refused: its content is damaged ({type(error).__name__})") from error


def _read(file: io.BufferedIOBase, size: int) -> Any:
    """What the file holds. Its kind and its size are known before anything large is read."""
    if not size:
        raise Refused("it is empty")
    start = file.read(max(len(LEGACY_START), 16))
    file.seek(0)
    if start[:4] == ZIP:
        archive = open_zip(file, size)
        return _read_npz(archive) if _is_npz(archive) else read_zip(archive, size)
    if start[: len(LEGACY_START)] == LEGACY_START:
        return read_legacy(file, size)
    if start[8:9] == b"{":
        return read_safetensors(file, size)
    raise Refused("it is no PyTorch, safetensors or npz file, or its beginning is damaged")


def _is_npz(archive: zipfile.ZipFile) -> bool:
    names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    return {
        name.removesuffix(".npy"): _read_npy(name, read_member(archive, name))
        for name in archive.namelist()
    }


def _read_npy(name: str, content: bytes) -> np.ndarray:
    """One array. Not `np.load`: it allocates what a header asks for before it looks for the data."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](file)
        if dtype.hasobject:
            raise Refused(f"'{name[:60]}' holds Python objects, not numbers")
        numbers = np.frombuffer(file.read(), dtype)
        return numbers.reshape(shape, order="F" if fortran else "C")
    except Refused:
        raise
    except Exception as error:  # the header is Python text and can be wrong in any way
        raise Refused(f"'{name[:60]}' is no NumPy array ({type(error).__name__})") from error


def _weights_in(node: Any, which: str) -> tuple[dict[str, np.ndarray], str, tuple[str, ...]]:
    """(the state dict inside of what a training program saved, where it was, others that were there)."""
    chosen, others = "", []
    for _ in range(3):  # {'state_dict': {'model': ...}} at most
        inside = [k for k in (*AVERAGED, *PLAIN) if isinstance(node, dict) and isinstance(node.get(k), dict)]
        inside = [k for k in inside if node[k]]
        if not inside:
            break
        wanted = [k for k in inside if which == "auto" or (k in AVERAGED) == (which == "ema")]
        # Averaged weights may be inside of what plain names, {'model': {'ema': ...}}; the reverse makes no sense.
        key = (wanted or inside)[0]
        chosen = f"{chosen}/{key}" if chosen else key
        others += [k for k in inside if k != key]
        node = node[key]
    averaged = any(part in AVERAGED for part in chosen.split("/"))
    if which == "ema" and not averaged:
        raise Refused("it holds no averaged weights; leave --weights=ema out")
    if which == "plain" and averaged:
        raise Refused(f"it holds averaged weights alone ('{chosen}'); leave --weights=plain out")
    if node == {}:
        raise Refused("it holds no tensor")
    if not isinstance(node, dict):
        raise Refused("it holds no state dict; save torch.save(model.state_dict(), FILE)")
    for key, value in node.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            kind = repr(value) if isinstance(value, Opaque) else type(value).__name__
            raise Refused(f"'{str(key)[:60]}' in its state dict is no tensor but {kind}")
    return node, chosen, tuple(others)


def _checked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not state:
        raise Refused("it holds no tensor")
    for key, array in state.items():
        if array.dtype.kind not in "fiub":
            raise Refused(f"'{key[:60]}' is of type {array.dtype}, which no weight has")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused(f"'{key[:60]}' holds values that are not finite")
    return state


def _stripped(state: dict[str, np.ndarray], chosen: str, others: tuple[str, ...]) -> Weights:
    """The keys without the prefixes that most of them have; those without them are set aside."""
    aside: dict[str, np.ndarray] = {}
    taken = ""
    while True:
        prefix = next((p for p in PREFIXES if _most_have(state, p)), "")
        if not prefix:
            return Weights(state, aside, chosen, others, taken)
        aside |= {key: array for key, array in state.items() if not key.startswith(prefix)}
        state = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
        taken += prefix


def _most_have(state: dict[str, np.ndarray], prefix: str) -> bool:
    """Whether more than nine tenths of the keys begin so, or all but two."""
    having = sum(key.startswith(prefix) and key != prefix for key in state)
    return having > 0 and (len(state) - having <= min(2, having - 1) or having > 0.9 * len(state))
