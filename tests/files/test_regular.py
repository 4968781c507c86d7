"""Only regular files are opened; everything else is named and never read."""

import os
import socket

import pytest

from cnn.files import regular


@pytest.fixture
def odd(tmp_path):
    """{name: (path, reason)} of everything that is no regular file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.symlink("/dev/zero", tmp_path / "endless")
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("circle", tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    names = {
        "pipe": regular.PIPE, "folder": regular.FOLDER, "endless": regular.DEVICE, "dangling": regular.NOT_THERE,
        "circle": "Too many levels of symbolic links", "socket": regular.SOCKET, "absent": regular.NOT_THERE,
    }  # fmt: skip
    return {name: (tmp_path / name, reason) for name, reason in names.items()}


def test_what_is_no_file_is_named_and_not_opened(odd):
    for path, reason in odd.values():
        assert regular.why_not(path) == reason and not regular.is_regular(path)
        with pytest.raises(regular.NotRegular) as caught:
            regular.read_regular(path)
        assert str(caught.value) == reason and caught.value.strerror == reason


def test_a_name_with_a_zero_byte():
    assert regular.why_not("a\0b") == regular.NOT_THERE


def test_files_and_links_to_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    os.symlink("file", tmp_path / "link")
    assert regular.read_regular(tmp_path / "link") == b"abc" == regular.read_regular(str(tmp_path / "file"))
    with regular.open_regular(tmp_path / "file") as file:
        assert file.read(2) == b"ab"


def test_a_limit_on_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abcd")
    assert regular.read_regular(tmp_path / "file", 4) == b"abcd"
    with pytest.raises(regular.NotRegular, match="too large .4 bytes, the limit is 3"):
        regular.read_regular(tmp_path / "file", 3)


def test_a_file_of_the_kernel_that_says_it_is_empty_has_its_limit_too():
    if not os.path.isfile("/proc/self/status"):
        pytest.skip("no /proc here")
    with pytest.raises(regular.NotRegular, match="too large"):
        regular.read_regular("/proc/self/status", 10)


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(regular, "why_not", lambda path: "")
    with pytest.raises(regular.NotRegular, match="a pipe"):
        regular.open_regular(tmp_path / "pipe")
