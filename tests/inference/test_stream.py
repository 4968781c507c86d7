"""Predictions for many files: every kind of input, in order, in bounded memory, with bad files among them."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from cnn import cli, config
from cnn.build import build
from cnn.card import spec_of
from cnn.convert.imported import write
from cnn.features import LABEL, SPACING, DatasetInfo, Feature
from cnn.inference import progress, stream
from cnn.inference.predictor import BATCH, load
from cnn.inference.stream import Masks, Stems, predictions
from tests.support import volumes

FREE = (None, None, None)
# kind: (inputs, targets, classes, model, task, transforms of evaluation)
KINDS = {
    "image": ({"image": Feature.image(8, 8, 1)}, {"label": LABEL}, {"name": "mlp"}, "classification", ()),
    "series": ({"series": Feature.series(None, 1)}, {"label": LABEL}, {"name": "series_fcn", "widths": (8, 8, 8)},
               "classification", (("resample", {"steps": 16}),)),
    "volume": ({"volume": Feature.volume(*FREE, 1), "spacing": SPACING}, {"mask": Feature.mask(*FREE)},
               {"name": "unet", "widths": (2, 2)}, "segmentation", (("volume_spacing", {"spacing": 2.0}),)),
}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """{kind: checkpoint} of networks with fresh weights."""
    folder, found = tmp_path_factory.mktemp("networks"), {}
    for kind, (inputs, targets, model, task, transforms) in KINDS.items():
        c = config.default()
        c.model = type(c)(model)
        c.task.name, c.input.dataset, c.total_steps, c.mesh.devices = task, "digits", 1, 1
        c.input.eval_transforms = transforms
        info = DatasetInfo("mine", inputs, targets, ("a", "b"))
        spec = spec_of(info) | {"series": ((16, 1), np.dtype(np.float32))} if kind == "series" else spec_of(info)
        built = build(c.lock(), info, spec)
        found[kind] = write(built, jax.jit(built.init)(), folder / kind, {})
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{kind: folder} with some files of every kind, one of them bad."""
    root, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for kind in KINDS:
        (root / kind).mkdir()
    for i in range(2 * BATCH + 5):
        Image.fromarray(rng.integers(0, 256, (8 + i % 3, 9), dtype=np.uint8)).save(root / "image" / f"{i:03d}.png")
    (root / "image" / "007.png").write_bytes(b"nothing")
    (root / "series" / "many.ts").write_text("@classLabel true x y\n@data\n1,2,3,5,6:x\n4,5,?:y\n1,2:x\n")
    np.save(root / "series" / "one.npy", np.arange(9.0))
    (root / "series" / "bad.csv").write_text("a,b\n")
    volumes.save(root / "volume" / "scan.nii.gz", volumes.blob(0, (8, 7, 6))[0])
    volumes.series(root / "volume" / "ct", [0, 2, 4, 6, 8])
    (root / "volume" / "bad.nii").write_text("nothing")
    return {kind: root / kind for kind in KINDS}


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def predict(network, *arguments):
    return cli.main(["predict", f"--workdir={network}", *map(str, arguments)])


NAMES = {
    "image": [f"{i:03d}.png" for i in range(2 * BATCH + 5)],
    "series": ["bad.csv", "many.ts#0", "many.ts#1", "many.ts#2", "one.npy"],
    "volume": ["bad.nii", "scan.nii.gz", "ct"],
}
BAD = {"image": ["007.png"], "series": ["bad.csv", "many.ts#1"], "volume": ["bad.nii"]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_form(networks, files, tmp_path, kind, capfd):
    """As text, as JSON, as a file of either kind, and in Python: the same predictions in the same order."""
    assert predict(networks[kind], files[kind], "--json") == 1
    out, err = capfd.readouterr()
    found = rows(out)
    assert [os.path.relpath(row["path"], files[kind]) for row in found] == NAMES[kind]
    assert [os.path.relpath(row["path"], files[kind]) for row in found if "error" in row] == BAD[kind]
    assert err == f"{len(BAD[kind])} of {len(found)} inputs could not be predicted\n"

    assert predict(networks[kind], files[kind]) == 1
    text = capfd.readouterr().out.splitlines()
    assert len(text) == len(found) and all(line.startswith(row["path"]) for line, row in zip(text, found, strict=True))

    for name in ("a.jsonl", "a.parquet"):
        assert predict(networks[kind], files[kind], f"--out={tmp_path / name}") == 1
        out, err = capfd.readouterr()
        good = len(found) - len(BAD[kind])
        assert out == "" and err.startswith(f"{tmp_path / name}: {good} predicted\n")
    network = load(str(networks[kind])).identity
    assert rows((tmp_path / "a.jsonl").read_text()) == [row | {"network": network} for row in found]
    kept = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None and k != "network"} for row in kept] == found

    if kind != "volume":  # without tiles
        good = next(row for row in found if "error" not in row and "#" not in row["path"])
        (alone,) = load(str(networks[kind])).predict(good["path"])
        assert alone["class"] == good["class"] and alone["probability"] == pytest.approx(good["probability"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("image", "000.png"), ("series", "many.ts"), ("volume", "ct")])
def test_every_kind_is_inspected(networks, files, tmp_path, kind, name, capfd):
    argv = [f"--workdir={networks[kind]}", str(files[kind] / name), f"--out={tmp_path}", "--json"]
    assert cli.main(["inspect", *argv]) == 0, capfd.readouterr().err
    assert json.loads(capfd.readouterr().out)["input"] == name


def test_a_second_run_skips_what_is_there_and_tries_errors_again(networks, files, tmp_path, capfd):
    out = tmp_path / "a.parquet"
    first = ["002.png", "007.png", "003.png"]
    assert predict(networks["image"], *(files["image"] / name for name in first), f"--out={out}") == 1
    capfd.readouterr()
    assert predict(networks["image"], files["image"], f"--out={out}") == 1
    assert capfd.readouterr().err.startswith(f"{out}: 66 predicted, 2 skipped (predicted before)\n1 of 69 inputs")
    names = [os.path.basename(path) for path in pyarrow.parquet.read_table(out)["path"].to_pylist()]
    assert sorted(names) == NAMES["image"] and names[:2] == ["002.png", "003.png"]
    out = tmp_path / "b.jsonl"
    assert predict(networks["series"], files["series"] / "many.ts", f"--out={out}") == 1
    before = rows(out.read_text())
    assert predict(networks["series"], files["series"], f"--out={out}") == 1
    assert "1 predicted, 2 skipped" in capfd.readouterr().err
    assert len(rows(out.read_text())) == len(before) + 2  # one.npy and the error of bad.csv


KILLED = """
import os, signal, sys
from cnn import cli
from cnn.inference.prediction_files import PredictionFile

add = PredictionFile.add
def killed(self, row):
    if row["path"].endswith("040.png"):
        self._file.write(b'{"path": "' + row["path"].encode()[:9])
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, row)
PredictionFile.add = killed
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_resuming_after_kill_9_gives_what_one_run_gives(networks, files, tmp_path, name, capfd):
    argv = ["predict", f"--workdir={networks['image']}", str(files["image"]), f"--out={tmp_path / name}"]
    assert subprocess.run([sys.executable, "-c", KILLED, *argv]).returncode == -signal.SIGKILL
    assert cli.main(argv) == 1
    assert "29 predicted, 39 skipped" in capfd.readouterr().err
    whole = tmp_path / f"whole{name[1:]}"
    assert cli.main([*argv[:-1], f"--out={whole}"]) == 1

    def found(path):
        if name.endswith("l"):
            return rows(path.read_text())
        return pyarrow.parquet.read_table(path).to_pylist()

    order = {row["path"]: row for row in found(tmp_path / name)}
    assert len(order) == len(found(tmp_path / name))
    for row in found(whole):
        assert order[row["path"]].get("class") == row.get("class")
        assert order[row["path"]].get("probability") == pytest.approx(row.get("probability"), abs=1e-5)


def test_no_more_is_read_than_the_next_batches(networks, files, monkeypatch):
    predictor, read = load(str(networks["image"])), []
    real = stream.read
    monkeypatch.setattr(stream, "read", lambda kind, path: read.append(path) or real(kind, path))
    found = predictions(predictor, [str(files["image"] / f"{i % 3:03d}.png") for i in range(1000)])
    next(found)
    assert len(read) <= 3 * BATCH
    found.close()  # and nothing of the rest
    assert len(read) <= 3 * BATCH


def test_large_examples_wait_in_smaller_numbers(networks, files, monkeypatch):
    monkeypatch.setattr(stream, "AHEAD_BYTES", 3 * 64)  # an example is 64 bytes
    predictor, read = load(str(networks["image"])), []
    real = stream.read
    monkeypatch.setattr(stream, "read", lambda kind, path: read.append(path) or real(kind, path))
    next(predictions(predictor, [str(files["image"] / "000.png")] * 1000))
    assert len(read) <= BATCH + stream.THREADS


def test_inputs_of_different_sizes_share_batches_where_they_can(networks):
    predictor = load(str(networks["series"]))
    rng = np.random.default_rng(0)
    examples = [{"series": rng.normal(size=(n, 1)).astype(np.float32)} for n in (16, 16, 20, 20, 20, 16)]
    sizes = []
    batch = predictor._batch
    predictor._batch = lambda part, size: sizes.append((len(part), size)) or batch(part, size)
    found = list(predictor.stream([examples[0], None, *examples[1:5], None, examples[5]], batch_size=2))
    assert [row is None for row in found] == [False, True, False, False, False, False, True, False]
    assert sizes == [(2, 2), (2, 2), (1, 2), (1, 2)]  # of a size that had a whole batch the rest is filled up
    alone = [predictor.rows([example])[0] for example in examples]
    for row, one in zip((row for row in found if row is not None), alone, strict=True):
        np.testing.assert_allclose(row["probs"], one["probs"], atol=1e-5)


def test_names_are_never_printed_raw(networks, files, tmp_path, capfd):
    odd = ["caf\udce9.png", "a\nb.png", "\x1b[31m.png"]
    for name in odd:
        (tmp_path / name).write_bytes((files["image"] / "000.png").read_bytes())
    (tmp_path / "\x1bbad.png").touch()
    assert predict(networks["image"], tmp_path, f"--out={tmp_path / 'a.parquet'}", "--json") == 1
    out, _ = capfd.readouterr()
    found = [row["path"].removeprefix(f"{tmp_path}/") for row in rows(out)]
    assert found == ["\x1b[31m.png", "\x1bbad.png", "a\nb.png", "caf\\xe9.png"]  # JSON escapes the others itself
    assert predict(networks["image"], tmp_path, f"--out={tmp_path / 'a.parquet'}") == 1
    assert "0 predicted, 3 skipped" in capfd.readouterr().err
    assert predict(networks["image"], tmp_path) == 1
    out, _ = capfd.readouterr()
    assert "\x1b" not in out and len(out.splitlines()) == 4 and "caf\\xe9.png  " in out


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("image", ["--masks=m"], "masks and tiles need a segmentation model; this one is for classification"),
        ("image", ["--tile=8"], "masks and tiles need a segmentation model"),
        ("image", ["--largest"], "masks and tiles need a segmentation model"),
        ("volume", ["--overlap=2"], "overlap must be in"),
        ("volume", ["--tile=1"], "too small for a margin"),
        ("image", ["--out=a.txt"], "predictions are written as .jsonl or .parquet"),
    ],
)
def test_mistakes_end_before_anything_is_read(networks, files, kind, arguments, said, capfd):
    assert predict(networks[kind], files[kind], *arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and said in err and len(err.splitlines()) == 1


def test_stems_are_unique():
    stems = Stems()
    paths = ["a/x.png", "b/x.png", "x-2.jpg", "c/x.nii.gz", "c/y.NII", "scans/ct/"]
    assert [stems.of(path) for path in paths] == ["x", "x-2", "x-2-2", "x-3", "y", "ct"]


def test_progress(monkeypatch, capsys):
    times = iter([0.0, *np.arange(0.1, 100, 0.1)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))
    shown = progress.Progress("predict", 1000)
    for i in range(400):
        shown.count(f"{i}")
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "predict: 50 of 1,000 files, 10/s, 95 s left",
        "predict: 350 of 1,000 files, 10/s, 65 s left",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress.time, "monotonic", iter(np.arange(100.0)).__next__)
    shown = progress.Progress("predict", 10)
    shown.count("a")
    shown.count("a")  # another series of that file
    shown.close()
    assert capsys.readouterr().err == (
        "\rpredict: 1 of 10 files, 1/s, 9 s left\x1b[K\rpredict: 1 of 10 files, 0.5/s, 18 s left\x1b[K\r\x1b[K"
    )


def test_masks_of_what_was_seen(networks, files, tmp_path):
    """The mask of a volume lies over it: its size, whatever spacing the network takes."""
    scan, predictor = str(files["volume"] / "scan.nii.gz"), load(str(networks["volume"]))
    (one,) = predictions(predictor, [scan], Masks(str(tmp_path)))
    assert one.found["mask"] == str(tmp_path / "scan.nii.gz") and one.found["shape"] == [6, 7, 8]
