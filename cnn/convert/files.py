"""Files of weights, of any kind that is known by its first bytes: PyTorch zip and legacy, safetensors, npz."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from cnn.convert.pickle_stream import Refused
from cnn.convert.safetensors_file import read_safetensors
from cnn.convert.torch_file import LEGACY_START, read_legacy, read_zip
from cnn.convert.zip_limits import open_zip, read_member
from cnn.errors import UserError

# Where training programs put the weights inside of what they save; averaged ones are what they score.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
ZIP = b"PK\x03\x04"


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """{key: array} of a file, in its order; prefixes that wrappers put before every key are gone.

    Raises:
      UserError: it is not there, is of no known kind, is damaged, holds something else than tensors or a number
        that is not finite. Nothing of the file is executed.
    """
    if not Path(path).exists():
        raise UserError(f"'{path}' does not exist; give a .pth, .pt, .safetensors or .npz file")
    if not Path(path).is_file():
        raise UserError(f"'{path}' is not a file; give a .pth, .pt, .safetensors or .npz file")
    try:
        return _checked(_read(Path(path).read_bytes()))
    except Refused as error:
        raise UserError(f"{path} is refused: {error}") from error


def _read(content: bytes) -> Any:
    if not content:
        raise Refused("it is empty")
    if content[:4] == ZIP:
        return _read_npz(content) if _is_npz(content) else _weights_in(read_zip(content))
    if content[: len(LEGACY_START)] == LEGACY_START:
        return _weights_in(read_legacy(content))
    if content[8:9] == b"{":
        return read_safetensors(content)
    raise Refused("it is no PyTorch, safetensors or npz file, or its beginning is damaged")


def _is_npz(content: bytes) -> bool:
    names = open_zip(content).namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(content: bytes) -> dict[str, np.ndarray]:
    archive = open_zip(content)
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
        raise Refused(f"'{name[:60]}' is no NumPy array ({str(error)[:80]})") from error


def _weights_in(node: Any) -> dict[str, np.ndarray]:
    """The state dict inside of what a training program saved."""
    for _ in range(3):  # {'state_dict': {'model': ...}} at most
        inside = next((node[k] for k in WRAPPERS if isinstance(node, dict) and isinstance(node.get(k), dict)), None)
        if inside is None:
            break
        node = inside
    if not isinstance(node, dict) or not node:
        raise Refused("it holds no state dict; save torch.save(model.state_dict(), FILE)")
    for key, value in node.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise Refused(f"'{str(key)[:60]}' in its state dict is no tensor but {type(value).__name__}")
    return node


def _checked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not state:
        raise Refused("it holds no tensor")
    for key, array in state.items():
        if array.dtype.kind not in "fiub":
            raise Refused(f"'{key[:60]}' is of type {array.dtype}, which no weight has")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused(f"'{key[:60]}' holds values that are not finite")
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if all(key.startswith(prefix) and key != prefix for key in state):
                state = {key.removeprefix(prefix): array for key, array in state.items()}
                stripped = True
    return state
