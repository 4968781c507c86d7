"""Objects: matching against cases counted by hand, parting of objects that touch."""

import numpy as np
import pytest

from cnn.scoring.instances import match, overlaps, watershed_instances


def row(*numbers):
    return np.array(numbers, np.int32)


CASES = [  # said, true, (hits, extra, missed), ap
    (row(1, 1, 0, 2, 2), row(5, 5, 0, 9, 9), (2, 0, 0), 1.0),
    (row(1, 1, 0, 0, 0), row(1, 1, 0, 2, 2), (1, 0, 1), 0.5),
    (row(1, 1, 0, 2, 2), row(1, 1, 0, 0, 0), (1, 1, 0), 0.5),
    (row(1, 1, 1, 0), row(0, 1, 1, 1), (1, 0, 0), 1.0),  # IoU 2/4, just enough
    (row(1, 1, 0, 0), row(0, 1, 1, 0), (0, 1, 1), 0.0),  # IoU 1/3
    (row(1, 1, 1, 1), row(1, 1, 2, 2), (1, 0, 1), 0.5),  # two merged: IoU 1/2 with each, one of them counts
    (row(1, 1, 2, 2), row(1, 1, 1, 1), (1, 1, 0), 0.5),  # one split
    (row(1, 2, 3, 4), row(1, 1, 1, 1), (0, 4, 1), 0.0),
    (row(0, 0, 0), row(0, 0, 0), (0, 0, 0), np.nan),
    (row(0, 0, 0), row(1, 1, 0), (0, 0, 1), 0.0),
    (row(1, 1, 0), row(0, 0, 0), (0, 1, 0), 0.0),
    (row(1, 2, 3), row(1, 2, 3), (3, 0, 0), 1.0),
]


@pytest.mark.parametrize(("said", "true", "counts", "ap"), CASES)
def test_matches_counted_by_hand(said, true, counts, ap):
    found = match(said, true)
    assert (found.hits, found.extra, found.missed) == counts
    assert found.ap == pytest.approx(ap, nan_ok=True) and len(found.overlaps) == counts[0]
    f1 = 2 * counts[0] / max(2 * counts[0] + counts[1] + counts[2], 1)
    assert found.f1 == (pytest.approx(f1) if sum(counts) else pytest.approx(np.nan, nan_ok=True))


def test_as_many_pairs_as_there_can_be():
    # IoU: said 1 has 0.6 with true 1 and 0.4 with true 2; said 2 has 0.4 with true 1 alone.
    said = row(*[1] * 5, *[2] * 2)
    true = row(*[1] * 3, *[2] * 2, *[1] * 2)
    found = match(said, true, 0.25)
    assert found.hits == 2 and found.overlaps == pytest.approx([2 / 5, 2 / 5])
    assert match(said, true, 0.41).hits == 1


def test_overlaps_do_not_depend_on_numbers():
    rng = np.random.default_rng(0)
    said, true = rng.integers(0, 4, (9, 9)), rng.integers(0, 5, (9, 9))
    iou = overlaps(said, true)
    assert iou.shape == (3, 4)
    for s in range(1, 4):
        for t in range(1, 5):
            both, either = ((said == s) & (true == t)).sum(), ((said == s) | (true == t)).sum()
            assert iou[s - 1, t - 1] == pytest.approx(both / either)
    np.testing.assert_allclose(overlaps(said * 7, true * 100), iou)


@pytest.mark.parametrize("rank", [2, 3])
def test_touching_discs_are_parted(rank):
    place = np.stack(np.mgrid[(slice(0, 40),) * rank], -1)
    centres = [(12,) * rank, (12,) * (rank - 1) + (25,), (31,) * rank]
    true = np.zeros((40,) * rank, np.int32)
    for number, centre in enumerate(centres, 1):
        true[((place - centre) ** 2).sum(-1) <= 8**2] = number
    said = watershed_instances(true > 0)
    found = match(said, true, 0.8)
    assert (found.hits, found.extra, found.missed) == (3, 0, 0)
    assert not said[true == 0].any() and said[true > 0].all()
    assert watershed_instances(np.zeros((5,) * rank, bool)).max() == 0
    speck = true > 0
    speck[(0,) * rank] = True
    assert watershed_instances(speck).max() == 4 and len(np.unique(watershed_instances(speck, least=2))) == 1 + 3
