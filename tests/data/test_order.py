"""The order of examples and the random draws are pure functions of integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.data.order import Bucketed, indices, order
from cnn.draws import Draws, key, mix

FROZEN_ORDER = [4, 5, 6, 7, 2, 9, 0, 1, 8, 3]
FROZEN_DRAWS = [0.014348061072842921, 0.9415511896777412]
INTEGERS = st.integers(0, 2**40)


@settings(max_examples=60, deadline=None)
@given(seed=INTEGERS, epoch=st.integers(0, 1000), n=st.integers(1, 3000))
def test_order_is_a_permutation(seed, epoch, n):
    found = order(seed, epoch, n, np.arange(n))
    assert np.array_equal(np.sort(found), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 1797, 2**16, 2**16 + 1])
def test_order_at_edges(n):
    assert np.array_equal(np.sort(order(0, 0, n, np.arange(n))), np.arange(n))


def test_order_needs_no_neighbours():
    n = 1_281_167
    some = np.array([0, 5, n - 1, 777_777])
    together = order(3, 2, n, some)
    assert [int(order(3, 2, n, some[i : i + 1])[0]) for i in range(4)] == together.tolist()
    assert len(set(together.tolist())) == 4 and together.max() < n


def test_order_is_frozen():
    """A changed order would silently change every published run."""
    assert order(0, 0, 10, np.arange(10)).tolist() == FROZEN_ORDER
    assert np.allclose(Draws(0, np.arange(2)).uniform(), FROZEN_DRAWS, atol=1e-12)



@pytest.mark.parametrize("n", [4, 10])
def test_every_place_is_equally_likely(n):
    """Chi-square of where each example lands over many epochs."""
    epochs = 400
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), order(1, epoch, n, np.arange(n))] += 1
    chi = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_are_unrelated():
    n = 5000
    found = order(0, 0, n, np.arange(n)).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(n), found)[0, 1]) < 0.05
    assert abs(np.corrcoef(order(0, 1, n, np.arange(n)), found)[0, 1]) < 0.05


@settings(max_examples=25, deadline=None)
@given(seed=INTEGERS, n=st.integers(1, 200), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_sequence_does_not_depend_on_batches(seed, n, sizes):
    total = sum(sizes)
    whole = indices(seed, n, np.arange(total))
    edges = np.cumsum([0, *sizes])
    parts = [indices(seed, n, np.arange(a, b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert np.array_equal(np.concatenate(parts), whole)
    for epoch in range(total // n):
        assert np.array_equal(np.sort(whole[epoch * n : (epoch + 1) * n]), np.arange(n))


def test_epochs_and_seeds_differ():
    a = indices(0, 100, np.arange(200))
    assert not np.array_equal(a[:100], a[100:])
    assert not np.array_equal(a[:100], indices(1, 100, np.arange(100)))


def test_key_is_mix():
    word = np.array([(5 * 0x9E3779B97F4A7C15 + 1) % 2**64], np.uint64)
    assert int(mix(word)[0]) == key(5)


CALLS = [
    lambda d: d.uniform(),
    lambda d: d.uniform(-1, 3, (2, 3)),
    lambda d: d.integers(-4, 9, (5,)),
    lambda d: d.bernoulli(0.3, (4,)),
    lambda d: d.normal((3,)),
]


@settings(max_examples=15, deadline=None)
@given(seed=INTEGERS, positions=st.lists(INTEGERS, min_size=1, max_size=9), calls=st.permutations(range(5)))
def test_draws_do_not_depend_on_the_batch(seed, positions, calls):
    together = Draws(seed, np.array(positions))
    stream = together.stream("a")
    alone = [Draws(seed, np.array([p])).stream("a") for p in positions]
    for c in calls:
        rows = CALLS[c](stream)
        assert len(rows) == len(positions)
        for row, single in zip(rows, alone, strict=True):
            assert np.array_equal(row, CALLS[c](single)[0])
    for i, single in enumerate(alone):
        assert np.array_equal(stream.one(i).uniform(), single.uniform())
        break


def test_draws_have_the_right_distribution():
    d = Draws(0, np.arange(20_000))
    u, v = d.uniform(), d.uniform()
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.03 and abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(u, Draws(1, np.arange(20_000)).uniform())[0, 1]) < 0.03
    assert abs(np.corrcoef(u, Draws(0, np.arange(20_000)).stream("x").uniform())[0, 1]) < 0.03
    k = d.integers(3, 6)
    assert set(k.tolist()) == {3, 4, 5} and abs(k.mean() - 4) < 0.03
    z = d.normal((2,))
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert abs(d.bernoulli(0.2).mean() - 0.2) < 0.015


def test_generator_is_for_one():
    d = Draws(0, np.arange(3))
    assert d.one(1).generator().random() == d.one(1).generator().random()
    with pytest.raises(ValueError, match="draws of 3"):
        d.generator()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 50])
def test_buckets_hold_every_example_once_per_epoch(batch_size):
    lengths = np.random.default_rng(0).integers(1, 41, 50)
    made = Bucketed(3, batch_size, lengths, (8, 16, 40), ("tokens", "labels"))
    per_epoch = int(made.steps_per_epoch)
    assert per_epoch == -(-50 // batch_size)
    orders = []
    for epoch in range(3):
        rows = []
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            block, size = made.block(step, 1, 0, batch_size), made.pads(step)["tokens"]
            assert made.pads(step) == {"tokens": size, "labels": size}
            assert len(block.rows) == batch_size and (lengths[block.rows] <= size).all()
            rows += block.rows[block.valid].tolist()
            # What a host reads is a part of it, and the positions of the valid rows are those of the epoch.
            part = made.block(step, 1, batch_size // 2, batch_size - batch_size // 2)
            np.testing.assert_array_equal(part.rows, block.rows[batch_size // 2 :])
            assert (block.positions // 50 == epoch).all()
        assert sorted(rows) == list(range(50))
        orders.append(rows)
    assert orders[0] != orders[1]
    again = Bucketed(3, batch_size, lengths, (8, 16, 40), ("tokens",))  # asked for a late step first
    late = again.block(2 * per_epoch, 1, 0, batch_size)
    np.testing.assert_array_equal(late.rows, made.block(2 * per_epoch, 1, 0, batch_size).rows)


def test_buckets_pad_less_than_one_size():
    lengths = np.random.default_rng(1).integers(1, 200, 2000)
    made = Bucketed(0, 32, lengths, (25, 50, 100, 200), ("tokens",))
    padded = sum(32 * made.pads(step)["tokens"] for step in range(int(made.steps_per_epoch)))
    assert lengths.sum() / padded > 0.65 > 0.55 > lengths.mean() / 200


@pytest.mark.parametrize(("sizes", "said"), [((8, 4), "must ascend"), ((), "must ascend"), ((4, 8), "example 1 has 9")])
def test_buckets_that_do_not_fit(sizes, said):
    with pytest.raises(ValueError, match=said):
        Bucketed(0, 2, np.array([1, 9, 3]), sizes, ("tokens",))
