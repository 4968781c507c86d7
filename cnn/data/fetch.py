"""Small real data that ship inside packages: unpacked from Debian's or from a wheel, without installing anything."""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

_TIMEOUT = 600  # seconds per command


def from_debian(package: str, target: str, files: Sequence[str]) -> bool:
    """Unpacks a Debian package into `target`, without being root. False where that does not work.

    Args:
      files: paths below `target` that must then be there.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        if not _run(["apt-get", "download", package], work):
            return False
        found = sorted(glob.glob(os.path.join(work, "*.deb")))
        if not found or not _run(["dpkg", "-x", found[0], "root"], work):
            return False
        return _moved(os.path.join(work, "root"), target, files)


def from_wheel(requirement: str, target: str, files: Sequence[str]) -> bool:
    """Unpacks single files of a wheel into `target`; pip downloads it, nothing of it is installed or run.

    Args:
      requirement: for instance 'stardist==0.9.2'.
      files: paths inside the wheel, which are also those below `target`.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
        if not _run([sys.executable, "-m", "pip", "download", *options, requirement], work):
            return False
        wheels = glob.glob(os.path.join(work, "*.whl"))
        if not wheels:
            return False
        with zipfile.ZipFile(wheels[0]) as archive:
            if set(files) - set(archive.namelist()):
                return False
            archive.extractall(os.path.join(work, "root"), files)
        return _moved(os.path.join(work, "root"), target, files)


def in_package(package: str, files: Sequence[str]) -> str | None:
    """The folder that holds `files` (which begin with the package's name) where it is installed; imports nothing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return None
    folder = os.path.dirname(os.path.dirname(spec.origin))
    return folder if _there(folder, files) else None


def _there(folder: str, files: Sequence[str]) -> bool:
    return all(os.path.isfile(os.path.join(folder, file)) for file in files)


def _run(command: Sequence[str], folder: str) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _moved(made: str, target: str, files: Sequence[str]) -> bool:
    if not _there(made, files):
        return False
    shutil.rmtree(target, ignore_errors=True)
    os.rename(made, target)
    return True
