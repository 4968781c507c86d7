"""The run of `launch tpu`: looks at the machines, does what their state asks for, and leaves nothing behind."""

import signal
import time
from functools import partial

from cnn.errors import UserError
from cnn.stopping import Interrupts
from experiments.launch import outcome, streams, tpu
from experiments.launch.gcloud import PASSING, CommandFailed, Runner
from experiments.launch.plan import Command
from experiments.launch.record import Launch
from experiments.launch.watch import Ended, Watch

CREATE, WAIT, RENEW, TRAIN = "create", "wait", "delete and create again", "train"
NONE, UNKNOWN, ACTIVE = "", "not known", "ACTIVE"
# What each state of a queued resource asks for.
STATES = {
    NONE: CREATE,
    UNKNOWN: WAIT,  # this computer, or the service, is off the net: what runs there goes on
    "CREATING": WAIT,
    "ACCEPTED": WAIT,  # older name of the next
    "WAITING_FOR_RESOURCES": WAIT,
    "PROVISIONING": WAIT,
    ACTIVE: TRAIN,
    "SUSPENDING": WAIT,  # preempted: the machines are going
    "SUSPENDED": RENEW,  # preempted: gone; the request stays, counts for the quota, and is never granted again
    "FAILED": RENEW,  # not granted in time, or not possible
    "DELETING": WAIT,
}
SSH_LOST = 255  # ssh's own exit code
OWN_ERROR = "ERROR: (gcloud"  # on standard error: gcloud itself failed, and not what it runs on the worker
HANGS_S = 120.0  # after the first worker saved itself and ended, for the others to do so too


class Pod:
    """One launch while it is run.

    Args:
      launch: its `known["commit"]` is pinned.
      interrupts: signals to this process.
    """

    def __init__(self, launch: Launch, interrupts: Interrupts):
        self.launch = launch
        self.watch = Watch(launch, interrupts)
        self.poll = launch.options["poll"]
        self.runner = Runner(launch.folder, min(5.0, self.poll), self.watch)
        self.plan = tpu.plan(launch)
        self.failures = 0
        self.started = False

    def run(self) -> int:
        """Until the run is done or the launch is over; returns the exit code, with everything deleted.

        Raises:
          UserError: what nobody but the user can mend; everything is deleted before.
        """
        ends, note, code = "failed", "", outcome.EXIT_BUG
        try:
            for command in self.plan.of("bucket"):
                self.runner.run(command)
            ends, note, code = self.reconcile()
        except Ended as end:
            ends, note, code = end.phase, f"{end}; resume {self.launch.name} goes on", outcome.EXIT_INTERRUPTED
            self.save()
        except Exception as error:
            note = str(error)
            raise
        finally:
            gone = self.delete()
            if gone:
                self.launch.move(ends, note)
        return code if gone else outcome.EXIT_BUG

    def reconcile(self) -> tuple[str, str, int]:
        """The phase, note and exit code that the run ends with.

        Raises:
          Ended: the launch is over before.
          UserError: what nobody but the user can mend.
        """
        while True:
            self.watch()
            now, error = self.look()
            if now not in (NONE, UNKNOWN) and not self.launch.known.get("created"):
                raise UserError(
                    f"a queued resource '{self.launch.name}' exists and is not of this launch: use another --name"
                )
            action = STATES.get(now, WAIT)
            if action == CREATE:
                self.create()
            elif action == WAIT:
                self.launch.move("waiting", now)
                self.runner.pause(self.poll)
            elif action == RENEW:
                self.renew(now, error)
            else:
                result = self.train()
                if result == outcome.DONE:
                    return "done", "", outcome.EXIT_DONE
                if result and result not in outcome.RESUMED:
                    return "failed", result, outcome.exit_code(result)
                if result == outcome.LOST:
                    self.failures += 1
                if self.failures > self.launch.options["max_restarts"]:
                    return "failed", f"{result}, and --max-restarts is used up", outcome.exit_code(result)
                if result:
                    self.save()  # those that hang, or are left
                self.launch.restarts += 1
                self.launch.move("restarting", result or "the machines were taken away")

    def look(self) -> tuple[str, str]:
        """The state of the queued resource, and what the service says about it."""
        try:
            return tpu.state(self.plan.one("describe"), self.runner)
        except CommandFailed as error:
            if error.kind not in PASSING:
                raise
            return UNKNOWN, str(error)

    def create(self) -> None:
        """Asks for the machines."""
        self.launch.known |= {"created": True, "seen": {}}
        self.launch.move("creating", self.launch.options["type"])
        self.plan = tpu.plan(self.launch)  # what is left until the deadline is in it
        try:
            # Where an attempt failed on the way back, the second finds what the first made.
            self.runner.run(self.plan.one("create"), again=("exists",))
        except CommandFailed as error:
            if error.kind not in PASSING:  # refused: nothing is there to delete, or it is somebody else's
                self.launch.known["created"] = False
            raise

    def renew(self, now: str, error: str) -> None:
        """Deletes what will never be granted again.

        Raises:
          CommandFailed: the service says why it failed, and that does not pass.
        """
        failed = CommandFailed(self.plan.one("create"), 1, error) if now == "FAILED" and error else None
        if failed and failed.kind not in PASSING:
            raise failed
        if failed:
            self.runner.pause(self.poll)
        self.launch.move("renewing", f"{now}{f': {error}' if error else ''}")
        self.runner.run(self.plan.one("delete"), fine=("gone",), to_the_end=True)

    def train(self) -> str:
        """Installs, starts and follows training; the outcome, or '' where the machines went away.

        Raises:
          CommandFailed: a step failed although the machines are there.
        """
        try:
            for name in tpu.ON_MACHINES:
                self.launch.move("training" if name == "start" else "installing")
                for command in self.plan.of(name):
                    self.step(command)
            return self.follow()
        except CommandFailed:
            if self.look()[0] == ACTIVE:
                raise
            return ""

    def step(self, command: Command) -> None:
        """One command on the machines. The guard may fail: not every service account may delete."""
        self.started |= command.name == "start"
        try:
            self.runner.run(command)
        except CommandFailed as error:
            if command.name != "guard":
                raise
            print(f"{error}; nothing but this process deletes the machines at the deadline", flush=True)

    def follow(self) -> str:
        """Streams every worker's log until training ends; the outcome, or '' where the machines went away."""
        labels = self.workers().keys()
        followed: dict[str, streams.Stream] = {}
        codes: dict[str, int] = {}
        began = time.monotonic()
        try:
            while True:
                for label in sorted(labels - followed.keys() - codes.keys()):
                    followed[label] = self.connect(label)
                running = list(followed.values())
                streams.wait(self.watch, partial(streams.any_ended, running), self.poll)
                for label, stream in list(followed.items()):
                    if (code := stream.poll()) is not None:
                        self.disconnect(label, followed.pop(label))
                        codes[label] = SSH_LOST if code and OWN_ERROR in stream.error else code
                if self.look()[0] not in (ACTIVE, UNKNOWN):
                    return ""
                failed = {label: code for label, code in codes.items() if code}
                if failed and set(failed.values()) == {SSH_LOST}:
                    print(f"connection to worker {', '.join(failed)} lost, connecting again", flush=True)
                    self.runner.pause(min(5.0, self.poll))
                    codes = {label: code for label, code in codes.items() if not code}
                    continue
                result = outcome.judge(list(codes.values()))
                waited = time.monotonic() - began if result == outcome.AGAIN else 0.0
                if len(codes) == len(labels) or result not in (outcome.DONE, outcome.AGAIN) or waited > HANGS_S:
                    return result
                if result == outcome.DONE:
                    began = time.monotonic()
        finally:
            for label, stream in followed.items():
                self.disconnect(label, stream)

    def workers(self) -> dict[str, tuple[str, int]]:
        """{label: (slice, worker)} of all."""
        slices, hosts = tpu.nodes(self.launch), tpu.checked(self.launch.options).hosts
        return {
            f"{index}.{worker}" if len(slices) > 1 else str(worker): (node, worker)
            for index, node in enumerate(slices)
            for worker in range(hosts)
        }

    def seen(self, label: str) -> int:
        """Lines of a worker's log that were printed already, on these machines."""
        return self.launch.known.setdefault("seen", {}).get(label, 0)

    def connect(self, label: str) -> streams.Stream:
        """A stream of one worker's log, from the first line on that was not seen."""
        command = tpu.follow(self.launch, *self.workers()[label], self.seen(label) + 1)
        return streams.Stream(command.argv, label, self.launch.folder / f"worker_{label}.log", apart=True)

    def disconnect(self, label: str, stream: streams.Stream) -> None:
        """Ends a stream, and keeps how far it came."""
        stream.close()
        self.launch.known["seen"][label] = self.seen(label) + stream.lines

    def save(self) -> None:
        """Lets the run save before it ends; what fails here does not keep the machines from going."""
        if not self.started:
            return
        self.launch.move("stopping", "the run saves")
        for command in self.plan.of("stop"):
            try:
                self.runner.run(command, attempts=1, to_the_end=True)
            except CommandFailed as error:
                print(f"{error}; going on with the last save", flush=True)

    def delete(self) -> bool:
        """Deletes what this launch created, whatever signals come meanwhile; whether it is gone."""
        if not self.launch.known.get("created"):
            return True
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        command = self.plan.one("delete")
        try:
            self.launch.move("deleting")
            self.runner.run(command, fine=("gone",), to_the_end=True)
            self.launch.known["created"] = False
            return True
        except Exception as error:
            self.launch.move("failed", f"NOT DELETED, THE MACHINES STILL COST MONEY ({error}). Run: {command}")
            return False
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def run(launch: Launch) -> int:
    """Runs a launch to its end; returns the exit code."""
    with Interrupts() as interrupts:
        return Pod(launch, interrupts).run()


def stop(launch: Launch) -> None:
    """Lets the run save and deletes everything, where no controller is left to do so."""
    with Interrupts() as interrupts:
        pod = Pod(launch, interrupts)
        pod.started = pod.look()[0] == ACTIVE
        pod.save()
        if pod.delete():
            launch.move("stopped")
