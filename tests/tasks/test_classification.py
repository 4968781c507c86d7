"""The classification task: losses, mixing, metrics over padded batches, the host's side."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from cnn.errors import UserError
from cnn.features import KINDS, LABEL, DatasetInfo
from cnn.tasks import build_task, losses
from cnn.tasks.classification import mixing
from tests.support.scoring import each, scored, unused

K = 7


def info(classes=K, key="image", shape=(8, 6, 1)):
    return DatasetInfo("test", {key: KINDS[key](*shape)}, {"label": LABEL}, tuple(f"class {i}" for i in range(classes)))


def task(classes=K, **options):
    return build_task("classification", info(classes), **options)


def batch(size=12, classes=K, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, 8, 6, 1), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, classes, size, dtype=np.int32)),
        "valid": jnp.ones(size, bool),
    }


def logits(size=12, classes=K, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((size, classes)) * 3, jnp.float32)


def soft_targets(size=12, classes=K):
    values = np.random.default_rng(2).random((size, classes))
    return jnp.asarray(values / values.sum(1, keepdims=True), jnp.float32)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


# Losses


def test_softmax_cross_entropy_with_smoothing():
    x, y = logits(), soft_targets()
    got = losses.softmax_cross_entropy(x, losses.smooth(y, 0.1))
    want = -((0.9 * np.asarray(y) + 0.1 / K) * log_softmax(x)).sum(1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_binary_cross_entropy():
    x, y = logits(), np.asarray(soft_targets(), np.float64)
    p = 1 / (1 + np.exp(-np.asarray(x, np.float64)))
    want = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)
    found = losses.binary_cross_entropy(x, jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    x, y = logits(), soft_targets()
    log_p = log_softmax(x)
    want = -(np.asarray(y) * (1 - np.exp(log_p)) ** gamma * log_p).sum(1)
    np.testing.assert_allclose(losses.focal(x, y, gamma), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_finite_gradient_for_sure_examples(gamma):
    x = jnp.array([[200.0, 0.0], [0.0, 200.0]])
    y = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isfinite(jax.grad(lambda x: losses.focal(x, y, gamma).sum())(x)).all()


@pytest.mark.parametrize("loss", ["softmax", "bce", "focal"])
def test_task_loss_is_float32(loss):
    out = {"logits": logits().astype(jnp.bfloat16)}
    value, count = task(loss=loss, label_smoothing=0.1).losses(out, batch())[loss]
    assert value.dtype == count.dtype == jnp.float32
    assert np.isfinite(value) and count == 12


def test_auxiliary_classifiers_add_to_the_loss():
    main, first, second = (each(task(), {"logits": logits() * scale}, batch()) for scale in (1, 2, 3))
    out = {"logits": logits(), "aux1": logits() * 2, "aux2": logits() * 3}
    want = main + 0.25 * (first + second)
    np.testing.assert_allclose(each(task(aux_weight=0.25), out, batch()), want, rtol=1e-6)


def test_bce_threshold_makes_full_targets():
    mixed = {**batch(2, 3), "label_probs": jnp.array([[0.7, 0.3, 0.0], [0.9, 0.1, 0.0]])}
    x = logits(2, 3)
    got = each(task(3, loss="bce", bce_threshold=0.2), {"logits": x}, mixed)
    want = losses.binary_cross_entropy(x, jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(got, want, rtol=1e-6)


# Inputs and mixing


def test_inputs_are_normalised():
    made = task(mean=(0.25,), std=(0.5,))
    data = batch()
    want = (np.asarray(data["image"], np.float64) / 255 - 0.25) / 0.5
    np.testing.assert_allclose(made.inputs(data), want, atol=1e-6)
    in_unit = {**data, "image": data["image"].astype(jnp.float32) / 255}
    np.testing.assert_allclose(made.inputs(in_unit), want, atol=1e-6)


def test_series_stay_and_nan_shows():
    made = build_task("classification", info(key="series", shape=(4, 1)))
    series = jnp.array([[[1.5], [-2.0], [jnp.nan], [1e9]]])
    np.testing.assert_array_equal(made.inputs({"series": series}), series)


@pytest.mark.parametrize(
    "options",
    [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}],
)
def test_augment(options):
    made, data, key = task(**options), batch(), jax.random.key(0)
    augment = jax.jit(made.augment)
    mixed = augment(data, key)
    np.testing.assert_allclose(mixed["label_probs"].sum(1), 1, rtol=1e-6)
    assert (np.asarray(mixed["label_probs"]) >= 0).all()
    assert mixed["image"].dtype == jnp.float32
    assert (np.asarray(mixed["image"]) >= 0).all()
    assert (np.asarray(mixed["image"]) <= 1).all()
    np.testing.assert_array_equal(mixed["image"], augment(data, key)["image"])
    assert not np.array_equal(mixed["image"], augment(data, jax.random.key(1))["image"])
    own, other = np.asarray(data["label"]), np.roll(data["label"], 1)
    for row, probs in enumerate(np.asarray(mixed["label_probs"])):
        assert set(np.flatnonzero(probs)) <= {own[row], other[row]}


def test_no_mixing_changes_nothing():
    data = batch()
    assert task().augment(data, jax.random.key(0)) is data


def test_mixup_is_the_stated_blend():
    x = jnp.asarray(np.random.default_rng(0).random((64, 5, 4, 2)), jnp.float32)
    mixed, share = mixing.mixup(x, jax.random.key(0), 0.2)
    weight = np.asarray(share)[:, None, None, None]
    want = weight * np.asarray(x) + (1 - weight) * np.roll(x, 1, 0)
    np.testing.assert_allclose(mixed, want, atol=1e-6)
    assert 0 <= float(share.min()) <= float(share.max()) <= 1
    assert float(share.std()) > 0.3  # Beta(0.2, 0.2) is nearly 0 or 1


@pytest.mark.parametrize("space", [(40,), (12, 9), (6, 5, 4)])
def test_cutmix_pixels_come_from_a_box_of_the_partner(space):
    rows = 64
    identity = jnp.arange(1.0, rows + 1).reshape(-1, *(1,) * len(space), 1)
    x = jnp.broadcast_to(identity, (rows, *space, 1))
    mixed, share = mixing.cutmix(x, jax.random.key(0), 1.0)
    mixed = np.asarray(mixed)[..., 0]
    for row in range(rows):
        own = mixed[row] == row + 1
        pasted = mixed[row] == (row or rows)
        assert (own ^ pasted).all()
        assert own.mean() == pytest.approx(float(share[row]), abs=1e-6)
        if pasted.any():
            where = np.argwhere(pasted)
            box = where.max(0) - where.min(0) + 1
            assert np.prod(box) == pasted.sum()
    assert 0.4 < float(share.mean()) < 0.8  # half, plus what is clipped at the border


# Metrics


def score(made, out, data, sizes):
    """The metrics of `data` in batches of the given sizes, each padded to 8 rows with row 0."""
    parts, start = [], 0
    for size in sizes:
        rows = np.concatenate([np.arange(start, start + size), np.full(8 - size, start)])
        part = {key: value[rows] for key, value in data.items()}
        part["valid"] = jnp.arange(8) < size
        parts.append(({"logits": out[rows]}, part))
        start += size
    return scored(made, parts)


@pytest.mark.parametrize("classes", [3, K, 300])
def test_metrics_are_exact_over_padded_batches(classes):
    made, data, out = task(classes), batch(24, classes), logits(24, classes)
    whole, padded = score(made, out, data, (8, 8, 8)), score(made, out, data, (8, 1, 7, 5, 3))
    label, predicted = np.asarray(data["label"]), np.asarray(out).argmax(1)
    labels = np.unique(label)
    recall = reference.recall_score(label, predicted, labels=labels, average=None, zero_division=0)
    for found in (whole, padded):
        assert found["accuracy"] == pytest.approx((label == predicted).mean(), abs=1e-12)
        assert found["balanced_accuracy"] == pytest.approx(recall.mean(), abs=1e-12)
        f1 = reference.f1_score(label, predicted, labels=labels, average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(f1, abs=1e-12)
        np.testing.assert_allclose([found["per_class_recall"][i] for i in labels], recall)
        unseen = set(range(classes)) - set(labels.tolist())
        assert all(found["per_class_recall"][i] is None for i in unseen)
        json.dumps(found, allow_nan=False)
        want = -log_softmax(out)[np.arange(24), label].mean()
        assert found["loss"] == pytest.approx(want, rel=1e-5)
        assert ("confusion" in found) == (classes <= 200)
        assert ("top5" in found) == (classes > 5)
        if classes > 5:
            want = reference.top_k_accuracy_score(
                label, np.asarray(out), k=5, labels=range(classes)
            )
            assert found["top5"] == pytest.approx(want, abs=1e-12)
        if "confusion" in found:
            want = reference.confusion_matrix(label, predicted, labels=range(classes))
            np.testing.assert_array_equal(found["confusion"], want)


def test_nan_counts_in_valid_rows_only():
    made, data = task(), batch(4)
    out = logits(4).at[3].set(jnp.nan)
    padded = scored(made, [({"logits": out}, {**data, "valid": jnp.arange(4) < 3})])
    assert np.isfinite(padded["loss"])
    whole = scored(made, [({"logits": out}, data)])
    assert np.isnan(whole["loss"])


# The host's side


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_describe(loss):
    made = task(loss=loss)
    probs = np.asarray(made.predictions({"logits": logits()}, {}, unused)["probs"])
    assert (probs >= 0).all()
    if loss == "softmax":
        np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    said = made.describe({"probs": probs[0]}, top=3)
    assert said["class"] == f"class {probs[0].argmax()}"
    assert [row["probability"] for row in said["top"]] == sorted(probs[0].tolist(), reverse=True)[
        :3
    ]


def test_baselines_on_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = (digits.images * 255 / 16).round().astype(np.uint8)[..., None]
    half = len(image) // 2
    train = {"image": image[:half], "label": digits.target[:half]}
    test = {"image": image[half:], "label": digits.target[half:]}
    found = task(10).baselines(train, test, seed=0)
    assert found["svm"]["accuracy"] == pytest.approx(
        0.9689, abs=1e-4
    )  # scikit-learn's example: 0.97
    assert found["logistic_regression"]["accuracy"] > 0.92
    assert found["nearest_neighbour"]["accuracy"] > 0.95
    assert found["majority"]["accuracy"] < 0.12
    assert found["svm"]["train_examples"] == half


def test_baselines_of_one_class_and_of_many_examples(monkeypatch):
    from cnn.tasks.classification import baselines

    x, y = np.random.default_rng(0).random((60, 4)), np.arange(60) % 2
    assert set(baselines.classify(x, 0 * y, x, y, 0)) == {"majority"}
    monkeypatch.setattr(baselines, "FIT_EXAMPLES", 20)
    monkeypatch.setattr(baselines, "KERNEL_EXAMPLES", 10)
    found = baselines.classify(x, y, x, y, 0)
    assert set(found) == {"majority", "logistic_regression"}
    assert found["logistic_regression"]["train_examples"] == 20


def test_baselines_of_large_inputs_need_labels_only(monkeypatch):
    made = task()
    assert made.baselines_read((100, 100, 1)) and not made.baselines_read((100, 100, 3))
    monkeypatch.setitem(sys.modules, "sklearn", None)  # nor a package
    found = made.baselines({"label": np.array([1, 1, 2])}, {"label": np.array([1, 2])}, 0)
    assert found == {"majority": {"accuracy": 0.5, "balanced_accuracy": 0.5, "train_examples": 3}}
    with pytest.raises(UserError, match="scikit-learn"):
        made.baselines(*[{"image": np.zeros((2, 4, 4, 1)), "label": np.arange(2)}] * 2, 0)


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("key", "shape"), [("image", (8, 8, 1)), ("image", (8, 8, 3)), ("series", (20, 1))]
)
def test_draw(tmp_path, key, shape):
    made = build_task("classification", info(key=key, shape=shape))
    rng = np.random.default_rng(0)
    probs = np.asarray(made.predictions({"logits": logits(40)}, {}, unused)["probs"])
    dtype = np.uint8 if key == "image" else np.float32
    examples = {
        key: rng.integers(0, 256, (30, *shape)).astype(dtype),
        "label": rng.integers(0, K, 40),
    }
    paths = made.plot({"probs": probs}, examples, str(tmp_path / "new"))
    assert [os.path.basename(path) for path in paths] == [
        "confusion.png",
        "per_class.png",
        "reliability.png",
        "risk_coverage.png",
        "mistakes.png",
    ]
    assert all(os.path.getsize(path) > 1000 for path in paths)


@pytest.mark.drawn
def test_draw_without_mistakes(tmp_path):
    label = np.arange(K)
    examples = {"image": np.zeros((K, 8, 8, 1), np.uint8), "label": label}
    paths = task().plot({"probs": np.eye(K)[label]}, examples, str(tmp_path))
    wanted = ["confusion.png", "per_class.png", "reliability.png", "risk_coverage.png"]
    assert [os.path.basename(path) for path in paths] == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "softmx"}, "unknown loss 'softmx'. Did you mean 'softmax'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"mixup_alpha": -0.1}, "mixup_alpha is -0.1"),
        ({"mean": (0.5,)}, "one number per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
        ({"mixup": 0.1}, "unknown option of task 'classification' 'mixup'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        task(**options)


def test_channels_of_the_mean_must_fit():
    with pytest.raises(UserError, match="mean has 3 channels, the input has 1; give one"):
        task(mean=(0.5,) * 3, std=(0.5,) * 3).inputs(batch())


def test_data_without_classes():
    with pytest.raises(UserError, match="names no classes"):
        task(0)


def test_report():
    made, rng = task(), np.random.default_rng(0)
    probs, label = rng.dirichlet(np.ones(K), 50), rng.integers(0, K, 50)
    out = {"logits": jnp.log(jnp.asarray(probs, jnp.float32))}
    data = {"label": jnp.asarray(label, jnp.int32), "valid": jnp.ones(50, bool)}
    parts = [jax.tree.map(lambda x, part=part: x[part], (out, data)) for part in (slice(0, 20), slice(20, 50))]
    light, found = (scored(made, parts, full) for full in (False, True))
    assert set(found) - set(light) == {"ece", "auroc", "average_precision", "aurc", "risk_at_80", "per_class"}
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(label, probs, multi_class="ovr"), abs=1e-6)
    assert sum(row["support"] for row in found["per_class"]) == 50
    assert found["per_class"][0]["class"] == made.info.class_names[0]
    many = build_task("classification", info(300))
    out = {"logits": jnp.asarray(rng.normal(size=(5, 300)), jnp.float32)}
    assert "per_class" not in scored(many, [(out, {"label": jnp.arange(5), "valid": jnp.ones(5, bool)})], full=True)
