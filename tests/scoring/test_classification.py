"""Calibration and ranking scores against scikit-learn, ties included."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as reference

from cnn.scoring import classification as scores


def problem(seed, n=300, k=4, digits=None):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k))
    label = rng.integers(0, k, n)
    logits[np.arange(n), label] += 1.0
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (probs if digits is None else probs.round(digits)), label


@pytest.mark.parametrize("digits", [None, 2, 1, 0], ids=["distinct", "some ties", "many ties", "two values"])
def test_ranking_scores(digits):
    for seed in range(3):
        probs, label = problem(seed, digits=digits)
        for k in range(4):
            score, positive = probs[:, k], label == k
            assert scores.auroc(score, positive) == pytest.approx(reference.roc_auc_score(positive, score), abs=1e-12)
            assert scores.average_precision(score, positive) == pytest.approx(
                reference.average_precision_score(positive, score), abs=1e-12
            )


def test_one_versus_rest():
    probs, label = problem(0)
    found = scores.one_versus_rest(probs, label)
    one_hot = np.eye(4)[label]
    assert found == pytest.approx(
        (
            reference.roc_auc_score(one_hot, probs, average="macro"),
            reference.average_precision_score(one_hot, probs, average="macro"),
        )
    )
    probs, label = problem(1, k=2)
    assert scores.one_versus_rest(probs, label)[0] == pytest.approx(reference.roc_auc_score(label, probs[:, 1]))
    assert np.isnan(scores.one_versus_rest(probs, np.zeros(300, int))).all()
    some = scores.one_versus_rest(problem(2)[0], np.arange(300) % 2)  # two of four classes occur
    assert np.isfinite(some).all()


def test_degenerate_scores():
    assert scores.auroc([1, 1, 1], [True, False, True]) == 0.5
    assert np.isnan(scores.auroc([0.1, 0.2], [True, True]))
    assert np.isnan(scores.average_precision([0.1, 0.2], [False, False]))
    assert scores.one_versus_rest(np.array([[np.nan, np.nan], [0.2, 0.8]]), np.array([0, 1])) == (1.0, 1.0)


def test_reliability():
    # Two bins: confidences .6 .8 (one right), 1.0 (right): ECE = 2/3 |.5 - .7| + 1/3 |1 - 1|.
    probs = np.array([[0.6, 0.4], [0.2, 0.8], [1.0, 0.0]])
    found = scores.reliability(probs, np.array([0, 0, 0]), bins=10)
    assert found.count.tolist() == [0] * 5 + [1, 0, 1, 0, 1]
    assert found.ece == pytest.approx((0.4 + 0.8 + 0.0) / 3)
    coarse = scores.reliability(probs, np.array([0, 0, 0]), bins=1)
    assert coarse.ece == pytest.approx(abs(0.8 - 2 / 3))


def test_risk_coverage():
    # Confidences .9 wrong, .8 right, .7 right, .6 wrong: risks 1, 1/2, 1/3, 2/4.
    confidence, right = np.array([0.6, 0.9, 0.7, 0.8]), np.array([0, 0, 1, 1])
    probs = np.stack([1 - confidence, confidence], 1)
    found = scores.risk_coverage(probs, right)
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found.risk == pytest.approx([1, 1 / 2, 1 / 3, 1 / 2])
    assert found.area == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert [found.at(share) for share in (0.5, 0.6, 1.0)] == pytest.approx([1 / 2, 1 / 3, 1 / 2])
    assert np.isnan(scores.risk_coverage(np.zeros((0, 2)), np.zeros(0, int)).area)


def test_ties_count_as_the_mean_over_their_orders():
    rng = np.random.default_rng(0)
    confidence = np.array([0.9, 0.9, 0.8, 0.7, 0.7, 0.7])
    wrong = np.array([1, 0, 1, 0, 0, 1])
    probs = np.stack([1 - confidence, confidence], 1)
    curves = []
    for order in itertools.permutations(range(6)):
        if (np.diff(confidence[list(order)]) <= 0).all():
            curves.append(np.cumsum(wrong[list(order)]) / np.arange(1, 7))
    assert len(curves) == 2 * 1 * 6
    assert scores.risk_coverage(probs, 1 - wrong).risk == pytest.approx(np.mean(curves, 0))
    shuffled = rng.permutation(6)
    assert scores.risk_coverage(probs[shuffled], 1 - wrong[shuffled]).risk == pytest.approx(np.mean(curves, 0))


def test_refusing_helps_as_much_as_the_confidence_knows():
    rng = np.random.default_rng(1)
    wrong = rng.random(4000) < 0.2
    confidence = 0.5 + 0.25 * ~wrong + 0.2 * rng.random(4000)
    label = np.where(wrong, 0, 1)
    perfect = scores.risk_coverage(np.stack([1 - confidence, confidence], 1), label)
    assert perfect.at(0.75) == 0 and perfect.area == pytest.approx(0.0215, abs=0.003)  # e - (1 - e) ln(1 / (1 - e))
    useless = np.full(4000, 0.7)
    assert scores.risk_coverage(np.stack([1 - useless, useless], 1), label).area == pytest.approx(wrong.mean())


def test_a_calibrated_classifier_has_little_error():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 20_000)
    label = (rng.random(20_000)[:, None] > probs.cumsum(axis=1)).sum(axis=1)
    assert scores.reliability(probs, label).ece < 0.015
    sharp = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    assert scores.reliability(sharp, label).ece > 0.1


def test_per_class_report():
    label = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    confusion = scores.confusion_matrix(predicted, label, 4)
    wanted = reference.classification_report(label, predicted, labels=range(4), output_dict=True, zero_division=0)
    for row, name in zip(scores.per_class(confusion, "abcd"), "0123", strict=True):
        for key, other in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert (row[key] or 0) == pytest.approx(wanted[name][other])
        assert row["support"] == wanted[name]["support"]
    assert scores.per_class(confusion, "abcd")[3] == {
        "class": "d", "precision": None, "recall": None, "f1": None, "support": 0,
    }  # fmt: skip
