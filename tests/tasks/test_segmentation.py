"""Segmentation: losses and scores against plain NumPy and scikit-learn, padding, ignored pixels, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.errors import UserError
from cnn.features import SPACING, DatasetInfo, Feature
from cnn.scoring import overlap
from cnn.scoring.boundaries import boundary_f
from cnn.tasks import build_task
from cnn.tasks.segmentation import baselines, losses
from tests.support.scoring import each, scored, total, unused

K = 3
IMAGE = DatasetInfo(
    "pictures", {"image": Feature.image(9, 7, 1)}, {"mask": Feature.mask(9, 7)}, ("ground", "tree", "house")
)
VOLUME = DatasetInfo(
    "volumes",
    {"volume": Feature.volume(4, 5, 6, 1), "spacing": SPACING},
    {"mask": Feature.mask(4, 5, 6)},
    ("air", "bone", "organ"),
)
SPACES = {"image": (9, 7), "volume": (4, 5, 6)}


def problem(kind="image", b=5, seed=0):
    rng = np.random.default_rng(seed)
    space = SPACES[kind]
    mask = rng.integers(0, K, (b, *space)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.2] = 255
    logits = rng.normal(size=(b, *space, K)).astype(np.float32) + 2 * np.eye(K + 1)[np.minimum(mask, K)][..., :K]
    info = {"image": IMAGE, "volume": VOLUME}[kind]
    batch = {"mask": jnp.asarray(mask), "valid": jnp.ones(b, bool)}
    return info, {"logits": jnp.asarray(logits, jnp.float32)}, batch


def plain(name, logits, mask, weights=(1, 1, 1), background=True):
    """The losses again, of one example, in loops over classes."""
    seen = mask != 255
    x, y = logits[seen].astype(np.float64), mask[seen]
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    picked, w = p[np.arange(len(y)), y], np.asarray(weights, float)[y]
    if name == "ce":
        return (w * -np.log(picked)).sum() / w.sum()
    if name == "focal":
        return (w * -np.log(picked) * (1 - picked) ** 2).sum() / w.sum()
    found = []
    for k in range(int(background), K):
        said, true = p[:, k].sum(), (y == k).sum()
        both = p[y == k, k].sum()
        if not true:  # a class that is not there does not count
            continue
        if name == "dice":
            found.append(1 - (2 * both + 1) / (said + true + 1))
        else:
            found.append(1 - (both + 0.5) / (both + 0.3 * (said - both) + 0.7 * (true - both) + 0.5))
    return np.mean(found) if found else p[:, int(background) :].sum() / len(y)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", ["ce", "focal", "dice", "tversky"])
def test_losses_against_numpy(kind, name):
    info, out, batch = problem(kind)
    mask = np.array(batch["mask"])
    mask[1][mask[1] == 2] = 0
    mask[2][mask[2] != 255] = 0
    logits, batch["mask"] = np.asarray(out["logits"]), jnp.asarray(mask)
    for options, extra in (({}, {}), ({"background": False, "class_weights": (0.5, 1.0, 3.0)}, {})):
        task = build_task("segmentation", info, loss=name, **options)
        weights, background = options.get("class_weights", (1, 1, 1)), options.get("background", True)
        wanted = [plain(name, x, y, weights, background, **extra) for x, y in zip(logits, mask, strict=True)]
        np.testing.assert_allclose(each(task, out, batch), wanted, rtol=2e-5)


def test_a_sum_of_losses():
    info, out, batch = problem()
    parts = {name: each(build_task("segmentation", info, loss=name), out, batch) for name in ("ce", "dice")}
    both = each(build_task("segmentation", info, loss="ce + 0.5*dice"), out, batch)
    np.testing.assert_allclose(both, parts["ce"] + 0.5 * parts["dice"], rtol=1e-6)
    half = each(build_task("segmentation", info, loss="tversky", tversky_alpha=0.5, tversky_beta=0.5), out, batch)
    np.testing.assert_allclose(half, parts["dice"], rtol=1e-5)
    plain_ce = each(build_task("segmentation", info, loss="boundary", boundary_weight=0.0), out, batch)
    np.testing.assert_allclose(plain_ce, parts["ce"], rtol=1e-6)


def test_near_a_boundary():
    mask = np.zeros((1, 6, 8), np.uint8)
    mask[0, :, 4:] = 1
    mask[0, 0] = 255
    near = np.asarray(losses.near_boundary(jnp.asarray(mask), 1))[0]
    assert near[1:, 3:5].all() and not near[2:, :3].any() and not near[2:, 5:].any()
    mask[0, 1:, 4:] = 255  # an ignored neighbour is no other class
    assert not np.asarray(losses.near_boundary(jnp.asarray(mask), 2)).any()
    task = build_task("segmentation", IMAGE, loss="boundary", boundary_width=1, boundary_weight=3.0)
    mask = np.zeros((1, 9, 7), np.uint8)
    mask[0, :, 3:] = 1
    logits = np.random.default_rng(0).normal(size=(1, 9, 7, K)).astype(np.float32)
    ce = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), mask[..., None].astype(int), -1)[0, ..., 0]
    weight = np.where((np.arange(7) == 2) | (np.arange(7) == 3), 4.0, 1.0)[None]
    found = total(task, {"logits": jnp.asarray(logits)}, {"mask": jnp.asarray(mask)})
    np.testing.assert_allclose(found, (ce * weight).sum() / (weight.sum() * 9), rtol=1e-5)


@pytest.mark.parametrize("name", losses.TERMS)
def test_ignored_pixels_and_examples_move_nothing(name):
    info, out, batch = problem()
    task = build_task("segmentation", info, loss=name)
    mask = batch["mask"].at[0].set(255)
    grad = jax.grad(lambda x: total(task, {"logits": x}, batch | {"mask": mask}))(out["logits"])
    assert np.isfinite(np.asarray(grad)).all()
    np.testing.assert_array_equal(np.asarray(grad)[np.asarray(mask) == 255], 0)
    assert float(each(task, out, batch | {"mask": mask})[0]) == 0


@pytest.mark.parametrize("kind", SPACES)
def test_auxiliary_outputs_halve(kind):
    info, out, batch = problem(kind)
    task = build_task("segmentation", info)
    own = each(task, out, batch)
    np.testing.assert_allclose(each(task, out | {"aux": out["logits"]}, batch), 1.5 * own, rtol=1e-6)
    deep = {f"aux{i}": out["logits"] for i in (1, 2, 3)}
    np.testing.assert_allclose(each(task, out | deep, batch), 1.875 * own, rtol=1e-6)
    half = tuple(slice(1, None, 2) for _ in SPACES[kind])
    coarse = out["logits"][(slice(None), *half)]
    found = np.asarray(losses.at_resolution(batch["mask"], coarse.shape[1:-1]))
    assert found.shape == coarse.shape[:-1]
    assert np.isfinite(each(task, out | {"aux1": coarse}, batch)).all()


def test_the_label_of_a_coarse_pixel_is_the_one_at_its_centre():
    mask = jnp.arange(12, dtype=jnp.uint8).reshape(1, 12)
    assert losses.at_resolution(mask, (4,)).tolist() == [[1, 4, 7, 10]]
    assert losses.at_resolution(mask, (6,)).tolist() == [[1, 3, 5, 7, 9, 11]]
    assert losses.at_resolution(mask, (12,)) is mask


@pytest.mark.parametrize("kind", SPACES)
def test_metrics_do_not_depend_on_batches_or_padding(kind):
    info, out, batch = problem(kind, b=7)
    task = build_task("segmentation", info, loss="ce+dice")
    whole = scored(task, [(out, batch)])
    parts = []
    for start in range(0, 7, 3):  # the last batch is padded with NaN
        rows = np.minimum(np.arange(start, start + 3), 6)
        valid = np.arange(start, start + 3) < 7
        logits = np.where(valid.reshape(-1, *(1,) * (1 + len(SPACES[kind]))), np.asarray(out["logits"])[rows], np.nan)
        part = {"mask": batch["mask"][rows], "valid": jnp.asarray(valid)}
        parts.append(({"logits": jnp.asarray(logits)}, part))
    found = scored(task, parts)
    assert found["per_class"] == whole["per_class"]
    for name in ("miou", "dice", "accuracy", "mean_accuracy"):
        assert found[name] == whole[name]
    for name in ("loss", "loss/ce", "loss/dice", "image_dice"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6)


def test_scores_equal_scikit_learn_on_200_random_cases():
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score

    rng = np.random.default_rng(1)
    info = DatasetInfo("pictures", {"image": Feature.image(6, 5, 1)}, {"mask": Feature.mask(6, 5)}, tuple("abcd"))
    task = build_task("segmentation", info)
    step = jax.jit(task.metrics)
    for case in range(200):
        there = rng.choice(4, rng.integers(1, 5), replace=False)  # of some classes there is nothing
        mask = rng.choice(there, (2, 6, 5)).astype(np.uint8)
        said = rng.choice(rng.choice(4, rng.integers(1, 5), replace=False), mask.shape)
        mask[rng.random(mask.shape) < (case % 3) * 0.3] = 255
        if (mask == 255).all():
            continue
        batch = {"mask": jnp.asarray(mask), "valid": jnp.ones(2, bool)}
        scorer = task.scorer(full=False)
        scorer.add(jax.device_get(step({"logits": jax.nn.one_hot(jnp.asarray(said), 4)}, batch)), {}, {})
        found = scorer.result()
        y, s = mask[mask != 255], said[mask != 255]
        classes = sorted(set(y.tolist()) | set(s.tolist()))
        iou = jaccard_score(y, s, labels=classes, average=None, zero_division=0)
        dice = f1_score(y, s, labels=classes, average=None, zero_division=0)
        rows = {row["class"]: row for row in found["per_class"]}
        for k, one, two in zip(classes, iou, dice, strict=True):
            assert rows["abcd"[k]]["iou"] == pytest.approx(one) and rows["abcd"[k]]["dice"] == pytest.approx(two)
        assert all(rows["abcd"[k]]["iou"] is None for k in range(4) if k not in classes)
        assert found["miou"] == pytest.approx(iou.mean())
        objects = [d for k, d in zip(classes, dice, strict=True) if k]
        assert found["dice"] == (pytest.approx(np.mean(objects)) if objects else pytest.approx(np.nan, nan_ok=True))
        assert found["accuracy"] == pytest.approx(accuracy_score(y, s))


def test_counts_are_exact_where_float32_is_not():
    info = DatasetInfo("large", {"image": Feature.image(4100, 4100, 1)}, {"mask": Feature.mask(4100, 4100)}, ("a", "b"))
    task = build_task("segmentation", info)
    mask = jnp.zeros((1, 4100, 4100), jnp.uint8)
    counts = task._counts(jnp.zeros(mask.shape, jnp.int32), mask)
    assert counts[0, :, 0].tolist() == [16_810_000] * 3  # 2^24 is 16,777,216: odd numbers above are lost
    assert counts.dtype == jnp.int32
    more = task._counts(jnp.zeros(mask.shape, jnp.int32), mask.at[0, 0, 0].set(1))
    assert more[0, 0, 0] == 16_809_999


def test_boundary_f_of_known_cases():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    assert boundary_f(mask, mask, 2) == [1.0, 1.0]
    moved = np.roll(mask, 1, axis=1)
    assert boundary_f(moved, mask, 2) == [1.0, 1.0]  # within a pixel
    far = np.roll(mask, 8, axis=0)
    assert 0 < boundary_f(far, mask, 2)[1] < 0.7
    assert boundary_f(np.zeros_like(mask), mask, 2) == [0.0, 0.0]
    assert boundary_f(np.zeros_like(mask), np.zeros_like(mask), 2) == []
    hidden = np.where(mask == 1, 255, mask)
    assert boundary_f(mask, hidden, 2) == []  # what is ignored has no outline


def test_predictions_and_their_description():
    info, out, _ = problem()
    task = build_task("segmentation", info)
    found = {name: np.asarray(value) for name, value in task.predictions(out, {}, unused).items()}
    assert found["mask"].dtype == np.uint8 and found["probs"].shape == (5, 9, 7, K)
    np.testing.assert_array_equal(found["mask"], np.asarray(out["logits"]).argmax(-1))
    said = task.describe({name: value[0] for name, value in found.items()})
    assert said["shape"] == [9, 7] and sum(said["areas"].values()) == pytest.approx(1, abs=1e-5)
    large = {"logits": jnp.zeros((1, 200, 200, K))}
    assert set(task.predictions(large, {}, unused)) == {"mask"}
    _, out, batch = problem("image", b=4)
    report = scored(task, [(out, batch)], full=True)
    assert 0 <= report["boundary_f"] <= 1 and 0 <= report["ece"] <= 1


def test_baselines():
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 20, 20), np.uint8)
    for one in mask:
        y, x = rng.integers(0, 12, 2)
        one[y : y + 8, x : x + 8] = 1
    image = np.clip(rng.normal(60 + 120 * mask[..., None], 10), 0, 255).astype(np.uint8)
    info = DatasetInfo(
        "squares", {"image": Feature.image(20, 20, 1)}, {"mask": Feature.mask(20, 20)}, ("ground", "square")
    )
    task = build_task("segmentation", info)
    for picture in (image, 255 - image):  # bright or dark objects
        split = {"image": picture, "mask": mask}
        found = task.baselines(split, split, 0)
        assert set(found) == {"majority", "per_position", "otsu"}
        assert found["otsu"]["dice"] > 0.99 and found["majority"]["dice"] == 0
        assert found["majority"]["accuracy"] == pytest.approx((mask == 0).mean())
        assert found["per_position"]["accuracy"] >= found["majority"]["accuracy"]
    smaller = {"image": image[:, :10], "mask": mask[:, :10]}
    assert "per_position" not in task.baselines({"image": image, "mask": mask}, smaller, 0)


def test_otsu_is_scikit_image_s():
    filters = pytest.importorskip("skimage.filters")
    rng = np.random.default_rng(0)
    for values in (np.concatenate([rng.normal(60, 9, 900), rng.normal(160, 20, 300)]), rng.gamma(2, 30, 2000)):
        mine, theirs = baselines.otsu_threshold(values), filters.threshold_otsu(values)
        assert np.mean((values > mine) == (values > theirs)) > 0.99
    assert baselines.otsu_threshold(np.array([0, 0, 200, 200])) == pytest.approx(100, abs=1)


@pytest.mark.drawn
@pytest.mark.parametrize("kind", SPACES)
def test_pictures(kind, tmp_path):
    info, out, batch = problem(kind, b=12)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, *info.input_shape)).astype(np.float32)
    task = build_task("segmentation", info)
    examples = {info.input_key: inputs, "mask": np.asarray(batch["mask"])}
    paths = task.plot(task.predictions(out, {}, unused), examples, str(tmp_path))
    assert [path.split("/")[-1] for path in paths] == ["per_class.png", "examples.png"]
    empty = np.zeros((1, *SPACES[kind]), np.uint8)
    task.plot({"mask": empty}, {info.input_key: inputs[:1], "mask": empty}, str(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "dise"}, "Did you mean 'dice'"),
        ({"loss": "0*ce"}, "a factor must be a number above 0"),
        ({"loss": "x*ce"}, "a factor must be a number above 0"),
        ({"class_weights": (1.0, 2.0)}, "for each of the 3 classes"),
        ({"focal_gamma": -1.0}, "must not be negative"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        build_task("segmentation", IMAGE, **options)


def test_a_model_that_answers_once_is_named():
    task = build_task("segmentation", IMAGE)
    with pytest.raises(UserError, match="the mask is .9, 7.; choose one with an output per pixel"):
        total(task, {"logits": jnp.zeros((2, K))}, {"mask": jnp.zeros((2, 9, 7), jnp.uint8)})


def test_scores_of_nothing_are_no_numbers():
    found = overlap.scores(np.zeros((3, 4)), True)
    assert all(np.isnan(value) for value in found.values())
