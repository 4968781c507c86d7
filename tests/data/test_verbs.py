"""`cnn data prepare|show|check`, in this process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cnn.data import Dataset, Provider
from cnn.data.tools import verbs
from cnn.data.tools.check import check, statistics
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature


class Stub(Provider):
    """A data set made of arrays."""

    def __init__(self, **splits):
        self.info = DatasetInfo("stub", {"series": Feature.series(3, 1)}, {"label": LABEL}, ("a", "b"))
        self.arrays_of = {split: {"series": x, "label": y} for split, (x, y) in splits.items()}

    def arrays(self, split):
        return self.arrays_of[split]


def stub(**splits):
    provider = Stub(**splits)
    sizes = {split: len(x) for split, (x, _) in splits.items()}
    return Dataset(provider.info, sizes, (), provider, False, "auto", 0)


def series(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, 3, 1)).astype(np.float32)
    return x, (np.arange(n) % 2).astype(np.int32)


def test_prepare_show_check(data_dir, tmp_path, capsys):
    options = ["digits", f"--data_dir={data_dir}"]
    assert verbs.main(["prepare", *options]) == 0
    assert "train 898, test 899; image 8x8x1; 10 classes" in capsys.readouterr().out
    assert verbs.main(["check", *options]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert verbs.main(["show", *options, f"--out={tmp_path}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["examples"] == 898 and sum(found["splits"]["test"]["classes"]) == 899
    for file in found["files"]:
        assert Path(file).read_bytes()[:4] == b"\x89PNG"


def test_show_of_a_config(data_dir, tmp_path, capsys, root):
    path = root / "configs" / "classification" / "mnist1d_cnn.py"
    arguments = [f"--config={path}", f"--data_dir={data_dir}", f"--out={tmp_path / 'new' / 'place'}"]
    verbs.main(["show", *arguments, "--config.input.fake=true"])
    assert "series 40x1" in capsys.readouterr().out
    assert (tmp_path / "new" / "place" / "contact_sheet.png").is_file()


def test_check_of_a_folder_finds_a_leak(image_folder, tmp_path, capsys):
    for name in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "given" / name)
    (tmp_path / "given" / "train" / "cats" / "bad.jpg").write_text("x")
    assert verbs.main(["check", "folder", f"--data_dir={tmp_path / 'given'}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {tuple(one["splits"]) for one in found["shared"]} == {("train", "test"), ("validation", "test")}
    assert sum(one["examples"] for one in found["shared"]) == 40
    assert any("not an image" in note for note in found["notes"])


def test_check_finds_everything():
    x, y = series(20, 0)
    x[3, 1] = np.nan
    y[4] = 7
    x[6], y[7] = x[5], y[7]
    y[6] = 1 - y[5]
    other = series(8, 1)
    other[0][0] = x[10]
    other[1][:] = 1
    found = check(stub(train=(x, y), test=other), ["train", "test"])
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["not_finite"], train["bad_labels"], train["duplicates"]) == (1, 1, 1)
    assert train["conflicting_labels"] == 1 and train["missing_classes"] == []
    assert test["missing_classes"] == ["a"]
    assert found["shared"] == [{"splits": ["train", "test"], "examples": 1}]
    text = " ".join(found["problems"])
    for word in ("example 3 of stub 'train'", "example 4 of stub 'train': 7", "no example of a", "leak"):
        assert word in text


def test_statistics():
    x, y = series(50, 0)
    found = statistics(stub(train=(x, y)), "train")
    assert np.isclose(found["mean"][0], x.mean(), atol=1e-4) and np.isclose(found["std"][0], x.std(), atol=1e-4)
    assert found["classes"] == [25, 25] and found["shapes"] == [[3, 1]]


def test_mistakes(capsys):
    assert verbs.main([]) == 0 and "prepare" in capsys.readouterr().out
    with pytest.raises(UserError, match="Did you mean 'check'"):
        verbs.main(["chek", "digits"])
    with pytest.raises(UserError, match="NAME or --config"):
        verbs.main(["check"])
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        verbs.main(["check", "digit"])
    with pytest.raises(UserError, match="Did you mean '--json'"):
        verbs.main(["check", "digits", "--jsn"])
