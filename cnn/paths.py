"""Where cnn keeps things outside of a run's workdir, where its checkout is, and the folders that flags name."""

import os
import tempfile
from pathlib import Path

from cnn.errors import UserError


def cache_dir() -> Path:
    """`$CNN_CACHE_DIR`, else `~/.cache/cnn`. It may not exist yet."""
    chosen = os.environ.get("CNN_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cnn"


def compile_cache_dir() -> Path:
    """Compiled XLA programs, kept from run to run."""
    return cache_dir() / "xla"


def data_dir() -> Path:
    """Prepared data sets where a config names no place: `$CNN_DATA_DIR`, `$TFDS_DATA_DIR`, the cache."""
    chosen = os.environ.get("CNN_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return Path(chosen).expanduser() if chosen else cache_dir() / "data"


def output_folder(path: str | Path, flag: str) -> Path:
    """The folder that a flag names, made where it is missing.

    Raises:
      UserError: it is a file, or cannot be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # no name that another process could take away
            pass
    except OSError as error:
        raise UserError(f"{flag} '{path}' cannot be written: {error.strerror}; choose another folder") from error
    return folder


def checkout() -> Path | None:
    """The root of the checkout that this package is run from; None when it is installed as a wheel."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "configs").is_dir() else None
