"""Where the time of a run goes: steps, waiting for input, evaluation, saving, compiling."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn import distributed
from cnn.mesh import lockstep
from cnn.plan import Plan
from cnn.process import cache_counts
from cnn.scoring.sums import median_interval

BLOCKS = 10  # of a run's laps


class Clock:
    """Adds up seconds by name, and the laps of the loop: its seconds per step, other work taken out."""

    OUTSIDE = ("eval", "save", "compile")  # not part of a step

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*self.OUTSIDE, "input"), 0.0)
        self.laps: list[tuple[float, int]] = []  # (seconds, steps) between two logs
        self._began = self._mark = time.perf_counter()
        self._outside = 0.0

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Counts the seconds inside under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def draw(self, data: Iterator[Any], last: Any) -> Any:
        """The next batch. Its seconds count as input wait where the devices ran out of work meanwhile.

        Args:
          last: an output of the last step dispatched; None before the first.
        """
        start = time.perf_counter()
        batch = next(data)
        if last is None or last.is_ready():
            self.seconds["input"] += time.perf_counter() - start
        return batch

    def compiled(self, outputs: Any) -> None:
        """Counts everything since the last lap, up to `outputs` being there, as compilation."""
        jax.block_until_ready(outputs)
        now = time.perf_counter()
        self.seconds["compile"] += now - self._mark
        self._mark, self.seconds["input"] = now, 0.0

    def lap(self, steps: int = 0) -> None:
        """Ends a lap of so many steps; 0 only begins the next one."""
        now = time.perf_counter()
        outside = sum(self.seconds[name] for name in ("eval", "save"))
        if steps:
            self.laps.append((now - self._mark - (outside - self._outside), steps))
        self._mark, self._outside = now, outside

    def summary(self, plan: Plan, step: Callable[..., Any], state: Any) -> dict[str, Any]:
        """Of this process: seconds in all and by kind, what the compile cache did, and the loop beside the bare step.

        The bare step is timed now, in bursts on a copy of `state`; it is left out of runs of less than three laps. See
        `overhead` for what the two are compared by.
        """
        found: dict[str, Any] = {
            "total_seconds": time.perf_counter() - self._began,
            "train_seconds": sum(seconds for seconds, _ in self.laps),
            **{f"{name}_seconds": value for name, value in self.seconds.items()},
            "cache_hits": cache_counts["hits"],
            "cache_misses": cache_counts["misses"],
        }
        if len(self.laps) < 3 or distributed.several():  # processes would burst at different times
            return found
        batch = jax.device_put(plan.place(plan.batches[int(state.step)]))
        try:
            state = jax.tree.map(jnp.copy, state)
            budget = min(3.0, 0.1 * found["total_seconds"])  # a short run is not made much longer by it
            bursts = bare_step_seconds(step, state, batch, wait=lockstep(plan.built.mesh), budget=budget)
        except jax.errors.JaxRuntimeError:  # no room for a second state: the run itself is whole
            return found
        laps = [seconds / steps for seconds, steps in self.laps[1:]]
        looped = statistics.median(laps)
        return found | {
            "step_ms": 1e3 * looped,
            "bare_step_ms": 1e3 * statistics.median(bursts),
            **overhead(laps, bursts),
            "input_wait": self.seconds["input"] / sum(count for _, count in self.laps) / looped,
            "examples_per_second": plan.config.input.batch_size / looped,
        }


def overhead(laps: Sequence[float], bursts: Sequence[float]) -> dict[str, Any]:
    """The loop's cost per step over that of the step alone, as far as the two measurements resolve it.

    The laps are cut into blocks, so that a machine that changes its speed during the run widens the interval, as the
    bursts come after it. The limits take the ends of both 95 % intervals that are farthest apart.

    Args:
      laps, bursts: seconds per step, in the order in which they were measured.

    Returns:
      {'overhead': 0.03, 'overhead_interval': [0.01, 0.05]} where all of the interval is above 0; {'overhead_below':
      0.05} where it holds 0; {} where there are too few values, or the loop came out faster than the step that it
      contains: then the machine's speed changed between the two.
    """
    blocks = [statistics.median(part) for part in np.array_split(laps, min(len(laps), BLOCKS))]
    loop, bare = median_interval(blocks), median_interval(bursts)
    low, high = loop.low / bare.high - 1, loop.high / bare.low - 1
    if low > 0:
        value = statistics.median(laps) / bare.mean - 1
        return {"overhead": value, "overhead_interval": [low, high]}
    return {"overhead_below": high} if high > 0 else {}


def bare_step_seconds(
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    batch: Any,
    *,
    wait: bool = False,
    budget: float = 3.0,
) -> list[float]:
    """Seconds per step of the jitted step alone, in each of up to ten bursts, on one batch that is on the device.

    Args:
      state: is donated; do not use it afterwards.
      wait: for each step, as the loop does on simulated devices.
      budget: about how many seconds to spend.
    """

    def seconds(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(count):
            state, _ = step(state, batch)
            if wait:
                jax.block_until_ready(state)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / count

    seconds(1)
    once = seconds(1)
    bursts = min(10, max(round(budget / once), 1))
    return [seconds(max(round(budget / bursts / once), 1)) for _ in range(bursts)]


class Profiler:
    """Writes a profiler trace of the steps (first, last) of the config to `folder`; () is off."""

    def __init__(self, steps: tuple[int, ...], folder: Path):
        self._first, self._last = steps or (-1, -1)
        self._folder, self._running = folder, False

    def at(self, step: int, outputs: Any) -> None:
        """Called before `step` runs, with what to wait for at the end of the trace."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._last + 1:
            self.stop(outputs)

    def stop(self, outputs: Any) -> None:
        """Ends a running trace."""
        if self._running:
            jax.block_until_ready(outputs)
            jax.profiler.stop_trace()
            self._running = False
