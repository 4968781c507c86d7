"""Runs gcloud (and sbatch, kubectl): again where a failure passes; says what is wrong in one line.

gcloud ends with 1 and 'ERROR: (gcloud....) MESSAGE' on standard error, with 2 for a flag that it does not know, and
`ssh` with the exit code of the remote command.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn.errors import UserError
from experiments.launch.plan import Command

ATTEMPTS = 5
TICK_S = 0.2  # between two looks at what should end the waiting


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of failure, and what to do about it.

    Attributes:
      pattern: of the text on standard error.
      passes: whether the same command may succeed a little later.
      advice: for the user.
    """

    pattern: str
    passes: bool
    advice: str


# The first that matches counts. Quota and lack of machines are both RESOURCE_EXHAUSTED: only the second passes.
KINDS = {
    "network": Kind(
        r"Failed to establish|Max retries exceeded|Name or service not known|name resolution|Network is unreachable",
        True,
        "this computer cannot reach Google Cloud",
    ),
    "quota": Kind(
        r"(?i:quota)",
        False,
        "ask for more in the console (IAM & Admin, Quotas, service Cloud TPU API), or try another --zone or --type",
    ),
    "gone": Kind(r"NOT_FOUND|was not found|not found: 404", False, "check --project, --zone, --bucket and the name"),
    "exists": Kind(r"ALREADY_EXISTS|already exists", False, "use another --name, or delete the old one"),
    "permission": Kind(
        r"PERMISSION_DENIED|does not have permission|HTTPError 403",
        False,
        "check --project, that the Cloud TPU API is enabled there, and your roles",
    ),
    "login": Kind(
        r"do not currently have an active account|[Rr]eauthenticat|gcloud auth login", False, "run: gcloud auth login"
    ),
    "capacity": Kind(
        r"RESOURCE_EXHAUSTED|no more capacity|[Ii]nsufficient (?:reserved )?capacity",
        True,
        "try another --zone or --type, or come back later",
    ),
    "transient": Kind(
        r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|HTTPError 5\d\d|[Tt]imed out"
        r"|Connection (?:reset|refused|aborted|closed)|Could not SSH|cannot be currently connected"
        r"|exited with return code \[255\]",
        True,
        "try again later",
    ),
    "argument": Kind(
        r"INVALID_ARGUMENT|FAILED_PRECONDITION|unrecognized arguments|Invalid value",
        False,
        "see what the zone offers: gcloud compute tpus accelerator-types list --zone=ZONE",
    ),
}
PASSING = tuple(name for name, kind in KINDS.items() if kind.passes)
OTHER = Kind("", False, "commands.jsonl in the launch's folder has all of its output")


class CommandFailed(UserError):
    """A command that ended with another code than 0, and what its error says.

    Attributes:
      kind: a key of KINDS, or 'other'.
      code: the exit code.
    """

    def __init__(self, command: Command, code: int, error: str):
        self.code = code
        self.kind = kind_of(error)
        said = first_error(error) or f"ended with code {code}"
        super().__init__(f"{command.name}: {said} ({KINDS.get(self.kind, OTHER).advice})")


def kind_of(error: str) -> str:
    """A key of KINDS, or 'other'."""
    return next((name for name, kind in KINDS.items() if re.search(kind.pattern, error)), "other")


def first_error(error: str) -> str:
    """What the program itself says is wrong, on one line."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return re.sub(r"^ERROR: (\(gcloud[\w.-]*\) )?", "", said[0]).rstrip(".") if said else ""


class Runner:
    """Runs commands of a plan, and keeps a line about each.

    Args:
      folder: where commands.jsonl is.
      wait_s: seconds before the second attempt; twice as many before each further one.
      watch: called while a command runs and while waiting; what it raises ends the command and the waiting.
    """

    def __init__(self, folder: Path, wait_s: float = 5.0, watch: Callable[[], None] = lambda: None):
        self._journal, self._wait, self._watch = folder / "commands.jsonl", wait_s, watch

    def run(
        self,
        command: Command,
        attempts: int = ATTEMPTS,
        fine: Sequence[str] = (),
        again: Sequence[str] = (),
        to_the_end: bool = False,
    ) -> str:
        """Standard output of the command.

        Args:
          fine: kinds of failure that are as good as success; the output is '' then.
          again: kinds that are as good as success on a second attempt: what the first began may have happened.
          to_the_end: `watch` does not count.

        Raises:
          CommandFailed: it failed for good.
          UserError: the program is not installed.
        """
        watch = (lambda: None) if to_the_end else self._watch
        for attempt in range(attempts):
            code, out, error = self._once(command, watch)
            if code == 0:
                return out
            kind = kind_of(error)
            if kind in fine or attempt and kind in again:
                return ""
            if kind not in PASSING or attempt + 1 == attempts:
                raise CommandFailed(command, code, error)
            pause = self._wait * 2**attempt
            print(f"{command.name}: {first_error(error)}; trying again in {pause:g} s", flush=True)
            self.pause(pause, watch)
        raise AssertionError("attempts is at least 1")

    def pause(self, seconds: float, watch: Callable[[], None] | None = None) -> None:
        """Waits, unless `watch` raises."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            (watch or self._watch)()
            time.sleep(min(TICK_S, left))

    def _once(self, command: Command, watch: Callable[[], None]) -> tuple[int, str, str]:
        began = time.time()
        with subprocess.Popen(
            [found(command.argv[0]), *command.argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C on the terminal is ours to answer: it must not end a half-done deletion
        ) as process:
            while True:
                try:
                    out, error = process.communicate(timeout=TICK_S)
                    break
                except subprocess.TimeoutExpired:
                    try:
                        watch()
                    except BaseException:
                        os.killpg(process.pid, signal.SIGKILL)
                        raise
        line = {"name": command.name, "argv": command.argv, "code": process.returncode, "error": error[-2000:]}
        line |= {"began": round(began, 2), "seconds": round(time.time() - began, 2)}
        with open(self._journal, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        return process.returncode, out, error


INSTALL = {
    "gcloud": "install the Google Cloud CLI (cloud.google.com/sdk/docs/install)",
    "sbatch": "log in to a machine of the cluster, where Slurm's commands are",
    "kubectl": "install it: gcloud components install kubectl",
}


def found(program: str) -> str:
    """The program's path.

    Raises:
      UserError: it is not on the PATH.
    """
    path = shutil.which(program)
    if path is None:
        advice = INSTALL.get(program, "install it")
        raise UserError(f"{program} is not on the PATH: {advice}; --dry-run shows the plan without it")
    return path
