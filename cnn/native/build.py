"""`python -m cnn.native.build`: compiles the C++ here against oneDNN's wheels, tries it, and puts it in the cache.

Nothing here imports JAX, so `cnn doctor` can ask. A build has its folder, named after all that it depends on:
another source, oneDNN, jaxlib or compiler is another build, and an old one is never loaded by mistake.
"""

import hashlib
import importlib.metadata as metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from cnn import paths

SOURCES = tuple(Path(__file__).with_name(name) for name in ("onednn.cc", "pool.cc"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("depthwise.h", "share.h"))
WHEELS = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
LIBRARY = "libcnn_native.so"
# Not -march=native: oneDNN picks its code by the processor it runs on, and a cache may be shared by several.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-w")
COMPILE_TIMEOUT, TRIAL_TIMEOUT = 300, 120  # seconds
# In a process of its own: a library that crashes must not take the set-up with it.
TRIAL = """
import sys
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
from cnn.native import build, onednn
build.built = lambda: sys.argv[1]
assert onednn.enabled(), onednn.reason()
x = np.arange(2 * 6 * 5 * 4, dtype=np.float32).reshape(2, 6, 5, 4) % 7
kernel = np.arange(3 * 3 * 4 * 8, dtype=np.float32).reshape(3, 3, 4, 8) % 5
from cnn.layers.conv import conv
with onednn.off():
    want = conv(x, kernel)
np.testing.assert_allclose(conv(x, kernel), want, rtol=1e-5)
from cnn.layers.pool import max_pool
def pool(x):
    return jax.value_and_grad(lambda x: (max_pool(x, 3, 2, 1) ** 2).sum())(x)
with onednn.off():
    want = pool(x)
jax.tree.map(np.testing.assert_array_equal, pool(x), want)
"""


class NotBuilt(Exception):
    """Why there is no native library: one line; `fix` is the command that mends it."""

    def __init__(self, about: str, fix: str) -> None:
        super().__init__(about)
        self.fix = fix


class OneDNN(NamedTuple):
    """Where the wheels put oneDNN."""

    version: str
    include: Path
    library: Path


def onednn() -> OneDNN:
    """The installed oneDNN.

    Raises:
      NotBuilt: this is no x86-64 Linux, or a wheel is missing.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotBuilt("oneDNN's wheels are for Linux on x86-64", "")
    install = "pip install -e '.[cpu]'" if paths.checkout() else "pip install 'cnn[cpu]'"
    install += " && python -m cnn.native.build"
    found: dict[str, Path] = {}
    for wheel, wanted in zip(WHEELS, ("libdnnl.so.3", "dnnl.hpp"), strict=True):
        try:
            files = metadata.files(wheel) or []
        except metadata.PackageNotFoundError:
            raise NotBuilt(f"{wheel} is not installed", install) from None
        for file in files:
            if file.name == wanted and "oneapi" not in file.parts:
                found[wanted] = Path(os.path.abspath(file.locate()))
        if not found.get(wanted, Path()).is_file():
            raise NotBuilt(f"{wheel} is installed without its {wanted}", install)
    header, library = found["dnnl.hpp"], found["libdnnl.so.3"]
    return OneDNN(metadata.version(WHEELS[0]), header.parent, library)


def compiler() -> str | None:
    """The C++ compiler: `$CXX`, else g++ or c++; None when there is none."""
    names = (os.environ.get("CXX"), "g++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def jaxlib_headers() -> Path:
    """XLA's FFI headers, which jaxlib brings."""
    return Path(str(metadata.distribution("jaxlib").locate_file("jaxlib"))) / "include"


def digest() -> str:
    """Names the build: of the sources, the flags, oneDNN and jaxlib."""
    dnn = onednn()
    texts = [file.read_bytes() for file in (*SOURCES, *HEADERS)]
    parts = [*texts, " ".join(FLAGS), dnn.version, dnn.library, metadata.version("jaxlib")]
    joined = b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return hashlib.sha256(joined).hexdigest()[:16]


def folder() -> Path:
    """Builds of a checkout stay in it, so that `make clean` finds them and tests share them."""
    root = paths.checkout()
    return (root / ".cache" if root else paths.cache_dir()) / "native"


def target() -> Path:
    """The library that fits what is installed, built or not.

    Raises:
      NotBuilt: oneDNN is not installed.
    """
    return folder() / digest() / LIBRARY


def built() -> Path:
    """The library, when it is there.

    Raises:
      NotBuilt: it is not; says why, and what to do.
    """
    library = target()
    if library.is_file():
        return library
    if compiler() is None:
        raise NotBuilt("there is no C++ compiler", "install g++, then: python -m cnn.native.build")
    raise NotBuilt("it is not compiled yet", "python -m cnn.native.build")


def compile_to(output: Path) -> None:
    """Compiles the sources into one library.

    Raises:
      NotBuilt: no compiler, or it fails; the message ends with its first error.
    """
    command, dnn = compiler(), onednn()
    if command is None:
        raise NotBuilt("there is no C++ compiler", "install g++, then: python -m cnn.native.build")
    arguments = [command, *FLAGS, f"-I{dnn.include}", f"-I{jaxlib_headers()}", *map(str, SOURCES), "-o", str(output)]
    arguments += [str(dnn.library), f"-Wl,-rpath,{dnn.library.parent}"]
    failed = f"{command} cannot compile {' and '.join(source.name for source in SOURCES)}"
    fix = "another compiler: CXX=g++-13 python -m cnn.native.build"
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{failed}: {error}", fix) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
        raise NotBuilt(f"{failed}: {lines[0][:200]}", fix)


def attempt(library: Path) -> None:
    """Loads a library in a child process and compares a convolution and a pooling with `lax`.

    Raises:
      NotBuilt: it does not load, crashes or computes something else.
    """
    package = Path(__file__).resolve().parent.parent.parent
    search = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", TRIAL, str(library)]
    fix = "CNN_NATIVE=0 keeps the stock operations; please report it"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TRIAL_TIMEOUT,
            env={**os.environ, "PYTHONPATH": search, "CNN_NATIVE": "1", "JAX_TRACEBACK_FILTERING": "off"},
        )
    except subprocess.TimeoutExpired as error:
        raise NotBuilt("the compiled library hangs here", fix) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise NotBuilt(f"the compiled library does not work here: {said[0][:200]}", fix)


def build() -> Path:
    """Compiles and tries the library unless it is there; returns where it is.

    Raises:
      NotBuilt: it cannot be had on this machine.
    """
    library = target()
    if library.is_file():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            fresh = Path(scratch) / LIBRARY
            compile_to(fresh)
            attempt(fresh)
            fresh.replace(library)  # whole or not at all: several processes may build at once
    except OSError as error:
        raise NotBuilt(f"{library.parent}: {error.strerror}", "CNN_CACHE_DIR=FOLDER_YOU_CAN_WRITE") from error
    return library


def main() -> int:
    """Prints one line; exit code 1 when convolutions stay the stock ones."""
    try:
        print(f"native convolutions (oneDNN {onednn().version}): {build()}")
        return 0
    except NotBuilt as reason:
        fix = f" ({reason.fix})" if reason.fix else ""
        print(f"native convolutions: not built, the stock ones serve: {reason}{fix}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
