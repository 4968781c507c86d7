"""The search for features that give the answer away: a look-ahead, an identifier, the label in disguise.

A single number of the input that alone predicts the target almost perfectly is rarely honest: in a table it is a column
filled in after the fact, in a series the value of a later day.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from cnn.data.sources import ArraySource, Source
from cnn.features import DatasetInfo

ROWS = 2_000  # examples that are looked at, drawn at random
MAX_FEATURES = 10_000  # numbers per input; larger ones are pictures, where no single pixel says much
LEAST_ROWS = 30  # with fewer, a lucky feature is no news
ALONE = 0.99  # balanced accuracy, or |rank correlation|, from which a feature is reported


def suspects(source: Source, info: DatasetInfo) -> list[str]:
    """A line for each feature that tells the target by itself; none for inputs of different shapes.

    Classes: the label of the example with the nearest value of that feature, for one half of the examples from the
    other; its accuracy is averaged over the classes. Numbers: Spearman's rank correlation.
    """
    if None in info.input_shape or len(source) < LEAST_ROWS:
        return []
    if np.prod(info.input_shape, dtype=int) > MAX_FEATURES:
        return []
    rng = np.random.default_rng(0)  # at random: examples may be sorted, or take turns
    rows = rng.permutation(len(source))[:ROWS]
    if isinstance(source, ArraySource):
        x, y = source.arrays[info.input_key][rows], source.arrays[info.target_key][rows]
    else:
        examples = source.get(rows.tolist())
        x, y = (np.stack([example[key] for example in examples]) for key in (info.input_key, info.target_key))
    x = np.asarray(x, np.float64)
    if info.target_key == "labels":  # each step is an example, and knows its own channels
        if x.shape[:2] != y.shape:
            return []
        x, y = x.reshape(-1, *x.shape[2:]), y.reshape(-1)
        chosen = rng.permutation(len(x))[:ROWS]
        x, y = x[chosen], y[chosen]
    shape, flat = x.shape[1:], x.reshape(len(x), -1)
    if not (np.isfinite(flat).all() and np.isfinite(np.asarray(y, np.float64)).all()):
        return []  # said elsewhere
    telling = _class_telling(y) if info.target_key != "target" else functools.partial(_number_told, target=y)
    found = []
    for feature in range(flat.shape[1]):
        value = telling(flat[:, feature])
        if value >= ALONE:
            where = ", ".join(map(str, np.unravel_index(feature, shape)))
            what = "balanced accuracy" if info.target_key != "target" else "rank correlation"
            found.append(f"{info.input_key}[{where}] ({what} {value:.3f})")
    return found


def _class_telling(label: np.ndarray) -> Callable[[np.ndarray], float]:
    """Of a feature the balanced accuracy of the nearest value's label, of the second half of the examples among the
    first. The work per feature does not grow with the number of classes.
    """
    half = len(label) // 2
    before, truth = label[:half], label[half:]
    classes, which = np.unique(truth, return_inverse=True)
    which, sizes = which.reshape(-1), np.bincount(which.reshape(-1))

    def told(feature: np.ndarray) -> float:
        order = np.argsort(feature[:half], kind="stable")
        values, labels = feature[:half][order], before[order]
        if len(classes) < 2 or values[0] == values[-1]:
            return 0.0
        asked = feature[half:]
        right = np.clip(np.searchsorted(values, asked), 1, len(values) - 1)
        nearest = np.where(asked - values[right - 1] <= values[right] - asked, right - 1, right)
        hit = (labels[nearest] == truth).reshape(-1)
        return float((np.bincount(which, weights=hit) / sizes).mean())

    return told


def _number_told(feature: Float[np.ndarray, " n"], target: np.ndarray) -> float:
    """The largest |Spearman correlation| with one of the numbers of the target."""
    from scipy import stats

    if np.ptp(feature) == 0:
        return 0.0
    rank = stats.rankdata(feature)
    numbers = [t for t in np.asarray(target).reshape(len(target), -1).T if np.ptp(t) > 0]
    return max((abs(float(np.corrcoef(rank, stats.rankdata(t))[0, 1])) for t in numbers), default=0.0)
