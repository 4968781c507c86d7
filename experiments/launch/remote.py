"""Shell scripts for the workers of a TPU: install the project, train, follow, stop.

Each is safe to run again. Training runs in a session of its own and outlives the connection that started it; its
process id, output and exit code are in files, so that whoever connects next finds them.
"""

import shlex
from collections.abc import Sequence

from experiments.launch import command as commands
from experiments.launch.plan import script

PYTHON, UV = "3.12", "uv==0.13.9"  # the images bring Python 3.10; uv brings a newer one without root
EXTRAS = "'jax[tpu]' gcsfs"  # JAX's version is pinned; gcsfs is how etils.epath reaches gs://
GUARD_S = 600  # after the deadline: whoever is still there to do it has done it by then
PID, LOG, CODE, GUARD = "run.pid", "run.log", "run.exit", "guard.pid"
STOP_S = 300  # for the last save


def folder(commit: str) -> str:
    """Of the installed project, in the home of the workers."""
    return f"cnn-{commit[:12]}"


def archive(commit: str) -> str:
    """The file with the project's source."""
    return f"{folder(commit)}.tar.gz"


def _here(commit: str) -> str:
    return f'cd "$HOME/{folder(commit)}"'


def install(commit: str, setup: str = "") -> str:
    """Unpacks the source, installs the pinned requirements and JAX for TPUs, and runs the user's line; once."""
    pip = '"$HOME/.local/bin/uv" pip install --quiet --python .venv/bin/python'
    return script(
        [
            f'if test -f "$HOME/{folder(commit)}/.ready"; then exit 0; fi',
            f'mkdir -p "$HOME/{folder(commit)}"',
            f'tar -xzf "$HOME/{archive(commit)}" -C "$HOME/{folder(commit)}"',
            _here(commit),
            f"python3 -m pip install --quiet --user {shlex.quote(UV)}",
            f'"$HOME/.local/bin/uv" venv --quiet --clear --python {PYTHON} .venv',
            f"{pip} -r requirements.txt {EXTRAS}",
            f"{pip} --no-deps -e .",
            *([setup] if setup else []),
            "touch .ready",
        ]
    )


def start(commit: str, command: Sequence[str]) -> str:
    """Starts training, unless it runs already."""
    words = shlex.join(commands.words(command, ".venv/bin/python"))
    # The trap lets the shell outlive the signal that is meant for training, and so write down its exit code.
    session = f"trap : TERM; {words}; echo $? > {CODE}.part; mv {CODE}.part {CODE}"
    return script(
        [
            _here(commit),
            f'if test -f {PID} && kill -0 "$(cat {PID})" 2>/dev/null; then exit 0; fi',
            f"rm -f {CODE}",
            "export CNN_DISTRIBUTED=1",
            f"setsid nohup bash -c {shlex.quote(session)} >> {LOG} 2>&1 < /dev/null &",
            f"echo $! > {PID}",
        ]
    )


def follow(commit: str, first: int = 1) -> str:
    """Prints the log from a line on until training ends; its exit code is training's."""
    return script(
        [
            _here(commit),
            f'tail -n +{first} -f -s 0.2 --pid="$(cat {PID})" {LOG}',
            f'exit "$(cat {CODE} 2>/dev/null || echo 137)"',
        ]
    )


def stop(commit: str) -> str:
    """Asks training to save and end, and waits for that; nothing where it does not run."""
    return script(
        [
            f'cd "$HOME/{folder(commit)}" 2>/dev/null || exit 0',
            f'if ! test -f {PID} || ! kill -0 "$(cat {PID})" 2>/dev/null; then exit 0; fi',
            f'kill -TERM -- "-$(cat {PID})"',
            f'timeout {STOP_S} tail -f /dev/null -s 0.2 --pid="$(cat {PID})" || kill -KILL -- "-$(cat {PID})"',
        ]
    )


def guard(commit: str, seconds: int, delete: Sequence[str]) -> str:
    """On one worker: after some seconds lets the run save and deletes the machines, whatever became of the launcher."""
    action = f"sleep {seconds}; bash -c {shlex.quote(stop(commit))}; until {shlex.join(delete)}; do sleep 60; done"
    return script(
        [
            'cd "$HOME"',
            f'if test -f {GUARD} && kill -0 "$(cat {GUARD})" 2>/dev/null; then kill -TERM -- "-$(cat {GUARD})"; fi',
            f"setsid nohup bash -c {shlex.quote(action)} > guard.log 2>&1 < /dev/null &",
            f"echo $! > {GUARD}",
        ]
    )
