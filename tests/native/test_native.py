"""The native library's build and what happens without it: one line, and the stock convolutions."""

import os
import subprocess
import sys

import pytest

from cnn import doctor
from cnn.native import build, onednn

CONVOLVE = """
import jax.numpy as jnp
from cnn.layers.conv import conv
from cnn.native import onednn
print(float(conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 3))).sum()), onednn.enabled(), onednn.reason())
"""

needs_onednn = pytest.mark.skipif(not onednn.enabled(), reason=f"no native library: {onednn.reason()}")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No build yet."""
    monkeypatch.setattr(build, "folder", lambda: tmp_path / "native")
    return tmp_path / "native"


@pytest.fixture
def wheels():
    try:
        return build.onednn()
    except build.NotBuilt as reason:
        pytest.skip(str(reason))


def no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")


def run(program, **env):
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_onednn
def test_the_library_of_this_checkout_serves():
    assert onednn.reason() == ""
    assert build.digest() in str(build.built())
    finding = doctor.native()
    assert finding.status == doctor.OK and finding.about.startswith("oneDNN")


@pytest.mark.slow
def test_build_tries_what_it_compiles(wheels, empty_cache):
    if build.compiler() is None:
        pytest.skip("no compiler")
    library = build.build()
    assert library.is_file() and [file.name for file in library.parent.iterdir()] == [build.LIBRARY]
    begin = library.stat().st_mtime_ns
    assert build.build() == library and library.stat().st_mtime_ns == begin  # built once


def test_without_a_compiler(wheels, empty_cache, monkeypatch, capsys):
    no_compiler(monkeypatch)
    assert build.main() == 1
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "there is no C++ compiler" in line and "install g++" in line
    finding = doctor.native()
    assert finding.status == doctor.MISSING and "no C++ compiler" in finding.about and finding.fix


def test_a_compiler_that_fails(wheels, empty_cache, monkeypatch, tmp_path, capsys):
    fake = tmp_path / "broken-c++"
    fake.write_text("#!/bin/sh\necho 'onednn.cc:1: error: no such thing' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    assert build.main() == 1
    assert "cannot compile onednn.cc and pool.cc: onednn.cc:1: error: no such thing" in capsys.readouterr().out
    assert not build.target().exists()


def test_a_library_that_does_not_work_is_not_put_in_place(wheels, empty_cache, monkeypatch, capsys):
    monkeypatch.setattr(build, "compile_to", lambda output: output.write_bytes(b"no library"))
    assert build.main() == 1
    assert "does not work here" in capsys.readouterr().out
    assert not build.target().exists()


def test_a_folder_that_cannot_be_written(wheels, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "folder", lambda: tmp_path / "file")
    assert build.main() == 1
    assert "CNN_CACHE_DIR" in capsys.readouterr().out


def test_without_the_wheels(monkeypatch, capsys):
    monkeypatch.setattr(build, "WHEELS", ("no-such-wheel", "no-such-wheel-either"))
    assert build.main() == 1
    assert "no-such-wheel is not installed (pip install" in capsys.readouterr().out
    assert doctor.native().status == doctor.MISSING


def test_on_another_system(monkeypatch, capsys):
    monkeypatch.setattr(build.platform, "machine", lambda: "arm64")
    assert build.main() == 1
    assert "are for Linux on x86-64" in capsys.readouterr().out
    finding = doctor.native()
    assert finding.status == doctor.OK and not finding.fix


def test_a_broken_library_leaves_the_stock_convolutions(wheels, empty_cache):
    library = build.target()
    library.parent.mkdir(parents=True)
    library.write_bytes(b"not a library")
    finding = doctor.native()
    assert finding.status == doctor.MISSING and "does not load" in finding.about and finding.fix
    patch = f"import pathlib\nfrom cnn.native import build\nbuild.folder = lambda: pathlib.Path({str(empty_cache)!r})\n"
    assert run(patch + CONVOLVE).startswith("600.0 False it cannot be loaded")


def test_the_environment_turns_it_off():
    assert run(CONVOLVE, CNN_NATIVE="0") == "600.0 False it is turned off (CNN_NATIVE=0)"


@needs_onednn
def test_a_library_without_the_call_is_refused():
    with pytest.raises(AttributeError):
        onednn.load(str(build.onednn().library))
