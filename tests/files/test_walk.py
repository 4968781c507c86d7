"""The walker: order, links, circles, what is no data, what would block."""

import os
import socket

import pytest

from cnn.errors import UserError
from cnn.files.walk import by_folder, entries, folders, walk

NAMES = ("b.png", "A.JPG", "sub/c.png", "sub/deep/d.png", "._b.png", "sub/.hidden/e.png", "__MACOSX/b.png", "Thumbs.db")


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def test_files_are_found_in_order(root):
    assert list(walk(str(root))) == ["A.JPG", "b.png", "sub/c.png", "sub/deep/d.png"]
    assert list(walk(str(root), "sub")) == ["sub/c.png", "sub/deep/d.png"]
    assert entries(str(root)) == ["A.JPG", "b.png", "sub"] and folders(str(root)) == ["sub"]
    assert [(os.path.relpath(place, root), files) for place, files in by_folder(str(root))] == [
        (".", ["A.JPG", "b.png"]), ("sub", ["c.png"]), ("sub/deep", ["d.png"])
    ]  # fmt: skip


def test_links_are_followed_once_and_circles_end(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.png").touch()
    (root / "link").symlink_to(tmp_path / "other")
    (root / "link2").symlink_to(tmp_path / "other")
    (root / "sub" / "up").symlink_to(root)
    (root / "sub" / "self").symlink_to("self")
    (root / "gone.png").symlink_to("nowhere")  # for the reader to report
    found = list(walk(str(root)))
    assert found == ["A.JPG", "b.png", "gone.png", "link/z.png", "sub/c.png", "sub/self", "sub/deep/d.png"]


def test_pipes_and_sockets_are_left_out(root, monkeypatch):
    os.mkfifo(root / "pipe.png")
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(root)  # names of sockets are short
    listening.bind("socket.png")
    listening.close()
    assert list(walk(str(root))) == ["A.JPG", "b.png", "sub/c.png", "sub/deep/d.png"]


def test_names_that_are_no_text(root):
    (root / "caf\udce9.png").touch()
    assert "caf\udce9.png" in list(walk(str(root)))


def test_a_folder_that_cannot_be_listed(tmp_path):
    with pytest.raises(UserError, match="missing cannot be listed: No such file"):
        list(walk(str(tmp_path / "missing")))
