"""Names of files in messages: one line, encodable, nothing that a terminal acts on."""

import pytest

from cnn.errors import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("photo 1.jpg", "photo 1.jpg"),
        ("Käse/图.png", "Käse/图.png"),
        ("a\u202fb\u00a0c", "a\u202fb\u00a0c"),  # odd spaces, as macOS writes them
        ("caf\udce9.png", "caf\\xe9.png"),  # Latin-1 bytes on a UTF-8 system
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x9b0m", "\\x1b[31mred\\x9b0m"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),  # right-to-left override
        ("\u2028\ud800", "\\u2028\\ud800"),
    ],
)
def test_names_are_shown_on_one_line(name, shown):
    found = printable(name)
    assert found == shown and len(found.splitlines()) == 1
    found.encode()
