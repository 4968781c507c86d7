"""Data sets of images with masks: your own folder and its mistakes, composed scenes, nuclei, TFDS's builders."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from cnn import cli, config
from cnn.data import open_dataset, open_provider
from cnn.data.datasets import nuclei2d, scenes
from cnn.errors import UserError
from cnn.features import IGNORE
from cnn.files.masks import decode_mask


def opened(name, data_dir="", **fields):
    c = config.default().input
    c.dataset, c.data_dir = name, str(data_dir)
    c.update(fields)
    return open_dataset(c)


@pytest.fixture
def pairs(tmp_path, picture):
    """`pairs(place, count, labels, size)`: saves pictures with masks of these labels; returns the folder."""
    root = tmp_path / "mine"

    def save(place="", count=12, labels=(0, 1, 2), size=(16, 12), mode="L"):
        for i in range(count):
            picture(root / place / "images" / f"{i:02d}.jpg", i, size)
            mask = np.random.default_rng(i).choice(np.array(labels, np.uint8), size)
            path = root / place / "masks" / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            made = Image.fromarray(mask)
            if mode == "P":
                made = made.convert("P")
                made.putdata(mask.reshape(-1).tolist())
            made.save(path)
        return root

    return save


def test_a_flat_folder_is_split_by_names(pairs):
    root = pairs(count=60)
    dataset = opened("masks_folder", root)
    assert sum(dataset.splits.values()) == 60 and min(dataset.splits.values()) > 0
    assert dataset.info.class_names == ("background", "class1", "class2") and dataset.info.input_shape == (16, 12, 3)
    assert dataset.info.target_shape == (16, 12) and not dataset.problems
    seen = set()
    for split in dataset.splits:
        source = dataset._provider.source(split)
        for i in range(len(source)):
            name = source.describe(i).split("/")[-1]
            mask = np.array(Image.open(root / "masks" / name.replace("jpg", "png")))
            np.testing.assert_array_equal(source[i]["mask"], mask)
            seen.add(name)
    assert len(seen) == 60
    first = opened("masks_folder", root).fingerprint
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(root / "masks" / "00.png")
    assert opened("masks_folder", root).fingerprint != first


def test_folders_of_splits_and_names(pairs):
    root = pairs("train", 6, mode="P")
    pairs("val", 2)
    (root / "classes.txt").write_text("ground\ntree\nhouse\nriver\n")
    dataset = opened("masks_folder", root)
    assert dataset.info.class_names == ("ground", "tree", "house", "river")
    assert dataset.splits["validation"] == 2 and dataset.splits["train"] + dataset.splits["test"] == 6
    assert any("has no 'test'" in note for note in dataset.notes)


def test_white_is_the_foreground_where_there_is_nothing_else(pairs):
    dataset = opened("masks_folder", pairs(labels=(0, 255)), in_memory="no")
    assert dataset.info.class_names == ("background", "foreground")
    assert set(np.unique(dataset.source("train")[0]["mask"])) == {0, 1}
    assert any("read as class 1" in note for note in dataset.notes)


def test_255_is_ignored_where_there_are_classes(pairs):
    dataset = opened("masks_folder", pairs(labels=(0, 1, 255)))
    assert set(np.unique(dataset.source("train").arrays["mask"])) == {0, 1, IGNORE}
    assert dataset.info.num_classes == 2


def broken(root):
    """One of each mistake, and two masks of another size."""
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(root / "masks" / "00.png")
    Image.fromarray(np.zeros((16, 13), np.uint8)).save(root / "masks" / "01.png")
    Image.fromarray(np.full((16, 12), 7, np.uint8)).save(root / "masks" / "02.png")
    (root / "masks" / "03.png").unlink()
    (root / "images" / "04.jpg").unlink()
    colours = np.random.default_rng(0).integers(0, 99, (16, 12, 3), dtype=np.uint8)
    Image.fromarray(colours).save(root / "masks" / "05.png")
    (root / "masks" / "06.png").write_bytes((root / "masks" / "06.png").read_bytes()[:60])
    (root / "images" / "07.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(root / "masks" / "08.png")
    (root / "classes.txt").write_text("background\ntree\nhouse\n")


def test_mistakes_are_counted_by_data_check(pairs, capsys):
    root = pairs(count=40)
    broken(root)
    dataset = opened("masks_folder", root)
    assert sum(dataset.splits.values()) == 32
    for said in (
        "left out 2 masks of another size than their image (masks/00.png: 12x9, the image 12x16; masks/01.png: 13x16, ",
        "left out 1 masks with labels above 2 (masks/02.png)",
        "left out 1 images without a mask (images/03.jpg)",
        "left out 1 masks without an image (masks/04.png)",
        "left out 1 masks: a colour picture, not class ids (masks/05.png)",
        "left out 1 masks: truncated or damaged (masks/06.png: PNG: it ends ",
        "left out 1 images: not an image (images/07.jpg)",
    ):
        assert any(said in line for line in dataset.problems), (said, dataset.problems)
    assert cli.main(["data", "check", "masks_folder", f"--data_dir={root}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert sum(part["empty_masks"] for part in found["splits"].values()) == 1
    assert len(found["problems"]) >= 8


def test_a_healthy_folder_has_no_problems(pairs, capsys):
    root = pairs(count=60)
    assert cli.main(["data", "check", "masks_folder", f"--data_dir={root}"]) == 0, capsys.readouterr()
    assert "no problems found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("sixteen.png", np.full((4, 4), 300, np.uint16), "class ids above 255"),
        ("grey.jpg", np.zeros((4, 4), np.uint8), "no PNG"),
        ("colour.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "a colour picture"),
    ],
)
def test_masks_that_are_none(tmp_path, name, pixels, said):
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(Exception, match=said):
        decode_mask(str(tmp_path / name))


def test_masks_in_other_guises(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, (6, 5), dtype=np.uint8)
    Image.fromarray(mask.astype(bool)).save(tmp_path / "bits.png")
    Image.fromarray(np.repeat(mask[..., None], 3, -1)).save(tmp_path / "grey_rgb.png")
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "sixteen.png")
    for path in tmp_path.glob("*.png"):
        np.testing.assert_array_equal(decode_mask(str(path)), mask)


def test_folders_that_cannot_be_used(tmp_path, pairs):
    with pytest.raises(UserError, match="needs --config.input.data_dir=DIR"):
        opened("masks_folder")
    with pytest.raises(UserError, match="does not exist"):
        opened("masks_folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither images and masks"):
        opened("masks_folder", tmp_path / "empty")
    root = pairs(labels=range(0, 250, 10))
    with pytest.raises(UserError, match="labels up to 240; write .*classes.txt"):
        opened("masks_folder", root)
    (root / "classes.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="must name 2 to 255 different classes"):
        opened("masks_folder", root)


def test_scenes_are_composed_exactly():
    rng = np.random.default_rng(0)
    pictures = np.zeros((6, 8, 8), np.uint8)
    pictures[:, 2:6, 1:7] = 200
    photos = rng.integers(1, 100, (2, 150, 150), dtype=np.uint8)
    classes = np.array([0, 0, 0, 0, 1, 2])
    made = scenes.compose(pictures, classes, photos, 40, 5)
    again = scenes.compose(pictures, classes, photos, 40, 5)
    assert all(np.array_equal(made[key], again[key]) for key in made)
    assert made["image"].shape == (40, 128, 128, 1) and made["mask"].shape == (40, 128, 128)
    assert not np.array_equal(made["mask"], scenes.compose(pictures, classes, photos, 40, 6)["mask"])
    inside = made["image"][..., 0] > 100  # items are lighter than the photos
    assert not (inside & (made["mask"] == 0)).any()
    share = np.bincount(made["mask"].ravel(), minlength=4)[1:] / (made["mask"] > 0).sum()
    assert share.min() > 0.2  # each class is equally likely, not each item


def test_scenes_of_digits_share_no_item_and_no_photo(data_dir, monkeypatch):
    monkeypatch.setattr(scenes, "SIZES", {"train": 20, "validation": 8, "test": 8})
    provider = open_provider("scenes_digits", str(data_dir))
    provider.prepare()
    assert provider.sizes() == {"train": 20, "validation": 8, "test": 8}
    assert provider.info.num_classes == 11 and provider.arrays("train")["mask"].max() <= 10
    parts = scenes._digits(str(data_dir))
    seen = [{item.tobytes() for item in pictures} for pictures, _ in parts.values()]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    rows = [set(range(*part)) for part in scenes.PARTS.values()]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


@pytest.fixture
def stardist(tmp_path, monkeypatch):
    """A stand-in for StarDist's picture, in the place of fetched files."""
    rng = np.random.default_rng(0)
    files = {"img": rng.integers(0, 236, (512, 512)), "mask": rng.integers(0, 3, (512, 512))}
    for name, file in nuclei2d.FILES.items():
        path = tmp_path / "downloads" / "stardist" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(files[name].astype(np.uint16)).save(path)
    monkeypatch.setattr("cnn.data.datasets.nuclei3d.in_package", lambda *arguments: None)
    return tmp_path, files


def test_nuclei_quadrants(stardist):
    root, files = stardist
    dataset = opened("nuclei2d", root)
    assert dataset.splits == {"train": 3, "test": 1}
    test = dataset.source("test")[0]
    np.testing.assert_array_equal(test["image"][..., 0], files["img"][256:, 256:])
    np.testing.assert_array_equal(test["mask"], files["mask"][256:, 256:] > 0)
    np.testing.assert_array_equal(dataset._provider.nuclei("test")[0], files["mask"][256:, 256:])


@pytest.mark.slow
def test_the_real_nuclei_where_they_are_at_hand(data_dir):
    """Skipped where neither the machine nor the network has them."""
    from cnn.tasks import build_task

    try:
        dataset = opened("nuclei2d", data_dir)
    except UserError as error:
        pytest.skip(str(error))
    train, test = (dataset.source(split).arrays for split in ("train", "test"))
    found = build_task("segmentation", dataset.info).baselines(train, test, 0)
    assert found["otsu"]["dice"] == pytest.approx(0.893, abs=2e-3)
    both = {key: np.concatenate([train[key], test[key]]) for key in train}
    assert both["mask"].mean() == pytest.approx(0.1992, abs=1e-3)
    assert len(np.unique(dataset._provider.nuclei("test"))) == 1 + 29


def test_tfds_pets_are_prepared_without_tensorflow(tmp_path, monkeypatch):
    """The whole path on made-up archives of the published layout, a picture that the builder mends among them."""
    rng = np.random.default_rng(0)
    images, notes = tmp_path / "a" / "images", tmp_path / "b" / "annotations"
    images.mkdir(parents=True)
    (notes / "trimaps").mkdir(parents=True)
    (notes / "xmls").mkdir()
    for split, names in (("trainval", ("Abyssinian_1", "beagle_116")), ("test", ("Sphynx_2",))):
        (notes / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for name in names:
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(images / f"{name}.jpg")
            Image.fromarray(rng.integers(1, 4, (20, 30), dtype=np.uint8)).save(notes / "trimaps" / f"{name}.png")
    provider = open_provider("oxford_iiit_pet", str(tmp_path / "data"))
    extracted = {"images": str(tmp_path / "a"), "annotations": str(tmp_path / "b")}
    manager = types.SimpleNamespace(download_and_extract=lambda urls: extracted)
    split_generators = provider.builder._split_generators
    monkeypatch.setattr(provider.builder, "_split_generators", lambda dl_manager, **_: split_generators(manager))
    provider.prepare()
    assert provider.sizes() == {"train": 2, "test": 1}
    example = provider.source("test")[0]
    trimap = np.array(Image.open(notes / "trimaps" / "Sphynx_2.png"))
    np.testing.assert_array_equal(example["mask"], np.array([9, 1, 0, IGNORE], np.uint8)[trimap])
    assert example["image"].shape == (20, 30, 3) and provider.info.class_names == ("background", "pet")


def test_cityscapes_has_the_classes_of_the_benchmark():
    from cnn.data.datasets import public_masks

    classes = public_masks.table({label: k for k, label in enumerate(public_masks.CITYSCAPES)})
    assert classes[[7, 8, 11, 33]].tolist() == [0, 1, 2, 18] and (classes == IGNORE).sum() == 256 - 19
    info = open_provider("cityscapes", "nowhere").info
    assert info.num_classes == 19 and info.class_names[13] == "car"


def test_tfds_cityscapes_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = {}
    for city, split in (("aachen", "train"), ("bonn", "val"), ("berlin", "test")):
        stem = f"{city}_000000_000019"
        labels[split] = np.repeat(np.repeat(rng.integers(0, 34, (16, 32), dtype=np.uint8), 64, 0), 64, 1)
        for kind, name, pixels in (
            ("leftImg8bit", "leftImg8bit", np.repeat(labels[split][..., None], 3, -1)),
            ("gtFine", "gtFine_labelIds", labels[split]),
        ):
            path = tmp_path / kind / split / city / f"{stem}_{name}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        (tmp_path / name).touch()
    provider = open_provider("cityscapes", str(tmp_path / "data"))
    manager = types.SimpleNamespace(manual_dir=str(tmp_path), extract=lambda path: str(tmp_path))
    split_generators = provider.builder._split_generators
    monkeypatch.setattr(provider.builder, "_split_generators", lambda dl_manager, **_: split_generators(manager))
    provider.prepare()
    assert provider.sizes() == {"train": 1, "validation": 1}
    example = provider.source("validation")[0]
    assert example["image"].shape == (1024, 2048, 3)
    assert (example["mask"][labels["val"] == 26] == 13).all() and (example["mask"][labels["val"] == 4] == IGNORE).all()


@pytest.mark.drawn
def test_a_contact_sheet_shows_the_masks(pairs, tmp_path, capsys):
    root = pairs(count=20)
    out = tmp_path / "shown"
    argv = ["data", "show", "masks_folder", f"--data_dir={root}", f"--out={out}"]
    assert cli.main(argv) == 0, capsys.readouterr()
    assert "3 classes at every place" in capsys.readouterr().out
    assert (out / "contact_sheet.png").stat().st_size > 5000 and (out / "class_balance.png").is_file()


@pytest.mark.parametrize("names", [("Training", "Testing", "Val"), ("TRAIN", "test", "dev")])
def test_names_of_splits_in_any_case(pairs, names):
    for name in names:
        root = pairs(name, 4)
    dataset = opened("masks_folder", root)
    assert dataset.splits == {"train": 4, "validation": 4, "test": 4}


def test_a_mask_changed_in_place_changes_the_fingerprint(pairs):
    root = pairs(count=12, labels=(0, 1))
    first = opened("masks_folder", root).fingerprint
    path = root / "masks" / "03.png"
    mask = np.array(Image.open(path))
    Image.fromarray(mask[::-1].copy()).save(path)
    assert opened("masks_folder", root).fingerprint != first
