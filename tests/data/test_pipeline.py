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

from cnn.data.order import Draws
from cnn.data.pipeline import EvalBatches, TrainBatches, iterate, load
from cnn.data.sources import ArraySource, SplitSource
from cnn.errors import UserError
from cnn.transforms import build_transforms

N = 23
AUGMENT = {"pad_crop": {"padding": 1}, "flip": {}, "erase": {"p": 0.5}}


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


def test_batch_is_what_it_says():
    batch = TrainBatches(array_source(), build_transforms({}), 8, 0)[3]
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
    for step in range(start, start + 10):
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
        source, build_transforms({"resize": {"size": 4}, "flip": {}}), np.arange(2), Draws(0, np.arange(2))
    )
    assert batch["image"].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_record_is_named(threads):
    batches = EvalBatches(ListSource(bad=(9,)), [], 4)
    iterator = iterate(batches, 0, threads)
    next(iterator), next(iterator)
    with pytest.raises(UserError, match="record 9 of the test.*OSError: the disk is on fire"):
        next(iterator)


@pytest.mark.parametrize("make, threads", [(array_source, 0), (ListSource, 2)])
def test_a_bug_in_a_transform_keeps_its_traceback(make, threads):
    iterator = iterate(TrainBatches(make(), [Broken()], 4, 0), 0, threads)
    with pytest.raises(ZeroDivisionError, match="a bug in a transform") as caught:
        next(iterator)
    assert "while transforming" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("end", ["close", "forget"])
def test_the_thread_ends_with_its_iterator(end):
    def running():
        return [t for t in threading.enumerate() if t.name == "cnn-batches"]

    gc.collect()
    before = len(running())
    iterator = iterate(TrainBatches(array_source(), [], 4, 0))
    assert len(running()) == before + 1
    if end == "close":
        next(iterator)
        iterator.close()
    del iterator
    gc.collect()
    deadline = time.monotonic() + 5
    while len(running()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(running()) == before


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
    batches = EvalBatches(Source(), build_transforms({"shift": {}}), 8)
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
