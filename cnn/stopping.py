"""Why a run stops before its last step: a signal, the time budget, no improvement."""

import dataclasses
import signal
import time
from types import FrameType
from typing import Any

from cnn.scoring.comparing import is_better

EXIT_INTERRUPTED = 75  # saved and stopped on request: the same command goes on (EX_TEMPFAIL)
EXIT_LOST = 76  # another process of the run is gone: the same command goes on from the last save


class Interrupts:
    """Context in which SIGTERM and SIGINT set `received` instead of ending the process.

    The loop looks after each step, saves and leaves. A second SIGINT ends the process at once.

    Args:
      sigterm: whether it is caught here; JAX does so where several processes have to agree.
    """

    def __init__(self, sigterm: bool = True) -> None:
        self.received = ""
        self._signals = (signal.SIGTERM, signal.SIGINT) if sigterm else (signal.SIGINT,)

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.signal(s, self._handle) for s in self._signals}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = f"received {signal.Signals(number).name}"

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Deadline:
    """The time budget of `max_minutes` for this process; None never ends."""

    def __init__(self, minutes: float | None):
        self._minutes = minutes
        self._began = time.monotonic()

    def passed(self) -> str:
        """'' or, when the time is over, the reason to stop."""
        if self._minutes is None or time.monotonic() - self._began < 60 * self._minutes:
            return ""
        return f"max_minutes={self._minutes:g} is over"


@dataclasses.dataclass
class Best:
    """The best evaluation so far; saved with the state, so that a resumed run decides alike.

    Attributes:
      value, step: of the best evaluation; None before the first.
      stale: evaluations since.
      last_step: the step of the last evaluation.
    """

    mode: str = "max"
    value: float | None = None
    step: int | None = None
    stale: int = 0
    last_step: int | None = None

    def update(self, value: float, step: int) -> bool:
        """Counts one evaluation; whether it is the best."""
        self.last_step = step
        better = is_better(value, self.value, self.mode)
        if better:
            self.value, self.step, self.stale = value, step, 0
        else:
            self.stale += 1
        return better

    def to_json(self) -> dict[str, Any]:
        """For the checkpoint's metadata."""
        return {
            "best_value": self.value,
            "best_step": self.step,
            "stale": self.stale,
            "last_eval_step": self.last_step,
        }

    @classmethod
    def from_json(cls, mode: str, saved: dict[str, Any]) -> "Best":
        """The inverse of `to_json`."""
        return cls(mode, saved["best_value"], saved["best_step"], saved["stale"], saved["last_eval_step"])
