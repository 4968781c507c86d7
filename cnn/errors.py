"""The one exception for a user's mistake, the did-you-mean line, and names of files in messages."""

import difflib
import os
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what, where and what to do.

    Every verb prints it as `cnn VERB: error: ...` and exits with code 2, without a traceback.
    """


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The valid choice nearest to `name`, or None when nothing is near."""
    lowered = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: names the nearest and lists the valid ones."""
    choices = sorted(choices)
    near = closest(name, choices)
    hint = f" Did you mean '{near}'?" if near else ""
    listed = ", ".join(name or "''" for name in choices[:40])
    listed += f", ... ({len(choices)} in all)" if len(choices) > 40 else ""
    return UserError(f"unknown {kind} '{name}'.{hint} Valid: {listed or 'none'}")


def printable(name: str | os.PathLike[str]) -> str:
    """A file's name as one line of text that UTF-8 can encode and that no terminal acts on.

    Bytes that are not UTF-8 (Python keeps them as surrogates), control characters, line ends and invisible formatting
    characters become backslash escapes; everything else stays as it is.
    """
    return "".join(map(_escaped, os.fspath(name)))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, see the error handler 'surrogateescape'
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() or unicodedata.category(character) == "Zs":  # all kinds of spaces
        return character
    return character.encode("unicode_escape").decode()
