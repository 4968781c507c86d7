"""`launch local`: N processes with M simulated devices each, on this machine: the code path of a pod, for nothing.

The processes find each other as they do anywhere else (CNN_COORDINATOR, CNN_PROCESSES, CNN_PROCESS). When one fails,
the others are ended; a run that saved itself or lost a process goes on from its last save.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

from cnn.errors import UserError
from cnn.flags import Parser
from cnn.stopping import Interrupts
from experiments.launch import command as commands
from experiments.launch import outcome, streams
from experiments.launch.plan import Command, Plan
from experiments.launch.record import Launch
from experiments.launch.watch import Ended, Watch

MOST_PROCESSES = 64
LOST_S = 5.0  # without its peers a process can save nothing more


def flags(parser: Parser) -> None:
    """The flags of this target."""
    parser.add_argument("--processes", type=int, default=1, help="as many as a pod has hosts")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices of each process")
    parser.add_argument("--max-restarts", type=int, default=10, help="the run is started again at most so often")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds that a process has to save and end")


def workdir(launch: Launch) -> str:
    """Where the run's folder is, unless the command says."""
    return f"runs/{launch.name}"


def plan(launch: Launch, port: str = "PORT") -> Plan:
    """One process per host of an imagined pod.

    Raises:
      UserError: a number that cannot be.
    """
    processes, devices = launch.options["processes"], launch.options["devices"]
    for name, value in (("processes", processes), ("devices", devices)):
        if not 1 <= value <= MOST_PROCESSES:
            raise UserError(f"--{name} {value}: from 1 to {MOST_PROCESSES}")
    if launch.options["grace"] <= 0 or launch.options["max_restarts"] < 0:
        raise UserError("--grace is more than 0, --max-restarts at least 0")
    words = commands.words(launch.command, sys.executable)
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "CNN_COORDINATOR": f"127.0.0.1:{port}",
        "CNN_PROCESSES": str(processes),
    }
    if processes == 1:
        settings = {key: value for key, value in settings.items() if not key.startswith("CNN_")}
    workers = []
    for index in range(processes):
        mine = settings | ({"CNN_PROCESS": str(index)} if processes > 1 else {})
        argv = ("env", *(f"{key}={value}" for key, value in mine.items()), *words)
        workers.append(Command("worker", argv, "a process of the run", "stop"))
    title = f"{launch.name}: {processes} process(es) with {devices} simulated device(s) each, on this machine"
    stop = Command("stop", ("kill", "-TERM", "PROCESS"), "every process saves and ends; it is sent on Ctrl-C")
    where = commands.workdir(launch.command)
    return Plan(title, (("workdir", where),) if where else (), commands=(*workers, stop))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def run(launch: Launch) -> int:
    """Runs to the end, over interruptions; returns the exit code."""
    started = 0
    with Interrupts() as interrupts:
        watch = Watch(launch, interrupts)
        while True:
            launch.move("training", f"start {started + 1}" if started else "")
            try:
                result = outcome.judge(attempt(launch, watch))
            except Ended as end:
                launch.move(end.phase, f"{end}; resume {launch.name} goes on")
                return outcome.exit_code(outcome.AGAIN)
            started += 1
            if result not in outcome.RESUMED:
                launch.move("done" if result == outcome.DONE else "failed", "" if result == outcome.DONE else result)
                return outcome.exit_code(result)
            if started > launch.options["max_restarts"]:
                launch.move("failed", f"{result}, and --max-restarts={started - 1} is used up")
                return outcome.exit_code(result)
            launch.restarts += 1
            launch.move("restarting", result)


def attempt(launch: Launch, watch: Watch) -> list[int]:
    """Runs all processes once; the codes of those that ended by themselves, in that order.

    Raises:
      Ended: the launch is over; the processes were asked to save and have ended.
    """
    grace = launch.options["grace"]
    workers: list[streams.Stream] = []
    try:
        for index, command in enumerate(plan(launch, str(free_port())).of("worker")):
            workers.append(streams.Stream(command.argv, str(index), launch.folder / f"worker_{index}.log"))
        launch.known["processes"] = [worker.process.pid for worker in workers]
        launch.save()

        def codes() -> list[int | None]:
            return [worker.poll() for worker in workers]

        try:
            streams.wait(watch, lambda: any(codes()) or None not in codes())
        except Ended:
            ended(workers, grace)
            raise
        failed = [code for code in codes() if code]
        # Those that save too when one was asked to, and those that make the same mistake, need a moment.
        if outcome.judge(failed) in (outcome.AGAIN, outcome.MISTAKE):
            streams.wait(nothing, partial(streams.all_ended, workers), grace)
        own = [worker for worker in workers if worker.poll() is not None]
        ended(workers, min(grace, LOST_S))
        return [worker.process.returncode for worker in sorted(own, key=lambda worker: worker.ended)]
    finally:
        for worker in workers:
            worker.close()
        launch.known.pop("processes", None)


def nothing() -> None:
    """No reason to wait less."""


def ended(workers: list[streams.Stream], grace: float) -> None:
    """Asks every process to save and end; after the grace they are killed."""
    for worker in workers:
        worker.signal(signal.SIGTERM)
    streams.wait(nothing, partial(streams.all_ended, workers), grace)
    for worker in workers:
        worker.close()


def status(launch: Launch) -> str:
    """What is known beside the phase."""
    return f"processes: {', '.join(map(str, alive(launch))) or 'none'}"


def alive(launch: Launch) -> list[int]:
    """Processes of the launch that still run, by their command and not by their number alone."""
    running = []
    for pid in launch.known.get("processes", ()):
        shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
        if launch.command[-1] in shown:
            running.append(pid)
    return running


def stop(launch: Launch) -> None:
    """Ends what a controller that is gone left behind."""
    for pid in alive(launch):
        os.killpg(pid, signal.SIGTERM)
    until = time.monotonic() + launch.options["grace"]
    while alive(launch) and time.monotonic() < until:
        time.sleep(0.1)
    launch.move("stopped", "" if not alive(launch) else "some processes do not end; see: status")


def logs(launch: Launch, lines: int, follow: bool) -> int:
    """Prints what the processes said."""
    streams.tail(launch.folder, lines, lambda: follow and bool(launch.controller()))
    return 0
