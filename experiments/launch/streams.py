"""Processes whose lines are printed with a prefix and kept in files."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PRINTING = threading.Lock()


class Stream:
    """A process that runs, its lines printed as '[label] line' and appended to a file.

    Args:
      argv: its words.
      label: for the prefix.
      log: the file.
      environment: on top of this process's.
      apart: standard error is kept in `error` and not printed: for programs that chat there.
    """

    def __init__(
        self,
        argv: Sequence[str],
        label: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        apart: bool = False,
    ):
        self.lines, self.error, self.ended = 0, "", 0.0
        self._label = label
        self._log = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by the reader)
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | dict(environment or {}),
            start_new_session=True,  # Ctrl-C on the terminal is ours to answer
        )
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        if apart:
            self._readers.append(threading.Thread(target=self._keep, daemon=True))
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        with self._log:
            for line in self.process.stdout:
                self.lines += 1
                self._log.write(line)
                with PRINTING:
                    print(f"[{self._label}] {line}", end="" if line.endswith("\n") else "\n", flush=True)

    def _keep(self) -> None:
        for line in self.process.stderr:
            self.error = (self.error + line)[-4000:]

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code = self.process.poll()
        if code is not None and not self.ended:
            self.ended = time.monotonic()
            for reader in self._readers:  # what it said last
                reader.join(2)
        return code

    def signal(self, number: int) -> None:
        """Sends a signal to it and its children, if it still runs."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.poll()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None and not any(reader.is_alive() for reader in self._readers):
                pipe.close()


def any_ended(streams: Sequence[Stream]) -> bool:
    """Whether one of them has."""
    return any(stream.poll() is not None for stream in streams)


def all_ended(streams: Sequence[Stream]) -> bool:
    """Whether each of them has."""
    return all(stream.poll() is not None for stream in streams)


def wait(tick: Callable[[], None], until: Callable[[], bool], seconds: float = math.inf) -> None:
    """Waits until `until()`, at most some seconds, calling `tick` meanwhile."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        tick()
        time.sleep(0.05)


def tail(folder: Path, lines: int, follow: Callable[[], bool]) -> None:
    """Prints the last lines of every *.log of a folder with its name, then what comes while `follow()`."""
    seen: dict[Path, int] = {}
    while True:
        going = follow()
        for path in sorted(folder.glob("*.log")):
            with open(path, "rb") as file:
                file.seek(seen.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1] if going else new
            last = whole.decode(errors="replace").splitlines()
            for line in last if path in seen else last[len(last) - min(lines, len(last)) :]:
                print(f"[{path.stem}] {line}")
            seen[path] = seen.get(path, 0) + len(whole)
        sys.stdout.flush()
        if not going:
            return
        time.sleep(0.5)
