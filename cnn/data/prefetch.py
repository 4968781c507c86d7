"""Preparing batches ahead of time: one light thread, Grain's threads, or Grain's worker processes."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


def prefetch(
    batches: Any, start: int, threads: int, workers: int, light: bool, place: Callable[[Any], Any]
) -> Iterator[Any]:
    """place(batches[start]), place(batches[start + 1]), ... in order; see `pipeline.iterate`.

    Where a batch is only a gather of arrays in memory (`light`), one plain thread serves it in a few
    microseconds; Grain's iterator would cost more than such a batch itself.
    """
    if light and not workers and threads in (0, 1):
        return _OneThread(batches, start, place)
    return map(place, _grain(batches, start, threads or min(16, os.cpu_count() or 1), workers))


class _OneThread:
    """place(batches[start]), place(batches[start + 1]), ...: a thread stays up to `ahead` batches in front.

    The thread starts at once, so that it works while the first step compiles, and ends with its iterator.
    """

    def __init__(self, batches: Any, start: int, place: Callable[[Any], Any], ahead: int = 4):
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._room: queue.SimpleQueue = queue.SimpleQueue()  # a token per batch that may be prepared
        for _ in range(ahead):
            self._room.put(True)
        arguments = (batches, start, place, self._ready, self._room)  # not self: it must be collectable
        threading.Thread(target=_produce, args=arguments, daemon=True, name="cnn-batches").start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch, error = self._ready.get()
        if error is not None:
            self._ready.put((None, error))  # asked again, it says the same
            raise error
        self._room.put(True)
        return batch

    def close(self) -> None:
        """Ends the thread."""
        self._ready.put((None, StopIteration()))
        self._room.put(False)

    def __del__(self) -> None:
        self._room.put(False)


def _produce(
    batches: Any,
    start: int,
    place: Callable[[Any], Any],
    ready: queue.SimpleQueue,
    room: queue.SimpleQueue,
) -> None:
    try:
        for step in range(start, len(batches)):
            if not room.get():
                return
            ready.put((place(batches[step]), None))
        ready.put((None, StopIteration()))
    except BaseException as error:  # whatever it is, the caller has to see it
        ready.put((None, error))


def _grain(batches: Any, start: int, threads: int, workers: int) -> Iterator[Any]:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads its own flags, also where nobody parsed any
        flags.FLAGS.mark_as_parsed()
    # Sliced, not `set_next_index`: that is refused with worker processes. Buffers count batches here.
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options)
    return iter(dataset)
