"""Batches: pure functions of the step, exact in evaluation, and honest about errors."""

import dataclasses
import gc
import pickle
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

import numpy as np
import pytest

from cnn.data import prefetch, sources
from cnn.data.pipeline import EvalBatches, TrainBatches, iterate, load
from cnn.data.sources import ArraySource, SplitSource
from cnn.draws import Draws
from cnn.errors import UserError
from cnn.features import Feature
from cnn.transforms import build_transforms

N = 23
AUGMENT = (("pad_crop", {"padding": 1}), ("flip", {}), ("erase", {"p": 0.5}))


def array_source(n=N):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return ArraySource({"image": images, "label": np.arange(n, dtype=np.int32)})


class ListSource:
    """The same examples, one by one, as a source of records gives them."""

    def __init__(self, n=N, bad=()):
        self.inner, self.bad = array_source(n), bad

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError("the disk is on fire")
        return self.inner[i]

    def get(self, indices):
        return [self[i] for i in indices]

    def describe(self, i):
        return f"record {i} of the test"


@dataclasses.dataclass(frozen=True)
class Broken:
    batched: ClassVar[bool] = False
    key: ClassVar[None] = None

    def __call__(self, example: dict[str, Any], draws: Draws) -> dict[str, Any]:
        raise ZeroDivisionError("a bug in a transform")


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def sequence(batches, count):
    return [batches[i] for i in range(count)]


def joined(batches):
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


@pytest.mark.parametrize("make", [array_source, ListSource])
@pytest.mark.parametrize("batch_size, hosts", [(4, 1), (8, 2), (12, 4), (24, 1)])
def test_global_sequence_is_independent_of_layout(make, batch_size, hosts):
    transforms = build_transforms(AUGMENT)
    reference = joined(sequence(TrainBatches(array_source(), transforms, 1, 7), 48))
    shares = [TrainBatches(make(), transforms, batch_size, 7, p, hosts) for p in range(hosts)]
    steps = [joined([share[step] for share in shares]) for step in range(48 // batch_size)]
    assert equal(joined(steps), reference)


def test_without_shuffling_every_epoch_is_the_source_in_its_order():
    batches = TrainBatches(array_source(), [], 4, 0, shuffle=False)
    labels = joined(sequence(batches, 12))["label"].tolist()
    assert labels == [*range(N), *range(N), 0, 1]
    assert TrainBatches(array_source(), [], 4, 0)[0]["label"].tolist() != labels[:4]


def test_batch_is_what_it_says():
    batch = TrainBatches(array_source(), build_transforms(()), 8, 0)[3]
    assert batch["image"].shape == (8, 8, 8, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
    assert batch["valid"].dtype == bool and batch["valid"].all()


def test_one_epoch_holds_every_example_once():
    batches = TrainBatches(array_source(), [], 1, 0)
    assert sorted(int(batches[i]["label"][0]) for i in range(N)) == list(range(N))


@pytest.mark.parametrize("make", [array_source, ListSource])
@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_iterating_equals_indexing(make, threads, start):
    batches = TrainBatches(make(), build_transforms(AUGMENT), 4, 1)
    iterator = iterate(batches, start, threads)
    for step in range(start, start + 40):
        assert equal(next(iterator), batches[step])


@pytest.mark.parametrize("make", [array_source, ListSource])
@pytest.mark.parametrize("batch_size, hosts", [(4, 1), (8, 2), (16, 4), (64, 4)])
def test_evaluation_sees_every_example_exactly_once(make, batch_size, hosts):
    shares = [EvalBatches(make(), [], batch_size, p, hosts) for p in range(hosts)]
    assert {len(share) for share in shares} == {-(-N // batch_size)}
    labels = []
    for step in range(len(shares[0])):
        for share in shares:
            batch = share[step]
            assert len(batch["valid"]) == batch_size // hosts
            assert (batch["label"][~batch["valid"]] == 0).all()
            labels += batch["label"][batch["valid"]].tolist()
    assert labels == list(range(N))
    assert len(list(iterate(shares[0]))) == len(shares[0])


def test_wrong_batch_sizes():
    with pytest.raises(UserError, match="multiple of 4"):
        TrainBatches(array_source(), [], 6, 0, 0, 4)
    with pytest.raises(UserError, match="empty"):
        EvalBatches(SplitSource([(array_source(), 3, 3)], "x"), [], 4)


def test_different_shapes_are_explained():
    parts = [ArraySource({"image": np.zeros((1, s, 9, 3), np.uint8)}) for s in (5, 6)]
    source = SplitSource([(part, 0, 1) for part in parts], "x")
    with pytest.raises(UserError, match="different shapes.*resize"):
        load(source, [], np.array([0, 1]), Draws(0, np.array([0, 1])))
    batch = load(
        source, build_transforms((("resize", {"size": 4}), ("flip", {}))), np.arange(2), Draws(0, np.arange(2))
    )
    assert batch["image"].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_record_is_named(threads):
    batches = EvalBatches(ListSource(bad=(9,)), [], 4)
    iterator = iterate(batches, 0, threads)
    next(iterator), next(iterator)
    with pytest.raises(UserError, match="record 9 of the test.*OSError: the disk is on fire"):
        next(iterator)


@pytest.mark.parametrize("make, threads", [(array_source, 1), (ListSource, 2)])
def test_a_bug_in_a_transform_keeps_its_traceback(make, threads):
    iterator = iterate(TrainBatches(make(), [Broken()], 4, 0), 0, threads)
    with pytest.raises(ZeroDivisionError, match="a bug in a transform") as caught:
        next(iterator)
    assert "while transforming" in "".join(caught.value.__notes__)


def running():
    return {t for t in threading.enumerate() if t.name.startswith(("cnn-batches", "grain-prefetch"))}


def wait_until_ended(before):
    gc.collect()
    deadline = time.monotonic() + 5
    while running() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running() - before


@pytest.mark.parametrize("make, threads", [(array_source, 1), (ListSource, 2)])
@pytest.mark.parametrize("end", ["close", "forget"])
def test_the_threads_end_with_their_iterator(make, threads, end):
    gc.collect()
    before = running()
    iterator = iterate(TrainBatches(make(), [], 4, 0), 0, threads)
    assert running() - before
    next(iterator)
    if end == "close":
        iterator.close()
        assert not [t for t in running() - before if t.name == "cnn-batches"]
        with pytest.raises(StopIteration):
            for _ in range(10):
                next(iterator)
        iterator.close()
    del iterator
    wait_until_ended(before)


@pytest.mark.parametrize("make, threads", [(array_source, 0), (ListSource, 1), (ListSource, 3)])
def test_evaluation_with_place_ends_cleanly(make, threads):
    import jax

    before = running()
    batches = EvalBatches(make(), build_transforms(AUGMENT), 4)
    places = set()

    def place(batch):
        places.add(threading.current_thread().name)
        return batch["valid"], jax.device_put(batch)

    iterator = iterate(batches, threads=threads, place=place)
    for step, (valid, batch) in enumerate(iterator):
        assert isinstance(batch["image"], jax.Array) and equal(batch, batches[step])
        assert np.array_equal(valid, batches[step]["valid"])
    where = "cnn-batches" if threads else "MainThread"  # arrays in memory are placed when asked for
    assert step + 1 == len(batches) and list(iterator) == [] and places == {where}
    wait_until_ended(before)


def test_an_error_of_place_reaches_the_caller_and_ends_the_thread():
    def place(batch):
        raise MemoryError("no room on the device")

    before = running()
    iterator = iterate(EvalBatches(ListSource(), [], 4), 0, 2, place=place)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            next(iterator)
    wait_until_ended(before)


@pytest.mark.parametrize("limit, ready", [(1 << 30, 4), (3 * 1024, 3), (10, 1)])
def test_batches_ahead_are_bounded_by_number_and_bytes(monkeypatch, limit, ready):
    monkeypatch.setattr(prefetch, "AHEAD_BYTES", limit)
    made = []

    def batches():
        for i in range(20):
            made.append(i)
            yield {"x": np.full(1024, i, np.uint8)}

    iterator = prefetch.Prefetcher(batches(), lambda batch: batch)
    for taken in range(3):
        deadline = time.monotonic() + 5
        while len(made) < taken + ready and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == taken + ready
        assert next(iterator)["x"][0] == taken
    iterator.close()


def test_threads_are_chosen_by_cores_and_bytes(monkeypatch):
    monkeypatch.setattr(prefetch, "cores", lambda: 12)
    assert prefetch.thread_count(0, 1000) == 12 and prefetch.thread_count(4, 1000) == 3
    assert prefetch.thread_count(0, 200 << 20) == 5 and prefetch.thread_count(3, 200 << 20) == 1
    assert prefetch.thread_count(0, 3 << 30) == prefetch.thread_count(64, 1000) == 1
    monkeypatch.setattr(prefetch, "cores", lambda: 96)
    assert prefetch.thread_count(0, 0) == 16


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(prefetch.os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert prefetch.cores() == 3
    monkeypatch.delattr(prefetch.os, "sched_getaffinity")
    assert prefetch.cores() >= 1


LEFT_OPEN = """
import time
import jax
import numpy as np
from cnn.data.pipeline import TrainBatches, iterate
from cnn.data.sources import ArraySource, SplitSource

source = ArraySource({"image": np.zeros((64, 64, 64, 3), np.uint8)})
if THREADS > 1:
    source = SplitSource([(source, 0, 64)], "x")
iterator = iterate(TrainBatches(source, [], 32, 0), 0, THREADS, place=jax.device_put)
for _ in range(5):
    next(iterator)
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_program_ends_with_its_iterator_open(threads):
    program = LEFT_OPEN.replace("THREADS", str(threads))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""


def test_sources_can_be_pickled():
    batches = TrainBatches(array_source(), build_transforms(AUGMENT), 4, 0)
    assert equal(pickle.loads(pickle.dumps(batches))[2], batches[2])


WORKERS = """
import numpy as np
from cnn.data.pipeline import EvalBatches, iterate
from cnn.transforms import build_transforms

class Source:
    def __len__(self):
        return 40
    def __getitem__(self, i):
        if i == 33:
            raise OSError("the disk is on fire")
        return {"image": np.full((4, 4, 1), i, np.uint8)}
    def get(self, indices):
        return [self[i] for i in indices]
    def describe(self, i):
        return f"record {i} of the test"

if __name__ == "__main__":
    batches = EvalBatches(Source(), build_transforms((("shift", {}),)), 8)
    iterator = iterate(batches, 1, threads=1, workers=1)
    for step in (1, 2, 3):
        batch = next(iterator)
        assert all(np.array_equal(batch[k], batches[step][k]) for k in batch), step
    try:
        next(iterator)
    except Exception as error:
        chain = []
        while error is not None:
            chain.append(f"{type(error).__name__}: {error}")
            error = error.__cause__ or error.__context__
        print("CAUGHT", chain)
    import sys
    print("tensorflow" in sys.modules, "jax" in sys.modules)
"""


@pytest.mark.slow
def test_worker_processes(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert "record 33 of the test cannot be read: OSError: the disk is on fire" in done.stdout


RAGGED = {
    "tokens": Feature((None,), "int32", "n", pad=5, fill=-1),
    "boxes": Feature((None, 4), "float32", "n c", pad=3),
}


def ragged_source():
    rng = np.random.default_rng(0)
    return sources.ListSource([
        {"tokens": np.arange(1 + i % 5), "boxes": rng.random((i % 4, 4)), "label": np.int32(i)} for i in range(10)
    ])


def test_ragged_features_are_padded_and_counted():
    batches = EvalBatches(ragged_source(), [], 4, ragged=RAGGED)
    batch = batches[1]
    assert batch["tokens"].shape == (4, 5) and batch["boxes"].shape == (4, 3, 4)
    assert batch["tokens"].dtype == np.int32 and batch["tokens_length"].tolist() == [5, 1, 2, 3]
    assert batch["boxes_length"].tolist() == [0, 1, 2, 3]
    assert batch["tokens"][1].tolist() == [0, -1, -1, -1, -1] and not batch["boxes"][0].any()
    assert batches[2]["valid"].tolist() == [True, True, False, False]


def test_bucketed_batches_have_few_shapes_and_drop_nothing():
    batches = TrainBatches(ragged_source(), [], 4, 0, ragged=RAGGED, buckets=(2, 4))
    epoch = [batches[step] for step in range(int(batches.steps_per_epoch))]
    assert {batch["tokens"].shape[1] for batch in epoch} <= {2, 4, 5}
    assert all(batch["boxes"].shape == (4, 3, 4) for batch in epoch)  # another pad: another length
    assert sorted(np.concatenate([batch["label"][batch["valid"]] for batch in epoch])) == list(range(10))
    for batch in epoch:
        assert (batch["tokens_length"] <= batch["tokens"].shape[1]).all()


def test_examples_with_more_rows_than_the_padding_are_named():
    short = {"tokens": Feature((None,), "int32", "n", pad=3)}
    with pytest.raises(UserError, match="example 3 of examples has 4 tokens, a batch holds at most 3"):
        EvalBatches(ragged_source(), [], 5, ragged={**RAGGED, **short})[0]
    with pytest.raises(UserError, match="input.buckets .*example 4 has 5 rows, the largest bucket 3"):
        TrainBatches(ragged_source(), [], 4, 0, ragged=short, buckets=(2,))
    with pytest.raises(UserError, match="input.buckets is for data of different lengths"):
        TrainBatches(array_source(), [], 4, 0, buckets=(2,))
