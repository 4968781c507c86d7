"""`cnn predict` and `load(path).predict(x)`: the same answers as evaluation, from files of every kind."""

import json

import numpy as np
import pytest

from cnn import cli
from cnn.build import eval_batches
from cnn.errors import UserError
from cnn.evaluate import Evaluator
from cnn.inference.predictor import load
from cnn.plan import make_plan
from cnn.run import checkpoint
from cnn.train import train
from tests.support.recipes import DIGITS
from tests.support.runs import tiny


@pytest.fixture(scope="module")
def run(trained):
    """A finished run on made-up digits, its test images, and what evaluation says about them."""
    folder = trained("digits")
    plan = make_plan(tiny(**DIGITS))
    source = plan.dataset.source("test")
    variables, _ = checkpoint.load_variables(checkpoint.find(str(folder / "run")))
    scores = Evaluator(plan.built).score(variables, eval_batches(plan.built, source), keep=True)
    return folder, source.arrays["image"], scores.predictions["probs"]


@pytest.fixture(scope="module")
def pictures(run):
    """The first six test images as PNG files."""
    from PIL import Image

    folder, images, _ = run
    (folder / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(images[i, ..., 0]).save(folder / "pictures" / f"{i}.png")
    return folder / "pictures"


def probabilities(described):
    """{class: probability} of the classes that a description lists."""
    return {entry["class"]: entry["probability"] for entry in described["top"]}


def agree(described, wanted):
    for found, probs in zip(described, wanted, strict=True):
        assert found["class"] == str(int(np.argmax(probs)))
        for name, value in probabilities(found).items():
            assert value == pytest.approx(float(probs[int(name)]), abs=1e-5)


@pytest.mark.parametrize("batch_size", [7, 32, 64])
def test_arrays_are_predicted_as_evaluation_does(run, batch_size):
    folder, images, wanted = run
    agree(load(str(folder / "run")).predict(list(images), batch_size), wanted)


def test_one_array_one_file_and_grey_ones(run, pictures):
    folder, images, wanted = run
    predictor = load(str(folder / "run"))
    agree(predictor.predict(images[2]), wanted[2:3])
    agree(predictor.predict(images[2, ..., 0]), wanted[2:3])
    agree(predictor.predict(pictures / "2.png"), wanted[2:3])
    agree(predictor.predict([str(pictures / "2.png"), images[3]]), wanted[2:4])


def test_a_checkpoint_folder_and_a_step(run):
    folder, images, wanted = run
    agree(load(str(folder / "run" / "checkpoints" / "6")).predict(images[0]), wanted[:1])
    agree(load(str(folder / "run"), 6).predict(images[0]), wanted[:1])


@pytest.mark.parametrize("form", ["files", "folder", "glob"])
def test_the_command_as_json_lines(run, pictures, form, capfd):
    folder, _, wanted = run
    names = [str(pictures / f"{i}.png") for i in range(6)]
    paths = {"files": names, "folder": [str(pictures)], "glob": [str(pictures / "*.png")]}[form]
    assert cli.main(["predict", "--workdir", str(folder / "run"), "--json", *paths]) == 0
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert err == "" and [row["path"] for row in rows] == names
    agree(rows, wanted[:6])


def test_the_command_as_a_table(run, pictures, capfd):
    folder, _, wanted = run
    assert cli.main(["predict", "--workdir", str(folder / "run"), str(pictures / "1.png")]) == 0
    line = capfd.readouterr().out
    best = int(np.argmax(wanted[1]))
    assert line.startswith(f"{pictures / '1.png'}  {best} {wanted[1][best]:.3f}  ")


def test_unreadable_files_are_named_in_their_place(run, pictures, tmp_path, capfd):
    folder, _, wanted = run
    (tmp_path / "bad.png").write_bytes(b"no image")
    argv = ["predict", "--workdir", str(folder / "run"), "--json"]
    assert cli.main([*argv, str(tmp_path / "bad.png"), str(pictures / "0.png")]) == 1
    out, err = capfd.readouterr()
    bad, good = (json.loads(line) for line in out.splitlines())
    assert bad["path"].endswith("bad.png") and "not an image" in bad["error"]
    agree([good], wanted[:1])
    assert err == "1 of 2 inputs could not be predicted\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((8, 8, 1), np.float32), "images are uint8 in 0..255, got float32"),
        (np.zeros(8, np.uint8), r"shape \(8,\), but this network takes \(8, 8, 1\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"shape \(2, 8, 8, 1\)"),
        ("no/such/file.png", "file.png: cannot be opened"),
    ],
)
def test_inputs_that_are_refused(run, value, said):
    with pytest.raises(UserError, match=said):
        load(str(run[0] / "run")).predict(value)


def test_images_of_another_size_and_colour_are_fitted(run):
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (found,) = load(str(run[0] / "run")).predict(colour)
    assert sum(probabilities(found).values()) <= 1 + 1e-5


def test_series(tmp_path):
    config = tiny(
        total_steps=2,
        model={"name": "mnist1d_mlp"},
        input__dataset="mnist1d",
        input__train_transforms=(),
        input__mean=(),
        input__std=(),
        eval__every_steps=2,
    )
    assert train(config, str(tmp_path / "run")) == 0
    predictor = load(str(tmp_path / "run"))
    series = np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32)
    np.save(tmp_path / "a.npy", series)
    np.savetxt(tmp_path / "a.csv", series, delimiter=",")
    wanted = probabilities(predictor.predict(series)[0])
    for name in ("a.npy", "a.csv"):
        found = probabilities(predictor.predict(tmp_path / name)[0])
        assert found == pytest.approx(wanted, abs=1e-6)
    for value, said in (
        (series[:30], r"shape \(30, 1\), but this network takes \(40, 1\)"),
        (np.full((40, 1), np.nan, np.float32), "not finite"),
        (tmp_path / "none.npy", "cannot be read as a series"),
    ):
        with pytest.raises(UserError, match=said):
            predictor.predict(value)


def test_ts_files_of_unequal_lengths_and_gaps_are_predicted_as_evaluation_saw_them(tmp_path, capfd):
    """Training filled and resampled them, so prediction does; the same file gives the same probabilities."""
    rng = np.random.default_rng(0)
    for split, count in (("TRAIN", 24), ("TEST", 9)):
        lines = []
        for i in range(count):
            values = [f"{v:.4f}" for v in np.sin(np.arange(8 + i % 5) * (1 + i % 2)) + rng.normal(0, 0.1, 8 + i % 5)]
            if i % 3 == 0:
                values[i % 7] = "?"
            lines.append(",".join(values) + (":slow", ":fast")[i % 2])
        head = "@univariate true\n@classLabel true slow fast\n@data\n"
        (tmp_path / f"X_{split}.ts").write_text(head + "\n".join(lines) + "\n")
    config = tiny(
        total_steps=2,
        model={"name": "series_fcn", "widths": (8, 8, 8)},
        input__dataset="ucr",
        input__data_dir=str(tmp_path),
        input__fake=False,
        input__train_transforms=(),
        input__mean=(),
        input__std=(),
        input__batch_size=8,
        eval__every_steps=2,
    )
    assert train(config, str(tmp_path / "run")) == 0
    plan = make_plan(config)
    variables, meta = checkpoint.load_variables(checkpoint.find(str(tmp_path / "run")))
    assert meta["card"]["preprocess"]["before"] == [["fill_gaps", {}], ["resample", {"steps": 12}]]
    batches = eval_batches(plan.built, plan.dataset.source("test"))
    wanted = Evaluator(plan.built).score(variables, batches, keep=True).predictions["probs"]
    capfd.readouterr()
    assert cli.main(["predict", f"--workdir={tmp_path / 'run'}", "--json", str(tmp_path / "X_TEST.ts")]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == [f"{tmp_path}/X_TEST.ts#{i}" for i in range(9)]
    for row, probs in zip(rows, wanted, strict=True):
        assert probabilities(row) == pytest.approx({"slow": probs[0], "fast": probs[1]}, abs=1e-6)


def test_relative_paths(run, monkeypatch, tmp_path, capfd):
    folder, _, _ = run
    (tmp_path / "one.py").write_text(
        "from tests.support.runs import tiny\ndef get_config(arg=''):\n    return tiny(total_steps=2)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config=one.py", "--workdir=runs/one"]) == 0, capfd.readouterr().err
    assert cli.main(["evaluate", "--workdir=runs/one"]) == 0, capfd.readouterr().err
    monkeypatch.chdir(folder)
    assert load("run").card["model"]
