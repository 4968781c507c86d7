"""How far a command that takes many files is, on standard error."""

import sys
import time

QUIET = 5.0  # seconds before the first line where standard error is no terminal
EVERY = (0.5, 30.0)  # seconds between two states of the line on a terminal, between two lines elsewhere


class Progress:
    """One line that renews itself on a terminal; elsewhere a line now and then, once it takes long.

    Args:
      what: begins each line.
      total: number of files.
      quiet: show nothing, for instance because results go to the same terminal.
    """

    def __init__(self, what: str, total: int, quiet: bool = False):
        self._what, self._total, self._quiet = what, total, quiet
        self._terminal = sys.stderr.isatty()
        self._done, self._file, self._shown = 0, "", False
        self._began = time.monotonic()
        self._next = self._began + (EVERY[0] if self._terminal else QUIET)

    def count(self, file: str) -> None:
        """One more result, of `file`; results of one file come one after the other."""
        self._done += file != self._file
        self._file = file
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + EVERY[0 if self._terminal else 1]
        rate = self._done / (now - self._began)
        left = (self._total - self._done) / rate
        text = f"{self._what}: {self._done:,} of {self._total:,} files, {rate:.3g}/s, {left:.0f} s left"
        start, end = ("\r", "\x1b[K") if self._terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
        self._shown = self._terminal

    def close(self) -> None:
        """Clears the line of a terminal."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
