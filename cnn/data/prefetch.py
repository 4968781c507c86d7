"""Preparing batches ahead of time: in one thread, in Grain's threads, or in Grain's worker processes."""

import os
import queue
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any

from cnn.errors import UserError

AHEAD = 4  # batches that are ready and placed
AHEAD_BYTES = 1 << 30  # of them; of batches in the making too, unless the user chose the threads
TOGETHER, TOGETHER_BYTES = 16, 1 << 20  # batches that are made in one go, and at most how large
_THREADS = 16  # more hardly help: each prepares a batch of its own


class Prefetcher:
    """place(batch) of each batch, in order: a thread stays up to `ahead` batches (and 1 GiB) in front.

    The thread starts at once, so that it works while the first step compiles. It ends with the batches,
    with `close`, with this object and with the program.

    Args:
      batches: is closed by the thread.
    """

    def __init__(
        self, batches: Generator[Any, None, None], place: Callable[[Any], Any], ahead: int = AHEAD
    ):
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._room: queue.SimpleQueue = queue.SimpleQueue()  # a token per batch that may be prepared
        self._room.put(True)  # the first batch tells how many there may be
        stop = threading.Event()
        arguments = (batches, place, ahead, self._ready, self._room, stop)  # not self: it must be collectable
        thread = threading.Thread(target=_produce, args=arguments, daemon=True, name="cnn-batches")
        self._end = weakref.finalize(self, _end, thread, self._room, stop)
        thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Any:
        batch, error = self._ready.get()
        if error is not None:
            self._ready.put((None, error))  # asked again, it says the same
            raise error
        self._room.put(True)
        return batch

    def close(self) -> None:
        """Ends the thread, after the batch that it is at."""
        self._end()
        self._ready.put((None, StopIteration()))


def _end(thread: threading.Thread, room: queue.SimpleQueue, stop: threading.Event) -> None:
    stop.set()
    room.put(False)
    if thread is not threading.current_thread():  # the garbage collector may run in it
        thread.join(timeout=10)


def _produce(
    batches: Generator[Any, None, None],
    place: Callable[[Any], Any],
    ahead: int,
    ready: queue.SimpleQueue,
    room: queue.SimpleQueue,
    stop: threading.Event,
) -> None:
    try:
        for tokens in _tokens(room, stop):
            batch = next(batches, None)
            if batch is None:
                ready.put((None, StopIteration()))
                return
            if tokens == 0:
                for _ in range(min(ahead, AHEAD_BYTES // max(batch_bytes(batch), 1)) - 1):
                    room.put(True)
            ready.put((place(batch), None))
            del batch  # while this waits for room
    except BaseException as error:  # whatever it is, the caller has to see it
        ready.put((None, error))
    finally:
        batches.close()


def _tokens(room: queue.SimpleQueue, stop: threading.Event) -> Generator[int, None, None]:
    """0, 1, ... whenever there is room for another batch."""
    count = 0
    while room.get() and not stop.is_set():
        yield count
        count += 1


def batch_bytes(batch: dict[str, Any]) -> int:
    """Bytes of the arrays of a batch."""
    return sum(value.nbytes for value in batch.values())


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(workers: int, size: int) -> int:
    """Threads for Grain (of each worker process, where there are any), by cores and bytes of a batch."""
    share = max(workers, 1)
    return max(1, min(_THREADS, cores() // share, AHEAD_BYTES // (share * max(size, 1))))


def in_order(batches: Any, start: int) -> Generator[Any, None, None]:
    """batches[start], batches[start + 1], ...

    Small batches are made several in one go: on 2 kB ones, NumPy's calls cost more than their work.
    """
    together = 1
    while start < len(batches):
        together = min(together, len(batches) - start)
        rows = batches.several(start, together)
        for first in range(0, together * batches.local, batches.local):
            yield {name: value[first : first + batches.local] for name, value in rows.items()}
        start += together
        together = max(1, min(TOGETHER, TOGETHER_BYTES * together // max(batch_bytes(rows), 1)))


def by_grain(
    batches: Any, start: int, threads: int, workers: int, size: Callable[[], int]
) -> Generator[Any, None, None]:
    """The same, several at a time.

    Args:
      threads: 0 chooses; workers: processes, 0 for none.
      size: tells the bytes of a batch.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads its own flags, also where nobody parsed any
        flags.FLAGS.mark_as_parsed()
    threads = threads or thread_count(workers, size())
    # Sliced, not `set_next_index`: that is refused with worker processes. Buffers count batches here.
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options)
    iterator = iter(dataset)
    try:
        yield from iterator
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"a process that prepares batches died ({str(error).splitlines()[0]}): the system kills one when memory "
            "runs out; lower input.workers, then the same command goes on from the last save"
        ) from error
    finally:
        iterator.close()
