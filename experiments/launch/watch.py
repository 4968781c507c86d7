"""When a launch ends before its run does: a signal, the deadline."""

import time

from cnn.stopping import Interrupts
from experiments.launch.record import Launch


class Ended(Exception):
    """The launch is over although the run is not.

    Attributes:
      phase: the one of ENDED that it ends in.
    """

    def __init__(self, phase: str, reason: str):
        super().__init__(reason)
        self.phase = phase


class Watch:
    """Called wherever the launcher waits; raises `Ended` once it is over."""

    def __init__(self, launch: Launch, interrupts: Interrupts):
        self._launch, self._interrupts = launch, interrupts

    def __call__(self) -> None:
        if self._interrupts.received:
            raise Ended("stopped", self._interrupts.received)
        if self._launch.deadline and time.time() > self._launch.deadline:
            raise Ended("deadline", "the deadline has come")


def hours(text: str) -> float:
    """A positive number of hours, for argparse."""
    value = float(text)
    if not 0 < value < 24 * 366:
        raise ValueError("hours")
    return value
