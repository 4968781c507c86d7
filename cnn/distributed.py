"""Several processes as one run: finding each other, waiting, agreeing, leaving.

JAX's own runtime is the engine (`jax.distributed`). Where a process is told nothing, it is alone, and all of this
does nothing. Its place comes from the first of

    flags         --coordinator=HOST:PORT --processes=N --process=I
    environment   CNN_COORDINATOR, CNN_PROCESSES, CNN_PROCESS; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
                  JAX_PROCESS_ID, or the number that Kubernetes gives the pod of a Job (JOB_COMPLETION_INDEX)
    cluster       Cloud TPU, Slurm, GKE: JAX asks it, with --distributed or CNN_DISTRIBUTED=1
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cnn.errors import UserError
from cnn.stopping import EXIT_LOST

EXIT_USER_ERROR = 2  # as every mistake of the user
CONNECT_S, HEARTBEAT_S = 300, 100  # JAX's own
TOGETHER_S = 24 * 3600  # that the others wait for the first process; one that died ends the wait much sooner
_NAMES = {
    "coordinator": ("CNN_COORDINATOR", "JAX_COORDINATOR_ADDRESS"),
    "processes": ("CNN_PROCESSES", "JAX_NUM_PROCESSES"),
    "process": ("CNN_PROCESS", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
}
_GONE = re.compile(r"Gloo|by peer|heartbeat|coordination (service|agent)|UNAVAILABLE|barrier", re.IGNORECASE)
_barriers = itertools.count()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a verb that several processes run together."""
    parser.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0, for all to meet")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="which one this is, from 0")
    parser.add_argument("--distributed", action="store_true", help="ask the cluster: Cloud TPU, Slurm, GKE")
    parser.add_argument("--connect_seconds", type=int, default=CONNECT_S, help="to wait for the others at the start")
    parser.add_argument(
        "--heartbeat_seconds", type=int, default=HEARTBEAT_S, help="after which a silent process counts as lost"
    )


def place(args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is told; None for a process that is alone.

    Raises:
      UserError: half of a place, or one that cannot be.
    """
    found: dict[str, Any] = {}
    for name, variables in _NAMES.items():
        given = getattr(args, name)
        values = [environment[v] for v in variables if environment.get(v)]
        if given not in (None, ""):
            found[name] = given
        elif values:
            found[name] = values[0]
    if "coordinator" not in found:
        if args.coordinator is not None and (args.processes is not None or args.process is not None):
            raise UserError("--processes and --process need --coordinator=HOST:PORT, where process 0 runs")
        asked = args.distributed or environment.get("CNN_DISTRIBUTED") == "1"
        return {} if asked else None
    missing = [f"--{name}" for name in _NAMES if name not in found]
    if missing:
        raise UserError(f"--coordinator={found['coordinator']} needs {' and '.join(missing)} too")
    try:
        processes, process = int(found["processes"]), int(found["process"])
    except ValueError as error:
        raise UserError(f"processes '{found['processes']}', process '{found['process']}': give numbers") from error
    host, _, port = str(found["coordinator"]).rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"coordinator '{found['coordinator']}' is not HOST:PORT")
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes}: processes are numbered from 0 to one less than there are")
    if processes == 1:
        return None
    return {"coordinator_address": found["coordinator"], "num_processes": processes, "process_id": process}


def connect(args: argparse.Namespace) -> None:
    """Joins the run's other processes, if there are any; before anything asks JAX for devices.

    Raises:
      UserError: they are not found, or the coordinator does not answer in time.
    """
    where = place(args, os.environ)
    if where is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    to = where.get("coordinator_address", "the cluster's coordinator")

    def missing(reason: str) -> str:
        return (
            f"{to} did not bring all processes together in {args.connect_seconds} s ({reason}); see that process 0 "
            "runs there, that the port is open, and that all were started with the same number of processes"
        )

    # JAX's client ends the process with a page of C++ when the time is over: this comes before it.
    timer = threading.Timer(args.connect_seconds, _end, [missing("no answer")])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=args.connect_seconds + 30,
            heartbeat_timeout_seconds=args.heartbeat_seconds,
            shutdown_timeout_seconds=args.heartbeat_seconds,
        )
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise UserError(missing(str(error).strip().splitlines()[0][:200])) from error
    finally:
        timer.cancel()


def _end(line: str) -> None:
    print(f"cnn: error: {line}", file=sys.stderr, flush=True)
    os._exit(EXIT_USER_ERROR)


def together(args: argparse.Namespace, run: Callable[[], int]) -> int:
    """Joins the other processes, runs, and returns the exit code: EXIT_LOST where another process was lost."""
    connect(args)
    try:
        code = run()
        wait_for_all("end")  # the first one draws and fits baselines
        return code
    except Exception as error:
        reason = several() and _lost(error)
        if reason:
            print(f"cnn: another process of this run is gone ({reason}); the same command goes on", file=sys.stderr)
            leave(EXIT_LOST)
        raise


def _lost(error: BaseException | None) -> str:
    """The line in an error's chain of causes that says that a peer is gone; '' without one.

    Backends raise many types for it, and what was in the way of it, such as a save, raises others.
    """
    while error is not None:
        for line in str(error).splitlines():
            if _GONE.search(line):
                return line.strip()[:160]
        error = error.__cause__ or error.__context__
    return ""


def several() -> bool:
    """Whether other processes take part in this run."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
    """Whether this process writes what a run leaves behind besides its checkpoints."""
    return not several() or jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once per run."""
    if is_main():
        print(text, flush=True)


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if several():
        from orbax.checkpoint import multihost

        # Asks the coordinator, not the devices, whose collectives do not wait so long.
        multihost.get_barrier_sync_fn()(key=f"cnn {what} {next(_barriers)}", timeout_ms=1000 * TOGETHER_S)


@contextlib.contextmanager
def main_first(what: str) -> Iterator[None]:
    """The first process goes through the block, then the others: what it prepares on a shared disk they find."""
    if not is_main():
        wait_for_all(what)
    yield
    if is_main():
        wait_for_all(what)


def agree(value: bool) -> bool:
    """Whether it is so on every process."""
    if not several():
        return value
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def whole(arrays: Any) -> Any:
    """A tree of global arrays on this host."""
    if not several():
        return jax.device_get(arrays)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(arrays, tiled=True)


class Stops:
    """Where all processes stop, once one of them is asked to: the same step for all.

    JAX's coordinator finds it, in the background: a step costs a look at a number. Its notice is SIGTERM, which JAX
    catches itself; every other reason of a process becomes one.
    """

    def __init__(self) -> None:
        self._said = ""

    def at(self, step: int, reason: str) -> str:
        """'' or why this process stops before `step`. Called before every step, by all.

        Args:
          reason: that this process has, '' for none.
        """
        if not several():
            return reason
        if reason and not self._said:
            self._said = reason
            os.kill(os.getpid(), signal.SIGTERM)
        from jax.experimental import multihost_utils

        stops = multihost_utils.reached_preemption_sync_point(step)
        return (self._said or "a process of the run received SIGTERM") if stops else ""


def leave(code: int) -> None:
    """Ends a process that failed, if it has peers: they wait in a collective, and it would wait for their farewell."""
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
