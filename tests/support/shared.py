"""What several tests need and is dear to make, such as a trained run: made once, kept on disk, copied for each.

An entry is named after all that it depends on: the sources of `cnn`, the configs, the support of the tests, versions
and flags. What is stale has another name, and is never used; a file lock has one test process make it while others
wait.
"""

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from tests.support import durations

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("cnn", "configs", "tests/support")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "scikit-learn")
KEPT_S = 7 * 24 * 3600  # entries that nobody used for so long are removed


@functools.cache
def sources() -> str:
    """sha256 of everything that an entry may depend on, as it is when first asked."""
    found = hashlib.sha256(f"{platform.python_version()} {os.environ.get('XLA_FLAGS')}".encode())
    for name in VERSIONS:
        found.update(f"{name} {metadata.version(name)}".encode())
    for file in sorted(file for folder in SOURCES for file in (ROOT / folder).rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            found.update(f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return found.hexdigest()


def made(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The entry `name` of the cache in `folder`, which `make(path)` fills where it is missing. Read it, never write."""
    path = folder / f"{name}-{sources()[:20]}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cost = path / "cost"
        if cost.exists():
            durations.charge(float(cost.read_text()))  # so that a fixture costs the same whoever comes first
            os.utime(path)
            return path / "made"
        shutil.rmtree(path, ignore_errors=True)
        (path / "made").mkdir(parents=True)
        began = durations.spent()
        make(path / "made")
        cost.write_text(f"{durations.spent() - began:.2f}")
        for old in folder.glob(f"{name}-*"):
            if old.stat().st_mtime < time.time() - KEPT_S:
                shutil.rmtree(old, ignore_errors=True)
    return path / "made"
