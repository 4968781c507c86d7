"""Weight tables: every kind of rule, on arrays whose numbers say where they came from, and every mismatch."""

import numpy as np
import pytest

from cnn.convert.rules import Mismatch, convert, fill, numbers_in


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def one(rules, state, shape, name="params/a/kernel"):
    return convert(rules, state, {name: shape})[name]


def test_a_convolution_is_transposed():
    w = numbered(4, 3, 5, 7)
    found = one(((r"c", "a"),), {"c.weight": w}, (5, 7, 3, 4))
    assert found[2, 6, 1, 3] == w[3, 1, 2, 6]
    np.testing.assert_array_equal(found, w.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("window", [(), (5,), (2, 3), (2, 3, 4)])
def test_kernels_of_every_rank(window):
    w = numbered(4, 3, *window)
    first = [0] * len(window)
    assert one(((r"c", "a"),), {"c.weight": w}, (*window, 3, 4))[(*first, 2, 3)] == w[(3, 2, *first)]


def test_a_1x1_convolution_and_a_dense_layer_are_the_same():
    w = numbered(4, 3)
    rules = ((r"c", "a"),)
    np.testing.assert_array_equal(one(rules, {"c.weight": w[:, :, None, None]}, (3, 4)), w.T)
    np.testing.assert_array_equal(one(rules, {"c.weight": w}, (1, 1, 3, 4))[0, 0], w.T)


def test_norms_statistics_and_what_is_dropped():
    state = {f"n.{leaf}": numbered(2) + i for i, leaf in enumerate(("weight", "bias", "running_mean", "running_var"))}
    state |= {"n.num_batches_tracked": np.array(3), "old.weight": numbered(2, 2)}
    like = {"params/bn/scale": (2,), "params/bn/bias": (2,), "batch_stats/bn/mean": (2,), "batch_stats/bn/var": (2,)}
    found = convert(((r"old", None), (r"n", "bn")), state, like)
    assert [found[name][0] for name in like] == [0, 1, 2, 3]


def test_whole_keys_reshape_and_index_arithmetic():
    state = {"s.0.b.3.gamma": numbered(1, 1, 6), "s.0.b.3.g2": numbered(6)}
    like = {"params/stage1/block4/gamma": (6,), "params/stage0/block0/g": (6,)}
    rules = (
        (r"s\.(\d)\.b\.(\d+)\.gamma", "stage{1+1}/block{2+1}/gamma", "reshape"),
        (r"s\.(\d)\.b\.(\d+)\.g2", "stage{1}/block{2-3}/g"),
    )
    assert convert(rules, state, like).keys() == like.keys()


def test_a_dense_layer_behind_a_flattened_map():
    """The same logits from the same map, flattened channels first by them and channels last by us."""
    rng = np.random.default_rng(0)
    features, w = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(6, 3 * 4 * 5))
    kernel = one(((r"fc", "a", "flatten_chw:3,4,5"),), {"fc.weight": w}, (60, 6))
    ours = features.transpose(0, 2, 3, 1).reshape(2, -1) @ kernel
    np.testing.assert_allclose(ours, features.reshape(2, -1) @ w.T, rtol=1e-12)


def test_layers_in_order():
    rules = (
        (r"features\.(\d+)", r"stage\d+/conv\d+", "convs in order"),
        (r"features\.(\d+)", r"stage\d+/bn\d+", "norms in order"),
    )
    state, like = {}, {}
    for i in range(11):  # 11 of them, so that 10 must not come before 2
        state |= {f"features.{3 * i}.weight": np.full((1, 1, 1), i), f"features.{3 * i + 1}.weight": np.full(1, 50 + i)}
        stage, number = i // 2 + 1, i % 2 + 1
        like |= {f"params/stage{stage}/conv{number}/kernel": (1, 1, 1), f"params/stage{stage}/bn{number}/scale": (1,)}
    found = convert(rules, dict(reversed(state.items())), like)
    assert [found[name].item() for name in like if "conv" in name] == list(range(11))
    assert [found[name].item() for name in like if "bn" in name] == list(range(50, 61))
    del like["params/stage6/conv1/kernel"]
    with pytest.raises(Mismatch, match="the file has 11 layers .* this network has 10"):
        convert(rules, state, like)


RULES = ((r"c(\d)", "l{1}"), (r"n", "bn"))
STATE = {"c1.weight": numbered(4, 3, 1, 1), "c2.weight": numbered(5, 4, 3, 3), "n.weight": numbered(5)}
LIKE = {"params/l1/kernel": (1, 1, 3, 4), "params/l2/kernel": (3, 3, 4, 5), "params/bn/scale": (5,)}
MISMATCHES = {
    "unknown key": (STATE | {"x.weight": numbered(1), "y": numbered(1)}, LIKE, "no rule for 'x.weight' and 1 more"),
    "missing": (STATE, LIKE | {"params/l3/kernel": (2,)}, r"nothing for 'params/l3/kernel' \(2,\)"),
    "left over": (STATE, dict(list(LIKE.items())[:2]), "'n.weight' in the file becomes 'params/bn/scale', which this"),
    "twice": (STATE | {"n.bias": numbered(5), "c9.bias": numbered(5)}, LIKE, "nothing|becomes"),
    "shape of the first of two": (
        STATE | {"c1.weight": numbered(4, 2, 1, 1), "c2.weight": numbered(5, 4, 1, 1)},
        LIKE,
        r"first layer that differs: 'params/l1/kernel' is \(1, 1, 3, 4\) in this network, but 'c1.weight' in the "
        r"file is \(4, 2, 1, 1\), \(1, 1, 2, 4\) in our order \(rule 'c\(\\d\)' -> 'l\{1\}'\)",
    ),
    "shape of the second": (
        STATE | {"c2.weight": numbered(5, 4, 1, 1)}, LIKE, "first layer that differs: 'params/l2/kernel'"),
    "order of the network, not of the file": (
        {"c2.weight": numbered(5, 4, 1, 1), "c1.weight": numbered(9, 3, 1, 1), "n.weight": numbered(5)},
        LIKE,
        "first layer that differs: 'params/l1/kernel'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_mismatch_names_the_first_layer(name):
    state, like, said = MISMATCHES[name]
    with pytest.raises(Mismatch, match=said):
        convert(RULES, state, like)


def test_two_keys_for_one_leaf():
    with pytest.raises(Mismatch, match="'a.weight' and 'b.weight' both become 'params/l/scale'"):
        convert(((r"[ab]", "l"),), {"a.weight": numbered(2), "b.weight": numbered(2)}, {"params/l/scale": (2,)})


def test_helpers():
    import re

    assert fill("s{1}/b{2+1}/x{1-3}", re.fullmatch(r"(\d+)-(\d+)", "7-0")) == "s7/b1/x4"
    assert sorted(["block10", "block2"], key=numbers_in) == ["block2", "block10"]
