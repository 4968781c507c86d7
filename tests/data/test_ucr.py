"""Series files: the format, unequal lengths, gaps, what is refused; leaks planted in them are found."""

import numpy as np
import pytest

from cnn import config
from cnn.data import open_dataset
from cnn.data.datasets import ucr
from cnn.data.tools import verbs
from cnn.data.tools.leaks import suspects
from cnn.errors import UserError

HEAD = "# a comment\n@problemName mine\n@timeStamps false\n@univariate {univariate}\n@classLabel true cat dog\n@data\n"


def write(path, rows, univariate="true"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [":".join([*(",".join(map(str, channel)) for channel in channels), label]) for channels, label in rows]
    path.write_text(HEAD.format(univariate=univariate) + "\n".join(lines) + "\n")
    return path


def opened(path):
    c = config.default().input
    c.dataset, c.data_dir = "ucr", str(path)
    return open_dataset(c)


def random_rows(n, seed, length=12):
    rng = np.random.default_rng(seed)
    return [([rng.normal(size=length).round(4)], "cat" if i % 2 else "dog") for i in range(n)]


def test_your_own_pair_of_files(tmp_path):
    write(tmp_path / "X_TRAIN.ts", [([[1, 2, 3], [4, 5, 6]], "dog"), ([[0, 0, 0], [1, 1, 1]], "cat")], "false")
    write(tmp_path / "X_TEST.ts", [([[9, 8, 7], [6, 5, 4]], "cat")], "false")
    for path in (tmp_path, tmp_path / "X_TRAIN.ts", tmp_path / "X_TEST.ts"):
        dataset = opened(path)
        assert dataset.splits == {"train": 2, "test": 1} and dataset.info.class_names == ("cat", "dog")
        assert dataset.info.input_shape == (3, 2) and dataset.notes == ()
        train = dataset.source("train").arrays
        np.testing.assert_array_equal(train["series"][0], [[1, 4], [2, 5], [3, 6]])
        assert train["label"].tolist() == [1, 0] and train["series"].dtype == np.float32
    before = dataset.fingerprint
    write(tmp_path / "X_TEST.ts", [([[9, 8, 7], [6, 5, 5]], "cat")], "false")
    assert opened(tmp_path).fingerprint != before


def test_a_single_file_unequal_lengths_and_gaps(tmp_path):
    rows = [([np.arange(4 + i % 3)], "cat" if i % 2 else "dog") for i in range(10)]
    rows[3] = ([[0, "?", "?", 3]], "cat")
    dataset = opened(write(tmp_path / "mine.ts", rows))
    assert dataset.splits == {"train": 8, "test": 2} and dataset.info.input_shape == (6, 1)
    assert len(dataset.notes) == 3 and "4 to 6 steps" in dataset.notes[0] and "1 series have gaps" in dataset.notes[1]
    # A spline through a straight line is that line, and so is what fills a gap.
    for split, row, last in (("train", 0, 3), ("train", 3, 3), ("train", 1, 4)):
        values = dataset.source(split).arrays["series"][row, :, 0]
        np.testing.assert_allclose(values, np.linspace(0, last, 6), atol=1e-6)


def test_resampling_keeps_ends_and_smooth_curves():
    t = np.linspace(0, 1, 15)
    curve = np.stack([t**3 - t, np.ones(15)], axis=1)
    found = ucr.resampled(curve, 29)
    fine = np.linspace(0, 1, 29)
    np.testing.assert_allclose(found[:, 0], fine**3 - fine, atol=1e-12)  # a cubic is its own spline
    np.testing.assert_allclose(ucr.resampled(curve[:1], 4), np.repeat(curve[:1], 4, axis=0))
    assert ucr.resampled(curve, 15) is curve


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2:cat\n", "no line '@data'"),
        ("@timeStamps true\n@classLabel true a\n@data\n1:a\n", "has time stamps"),
        ("@targetLabel true\n@data\n1,2:0.5\n", "has no classes"),
        ("@classLabel true cat\n@data\n1,x:cat\n", "line 3: could not convert"),
        ("@classLabel true cat\n@data\n1,2:dog\n", "class 'dog'"),
        ("@classLabel true cat\n@data\n1,2:1:cat\n", "lengths .1, 2."),
        ("@classLabel true cat\n@data\n1,2:cat\n1,2:3,4:cat\n", "2 channels, the first has 1"),
        ("@classLabel true cat\n@data\n", "holds no series"),
    ],
)
def test_what_is_refused(text, said, tmp_path):
    (tmp_path / "mine.ts").write_text(text)
    with pytest.raises(UserError, match=said):
        opened(tmp_path / "mine.ts")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs --config.input.data_dir"):
        opened("")
    with pytest.raises(UserError, match="holds 0 .ts files"):
        opened(tmp_path)
    for name in "AB":
        for split in ("TRAIN", "TEST"):
            write(tmp_path / f"{name}_{split}.ts", random_rows(4, 0))
    with pytest.raises(UserError, match="holds 2 sets"):
        opened(tmp_path)


def test_archive_files_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(ucr, "PACKAGES", ())
    monkeypatch.setattr(ucr, "_fetch", lambda target: "pip: no network")
    c = config.default().input
    c.dataset, c.data_dir = "ucr_gunpoint", str(tmp_path)
    with pytest.raises(UserError, match="no network.*pip install --no-deps aeon"):
        open_dataset(c)
    for split in ("TRAIN", "TEST"):
        write(tmp_path / "GunPoint" / f"GunPoint_{split}.ts", random_rows(4, 0))
    assert open_dataset(c).splits == {"train": 4, "test": 4}


def test_check_finds_a_planted_look_ahead_and_a_duplicated_test_row(tmp_path, capsys):
    train, test = random_rows(80, 0), random_rows(40, 1)
    write(tmp_path / "X_TRAIN.ts", train)
    write(tmp_path / "X_TEST.ts", test)
    assert verbs.main(["check", "ucr", f"--data_dir={tmp_path}"]) == 0, capsys.readouterr().out

    write(tmp_path / "X_TEST.ts", [*test, train[7]])
    assert verbs.main(["check", "ucr", f"--data_dir={tmp_path}"]) == 1
    assert "train and test share 1 equal inputs: a leak" in capsys.readouterr().out

    for rows in (train, test):
        for (values,), label in rows:
            values[5] = 0.1 * values[5] + (1 if label == "cat" else -1)  # tomorrow's answer
    write(tmp_path / "X_TRAIN.ts", train)
    write(tmp_path / "X_TEST.ts", test)
    assert verbs.main(["check", "ucr", f"--data_dir={tmp_path}"]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM: train: 1 feature tells the target alone (a look-ahead?): series[5, 0]" in said


class TestLeaks:
    """`suspects` on arrays."""

    def found(self, series, target, key="label", classes=("a", "b")):
        from cnn.data.sources import ArraySource
        from cnn.features import LABEL, DatasetInfo, Feature

        feature = {"label": LABEL, "target": Feature.numbers, "labels": Feature.labels}[key]
        targets = {key: feature if key == "label" else feature(*target.shape[1:])}
        info = DatasetInfo("x", {"series": Feature.series(*series.shape[1:])}, targets, classes)
        return suspects(ArraySource({"series": series, key: target}), info)

    def test_numbers(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(200, 9, 2)), rng.normal(size=(200, 1))
        assert not self.found(x, y, "target", ())
        x[:, 4, 1] = np.exp(y[:, 0])  # any rising function of it
        assert [line.partition(" ")[0] for line in self.found(x, y, "target", ())] == ["series[4,"]

    def test_a_class_at_every_step(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(60, 30, 2)), rng.integers(0, 2, (60, 30))
        assert not self.found(x, y, "labels")
        x[..., 1] = y + 0.1 * x[..., 1]
        assert len(self.found(x, y, "labels")) == 1

    def test_what_proves_nothing(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(200, 4, 1)), np.arange(200) % 2
        assert not self.found(x[:20], y[:20])  # too few
        assert not self.found(np.ones_like(x), y)  # constant
        assert not self.found(x, np.zeros(200, int))  # one class
        x[:, 2, 0] = y + 0.5 * rng.normal(size=200)  # a good feature, not a leak
        assert not self.found(x, y)
        rare = np.zeros(200, int)
        rare[:4] = 1  # saying 0 is right in 98 %, which tells nothing
        assert not self.found(rng.normal(size=(200, 4, 1)), rare)
