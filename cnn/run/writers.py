"""What a run says while it goes: a progress bar, metrics.jsonl, TensorBoard. Main process only."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import tqdm


class Writer:
    """Writes scalars by step to metrics.jsonl and, when tensorboardX is installed, to TensorBoard.

    Args:
      workdir: the run's folder.
      active: False on all processes but the main one, where every call does nothing.
      resume_step: lines of later steps, from a run that was killed after its last save, are dropped.
    """

    def __init__(self, workdir: Path, active: bool = True, resume_step: int = 0):
        self._file = self._events = None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (closed in close)
        try:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step)
        except ImportError:
            pass  # the extra [tensorboard] is not installed; metrics.jsonl has everything

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, one point per value."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if self._events is not None and isinstance(value, int | float):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes everything."""
        for sink in (self._file, self._events):
            if sink is not None:
                sink.close()


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a half-written last one is left out."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged values of a run, in order."""
    return parse_metrics(path.read_text()) if path.exists() else []


class Progress:
    """A bar with loss, rate and time left on a terminal; a line every few seconds elsewhere."""

    def __init__(self, total: int, start: int, active: bool = True, every_seconds: float = 10.0):
        self._total, self._active, self._every = total, active, every_seconds
        self._step, self._start, self._began = start, start, time.perf_counter()
        self._said = self._began
        self._bar = None
        if active and sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows that `step` steps are done."""
        text = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._step)
        self._step = step
        now = time.perf_counter()
        if self._active and self._bar is None and now - self._said > self._every:
            self._said = now
            left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
            print(f"step {step}/{self._total}: {text}, {left:.0f} s left", flush=True)

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._active and self._bar is not None:
            self._bar.write(text)
        elif self._active:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()
