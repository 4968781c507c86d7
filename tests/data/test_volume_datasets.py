"""Data sets of volumes: your own folder whole and broken, Colin27's halves, StarDist's blocks."""

import gzip
import hashlib
import json
import os

import numpy as np
import pytest

from cnn import config
from cnn.data import open_dataset, open_provider
from cnn.data.datasets import colin27, nuclei3d
from cnn.data.tools import verbs
from cnn.data.volumes_folder import Case, split_cases
from cnn.errors import UserError
from cnn.files.volumes import read_nifti
from tests.support import volumes


def opened(name, data_dir, **fields):
    c = config.default().input
    c.dataset, c.data_dir = name, str(data_dir)
    c.update(fields)
    return open_dataset(c)


@pytest.mark.parametrize("way", ["auto", "no"])
def test_a_folder_of_volumes(tmp_path, way):
    dataset = opened("volumes_folder", volumes.folder(tmp_path / "mine"), in_memory=way)
    assert dataset.splits == {"train": 4, "validation": 1, "test": 1} and dataset.notes == ()
    assert dataset.info.class_names == ("background", "organ", "tumour")
    assert dataset.info.input_shape == (None, None, None, 1) and dataset.info.target_shape == (None, None, None)
    names = []
    for split in dataset.splits:
        source = dataset.source(split)
        for i in range(len(source)):
            example, path = source[i], source.describe(i)
            names.append(os.path.basename(path))
            assert np.array_equal(example["volume"], read_nifti(path).voxels)
            assert example["mask"].shape == example["volume"].shape[:3] == (12, 18, 20)
            assert example["spacing"].tolist() == [2.5, 1.0, 1.0] and example["spacing"].dtype == np.float32
            number = int(names[-1].split("_")[1].split(".")[0])
            assert np.array_equal(example["mask"], volumes.blob(number, (20, 18, 12))[1].transpose(2, 1, 0))
    assert sorted(names) == [f"case_{i}.nii.gz" for i in range(6)]
    again = opened("volumes_folder", tmp_path / "mine", in_memory=way)
    assert again.fingerprint == dataset.fingerprint


def test_splits_of_few_and_many():
    def sizes(count):
        return [len(cases) for cases in split_cases([Case(f"{i}.nii", "") for i in range(count)]).values()]

    assert [sizes(n) for n in (1, 2, 3, 10, 100)] == [[1, 0, 0], [2, 0, 0], [1, 1, 1], [8, 1, 1], [80, 10, 10]]


def test_check_counts_everything_that_is_broken(tmp_path, capsys):
    root = volumes.broken(tmp_path / "broken")
    assert verbs.main(["check", "volumes_folder", f"--data_dir={root}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    total = {
        kind: sum(split[kind] for split in found["splits"].values())
        for kind in ("examples", "unreadable", "not_finite", "bad_labels", "empty_masks", "masks_of_another_size")
    }
    assert total == {
        "examples": 8, "unreadable": 0, "not_finite": 1, "bad_labels": 0, "empty_masks": 1, "masks_of_another_size": 0,
    }  # fmt: skip
    text = "\n".join(found["problems"])
    for line in (
        "left out 1 of 12: image 4-D (imagesTr/four.nii.gz: image 4-D (12x18x20x2))",
        "left out 1 of 12: image missing (imagesTr/gone.nii.gz",
        "left out 1 of 12: mask of another size (imagesTr/size.nii.gz: ",
        "mask of another size (12x18x19, the image 12x18x20))",
        "unknown.nii.gz: mask with values that no class has (9; dataset.json names 0 to 2)",
        "empty.nii.gz: background",
        "1 not finite",
    ):
        assert line in text, text
    assert "3 different spacings in 8 volumes, from 1 x 0.5 x 0.5 to 5 x 1 x 1 mm" in "\n".join(found["notes"])
    assert verbs.main(["check", "volumes_folder", f"--data_dir={root}"]) == 1
    assert "1 empty masks" in capsys.readouterr().out


def test_a_whole_folder_passes_the_check_and_is_drawn(tmp_path, capsys):
    root = volumes.folder(tmp_path / "mine", count=4)
    assert verbs.main(["check", "volumes_folder", f"--data_dir={root}"]) == 0, capsys.readouterr().out
    assert "no problems found" in capsys.readouterr().out
    verbs.main(["show", "volumes_folder", f"--data_dir={root}", f"--out={tmp_path / 'show'}", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert sum(shown["splits"]["train"]["classes"]) == 2 * 12 * 18 * 20
    assert [os.path.basename(file) for file in shown["files"]] == ["slices.png", "class_balance.png"]


def test_a_mask_somewhere_else(tmp_path):
    root = volumes.folder(tmp_path / "mine", count=2)
    _, mask = volumes.blob(0, (20, 18, 12))
    volumes.save(root / "labelsTr" / "case_0.nii.gz", mask, (1.0, 1.0, 5.0))
    source = opened("volumes_folder", root, in_memory="no").source("train")
    found = []
    for i in range(2):
        try:
            source[i]
        except UserError as error:
            found.append(str(error))
    assert len(found) == 1 and "mask in another place: the affine of labelsTr/case_0.nii.gz is 27.5 mm off" in found[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist; it names the labels"),
        ("{", "not in the layout"),
        ('{"labels": {"0": "background", "1": "a"}}', "KeyError: 'training'"),
        ('{"labels": {"1": "a", "2": "b"}, "training": []}', "the background first"),
        ('{"labels": {"0": "background", "1": "a"}, "training": []}', "'training' is empty"),
        ('{"labels": {"0": "b", "1": "a"}, "training": [{"image": "x.nii", "label": "y.nii"}]}', "image missing"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, text, said):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=said):
        opened("volumes_folder", tmp_path)


def test_a_folder_must_be_named():
    with pytest.raises(UserError, match="needs --config.input.data_dir=DIR"):
        opened("volumes_folder", "")
    assert opened("volumes_folder", "", fake=True).source("train")[0]["spacing"].tolist() == [1, 1, 1]


def head(tmp_path, monkeypatch):
    """Colin27's two files, made up, of their real shape and place."""
    rng = np.random.default_rng(0)
    voxels = np.zeros((181, 217, 181), np.uint8)
    voxels[10:170, 20:200, 10:160] = rng.integers(1, 200, (160, 180, 150), dtype=np.uint8)
    brain = voxels.copy()
    brain[:20] = 0
    for name, content in (("ch2.nii.gz", voxels), ("ch2bet.nii.gz", brain)):
        volumes.save(tmp_path / name, content)
        mark = hashlib.sha256(gzip.decompress((tmp_path / name).read_bytes())).hexdigest()
        monkeypatch.setitem(colin27.FILES, name, mark)
    return voxels, brain


def test_colin27_halves_share_nothing(tmp_path, monkeypatch):
    voxels, brain = head(tmp_path, monkeypatch)
    dataset = opened("colin27", tmp_path)
    assert dataset.splits == {"train": 1, "test": 1}
    left, right = (dataset.source(split)[0] for split in ("train", "test"))
    assert left["volume"].shape == right["volume"].shape == (181, 217, 84, 1)
    assert np.array_equal(left["volume"][..., 0], voxels[:84].T.astype(np.float32))
    assert np.array_equal(right["volume"][..., 0], voxels[97:][::-1].T.astype(np.float32))  # 84..96 in neither
    assert np.array_equal(right["mask"], (brain[97:][::-1] > 0).T.astype(np.uint8))
    (tmp_path / "ch2.nii.gz").write_bytes(gzip.compress(b"another"))
    with pytest.raises(UserError, match="sha256 differs"):
        opened("colin27", tmp_path)


@pytest.mark.parametrize(
    ("name", "said"), [("colin27", "Debian package mricron-data"), ("nuclei3d", "stardist==0.9.2")]
)
def test_data_that_are_nowhere_say_what_to_do(tmp_path, monkeypatch, name, said):
    for module in (colin27, nuclei3d):
        for fetch in ("from_debian", "from_wheel", "in_package"):
            if hasattr(module, fetch):
                monkeypatch.setattr(module, fetch, lambda *arguments: None)
    monkeypatch.setattr(colin27, "FOLDER", "nowhere")
    with pytest.raises(UserError, match=said):
        opened(name, tmp_path)


def test_nuclei3d_blocks(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    stacks = {"img": rng.integers(100, 400, (31, 61, 57)), "mask": rng.integers(0, 3, (31, 61, 57))}
    for name, file in nuclei3d.FILES.items():
        path = tmp_path / "downloads" / "stardist" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = [Image.fromarray(page.astype(np.uint16)) for page in stacks[name]]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    monkeypatch.setattr(nuclei3d, "in_package", lambda *arguments: None)
    dataset = opened("nuclei3d", tmp_path)
    train, test = (dataset.source(split)[0] for split in ("train", "test"))
    assert np.array_equal(train["volume"][..., 0], stacks["img"][:, :38].astype(np.float32))
    assert np.array_equal(test["mask"], stacks["mask"][:, 42:] > 0) and "spacing" not in test


@pytest.mark.slow
def test_the_real_ones_where_they_are_at_hand(data_dir):
    """Skipped where neither the machine nor the network has them."""
    shapes = {"colin27": [(181, 217, 84, 1)] * 2, "nuclei3d": [(31, 38, 57, 1), (31, 19, 57, 1)]}
    shares = {"colin27": [0.2281, 0.2350], "nuclei3d": [0.3977, 0.3386]}
    for name, wanted in shapes.items():
        try:
            dataset = opened(name, data_dir)
        except UserError as error:
            pytest.skip(str(error))
        found = [dataset.source(split)[0] for split in ("train", "test")]
        assert [example["volume"].shape for example in found] == wanted
        assert [float(example["mask"].mean()) for example in found] == pytest.approx(shares[name], abs=1e-4)


def test_wheels_give_single_files(tmp_path, monkeypatch):
    """`from_wheel` with a wheel that stands in for the download."""
    import zipfile

    from cnn.data import fetch

    def download(command, folder):
        with zipfile.ZipFile(os.path.join(folder, "a-1.0-py3-none-any.whl"), "w") as archive:
            archive.writestr("a/data/x.tif", b"content")
            archive.writestr("a/other.py", b"")
        return "a==1.0" in command

    monkeypatch.setattr(fetch, "_run", download)
    assert fetch.from_wheel("a==1.0", str(tmp_path / "in" / "a"), ["a/data/x.tif"])
    assert (tmp_path / "in" / "a" / "a" / "data" / "x.tif").read_bytes() == b"content"
    assert not (tmp_path / "in" / "a" / "a" / "other.py").exists()
    assert not fetch.from_wheel("a==1.0", str(tmp_path / "in" / "b"), ["a/missing.tif"])
    assert not fetch.from_wheel("b==1.0", str(tmp_path / "in" / "b"), ["a/data/x.tif"])
    assert os.listdir(tmp_path / "in") == ["a"]
    assert fetch.in_package("numpy", ["numpy/__init__.py"]) and fetch.in_package("numpy", ["numpy/nothing"]) is None
    assert fetch.in_package("surely_not_installed", []) is None


def test_names_of_the_table():
    for name in ("colin27", "nuclei3d", "volumes_folder"):
        info = open_provider(name).info
        assert info.input_key == "volume" and info.target_key == "mask" and info.class_names[0] == "background"


def test_units_are_said_once(tmp_path):
    root = volumes.folder(tmp_path / "mine", count=4)
    for i in range(4):
        volume, mask = volumes.blob(i, (20, 18, 12))
        unit = "micron" if i == 2 else "unknown"
        spacing = np.array([1.0, 1.0, 2.5]) * (1000 if i == 2 else 1)
        volumes.save(root / "imagesTr" / f"case_{i}.nii.gz", volume, spacing, unit=unit)
        volumes.save(root / "labelsTr" / f"case_{i}.nii.gz", mask, spacing, unit=unit)
    dataset = opened("volumes_folder", root)
    (note,) = dataset.notes
    assert "3 of 4 volumes do not name their unit of length; millimetres are assumed" in note
    for split in dataset.splits:
        assert dataset.source(split)[0]["spacing"].tolist() == [2.5, 1.0, 1.0]


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_volumes_changed_in_place_with_equal_size_change_the_fingerprint(tmp_path, folder):
    root = volumes.folder(tmp_path / "mine", count=4)
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace(".nii.gz", ".nii"))
    for i in range(4):
        volume, mask = volumes.blob(i, (20, 18, 12))
        volumes.save(root / "imagesTr" / f"case_{i}.nii", volume)
        volumes.save(root / "labelsTr" / f"case_{i}.nii", mask)
    first = opened("volumes_folder", root).fingerprint
    assert opened("volumes_folder", root).fingerprint == first
    path = root / folder / "case_1.nii"
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(352)
        file.write(bytes(before.st_size - 352))  # zeros in place of voxels
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened("volumes_folder", root).fingerprint != first
