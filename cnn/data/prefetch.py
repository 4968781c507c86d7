"""Preparing batches ahead of time: one light thread, Grain's threads, or Grain's worker processes."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

_LIGHT_AHEAD = 4


def prefetch(
    batches: Any, start: int, threads: int, workers: int, light: bool, place: Callable[[Any], Any]
) -> Iterator[Any]:
    """place(batches[start]), place(batches[start + 1]), ... in order; see `pipeline.iterate`.

    Where a batch is only a gather of arrays in memory (`light`), one plain thread serves it in a few
    microseconds; Grain's iterator would cost more than such a batch itself.
    """
    if light and not workers and threads in (0, 1):
        return _one_thread(batches, start, place)
    return map(place, _grain(batches, start, threads or min(16, os.cpu_count() or 1), workers))


def _one_thread(batches: Any, start: int, place: Callable[[Any], Any]) -> Iterator[Any]:
    ready: queue.SimpleQueue = queue.SimpleQueue()
    room: queue.SimpleQueue = queue.SimpleQueue()  # one token per batch that may still be prepared
    for _ in range(_LIGHT_AHEAD):
        room.put(True)

    def produce() -> None:
        try:
            for step in range(start, len(batches)):
                if not room.get():
                    return
                ready.put((place(batches[step]), None))
            ready.put((None, StopIteration()))
        except BaseException as error:  # whatever it is, the caller has to see it
            ready.put((None, error))

    # Started here, not at the first next(), so that it works while the first step compiles.
    threading.Thread(target=produce, daemon=True, name="cnn-batches").start()

    def consume() -> Iterator[Any]:
        try:
            while True:
                batch, error = ready.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield batch
                room.put(True)
        finally:
            room.put(False)

    return consume()


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
