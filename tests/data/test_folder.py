"""Image folders as people have them: every oddity is made here, and none may crash a run."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn import config
from cnn.data import open_dataset
from cnn.data.folder import split_of
from cnn.data.pipeline import TrainBatches
from cnn.errors import UserError
from cnn.files.images import BadImage, decode_image
from cnn.transforms import build_transforms


def opened(folder, **fields):
    c = config.default().input
    c.dataset, c.data_dir = "folder", str(folder)
    c.update(fields)
    return open_dataset(c)


def examples(dataset, split):
    source = dataset.source(split)
    return {os.path.relpath(source.describe(i), start=""): source[i] for i in range(len(source))}


def test_classes_and_splits(image_folder):
    dataset = opened(image_folder)
    assert dataset.info.class_names == ("cats", "dogs") and dataset.info.input_shape == (None, None, 3)
    assert sum(dataset.splits.values()) == 40 and dataset.splits["train"] > 22
    assert dataset.notes == ()
    for split in dataset.splits:
        source = dataset.source(split)
        for i in range(len(source)):
            name = source.describe(i).split(os.sep)[-2]
            assert dataset.info.class_names[int(source[i]["label"])] == name
            assert source[i]["image"].dtype == np.uint8 and source[i]["image"].shape[2] == 3
    batches = TrainBatches(dataset.source("train"), build_transforms((("resize", {"size": 8}),)), 4, 0)
    assert batches[0]["image"].shape == (4, 8, 8, 3)


def test_a_new_file_moves_no_other(image_folder, picture):
    before = {s: set(examples(opened(image_folder), s)) for s in ("train", "validation", "test")}
    for i in range(10):
        picture(image_folder / "cats" / f"new{i}.jpg", i)
    after = {s: set(examples(opened(image_folder), s)) for s in ("train", "validation", "test")}
    assert sum(map(len, after.values())) == 50
    for split in before:
        assert before[split] <= after[split]


def test_split_fractions():
    found = [split_of(f"c/{i}.jpg") for i in range(5000)]
    assert abs(found.count("train") - 4000) < 120 and abs(found.count("validation") - 500) < 90


def test_given_splits(image_folder, tmp_path):
    given = tmp_path / "given"
    for name in ("train", "val", "test"):
        shutil.copytree(image_folder, given / name)
    dataset = opened(given)
    assert dataset.splits == {"train": 40, "validation": 40, "test": 40}
    labels = [int(dataset.source("train[:50%]")[i]["label"]) for i in range(20)]
    assert 4 < sum(labels) < 16  # part of a split is no single class
    shutil.rmtree(given / "val" / "dogs")
    with pytest.raises(UserError, match="different classes.*dogs"):
        opened(given)
    shutil.rmtree(given / "val")
    (given / "extra").mkdir()
    with pytest.raises(UserError, match="has 'train', but 'extra' beside it is no split"):
        opened(given)


@pytest.mark.parametrize("have", [("train", "val"), ("train", "test"), ("train",)])
def test_absent_splits_are_taken_out_of_train(image_folder, tmp_path, have):
    for name in have:
        shutil.copytree(image_folder, tmp_path / "some" / name)
    dataset, folder = opened(tmp_path / "some"), str(tmp_path / "some")
    given = {{"val": "validation"}.get(name, name) for name in have}
    absent = {"train", "validation", "test"} - given
    assert sum(dataset.splits.values()) == 40 * len(have)
    assert [split for split in dataset.splits if any(f"no '{split}'" in note for note in dataset.notes)] == [
        split for split in dataset.splits if split in absent
    ]
    found = {split: set(examples(dataset, split)) for split in dataset.splits if dataset.splits[split]}
    for split in absent:
        assert 0 < len(found[split]) < 12 and not found[split] & found["train"]
        assert all(f"{folder}{os.sep}train{os.sep}" in os.path.abspath(path) for path in found[split])
    for split in given - {"train"}:
        assert len(found[split]) == 40


def test_fingerprint(image_folder, tmp_path, picture):
    first = opened(image_folder).fingerprint
    shutil.copytree(image_folder, tmp_path / "copy")
    assert len(first) == 32 and opened(tmp_path / "copy").fingerprint == first
    os.rename(tmp_path / "copy" / "cats" / "0.png", tmp_path / "copy" / "cats" / "x.png")
    renamed = opened(tmp_path / "copy").fingerprint
    os.rename(tmp_path / "copy" / "cats" / "x.png", tmp_path / "copy" / "cats" / "0.png")
    assert opened(tmp_path / "copy").fingerprint == first != renamed
    picture(tmp_path / "copy" / "cats" / "0.png", 5, (40, 40))
    assert opened(tmp_path / "copy").fingerprint not in (first, renamed)
    shutil.move(image_folder / "cats" / "0.png", image_folder / "dogs" / "moved.png")
    assert opened(image_folder).fingerprint not in (first, renamed)


def test_one_shape_is_kept_in_memory(tmp_path, picture):
    for name in ("a", "b"):
        for i in range(12):
            picture(tmp_path / "same" / name / f"{i}.png", i)
    dataset = opened(tmp_path / "same")
    assert dataset.info.input_shape == (12, 10, 3)
    assert dataset.source("train").arrays["image"].shape[1:] == (12, 10, 3)


def odd_files(folder, picture):
    """Writes odd but usable files (and returns their number), and five that are not usable."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    folder.mkdir(parents=True, exist_ok=True)
    image.convert("L").save(folder / "grey.png")
    image.convert("L").save(folder / "grey.jpg")
    image.convert("1").save(folder / "bilevel.png")
    image.convert("LA").save(folder / "grey_alpha.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("P").save(folder / "palette.png")
    image.quantize(4).save(folder / "palette_transparent.png", transparency=0)
    image.convert("P").save(folder / "animation.gif", save_all=True, append_images=[image.convert("P")])
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    image.save(folder / "web.webp")
    image.save(folder / "bitmap.bmp")
    image.save(folder / "scan.tiff")
    image.save(folder / "wrong_name.png", format="jpeg")
    image.save(folder / "no_extension", format="png")
    image.save(folder / "UPPER.JPG", format="jpeg")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(folder / "rotated.jpg", exif=exif)
    fine = 17

    whole = picture(folder / "truncated.jpg", 1, (120, 100)).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    whole = picture(folder / "truncated.png", 1, (120, 100)).read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image at all")
    (folder / "float.tiff").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tiff")
    (folder / ".DS_Store").write_text("hidden")
    (folder / "Thumbs.db").write_text("hidden")
    return fine


def test_odd_files(image_folder, picture):
    fine = odd_files(image_folder / "cats", picture)
    dataset = opened(image_folder)
    assert sum(dataset.splits.values()) == 40 + fine
    (note,) = dataset.notes
    assert "left out 5 of" in note and "2 truncated or damaged" in note and "1 empty file" in note
    assert "1 not an image (cats/text.jpg)" in note and "unsupported pixel type" in note
    for split in dataset.splits:
        for example in examples(dataset, split).values():
            assert example["image"].dtype == np.uint8 and example["image"].shape[2] == 3


def test_odd_files_are_decoded_as_people_see_them(tmp_path, picture):
    odd_files(tmp_path, picture)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(tmp_path / "rgba.png"), pixels)
    assert np.array_equal(decode_image(tmp_path / "scan.tiff"), pixels)
    assert np.array_equal(decode_image(tmp_path / "sixteen.png"), np.repeat(pixels[..., :1], 3, 2))
    turned = decode_image(tmp_path / "rotated.jpg").astype(int)
    straight = decode_image(tmp_path / "UPPER.JPG").astype(int)
    assert turned.shape == (10, 12, 3) and np.array_equal(turned, np.rot90(straight, -1))
    cmyk = decode_image(tmp_path / "cmyk.jpg")
    assert np.corrcoef(cmyk.ravel(), pixels.ravel())[0, 1] > 0.8  # not inverted
    clear = Image.new("RGBA", (3, 3), (200, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (decode_image((tmp_path / "clear.png").read_bytes()) == 255).all()
    with pytest.raises(BadImage, match="truncated"):
        decode_image(tmp_path / "truncated.jpg")
    with pytest.raises(BadImage, match="cannot be opened"):
        decode_image(tmp_path / "missing.jpg")


def test_verdicts_are_cached_outside_of_the_folder(image_folder, tmp_path, picture, monkeypatch):
    opened(image_folder)
    (kept,) = (tmp_path / "cache" / "folders").glob("*.json")
    assert len(json.loads(kept.read_text())) == 40
    assert not list(image_folder.glob("*.json"))
    decoded = []
    monkeypatch.setattr("cnn.data.folder.inspect", lambda path: decoded.append(path) or (12, 10, "", "0" * 32))
    opened(image_folder)
    assert decoded == []
    picture(image_folder / "cats" / "0.png", 77, (14, 10))
    opened(image_folder)
    assert [os.path.basename(path) for path in decoded] == ["0.png"]
    kept.write_text("{ broken")
    opened(image_folder)
    assert len(decoded) == 41


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_file_that_goes_bad_later_is_named(image_folder, damage):
    source = opened(image_folder, in_memory="no").source("train")
    path = source.describe(3)
    if damage == "delete":
        os.remove(path)
    else:
        os.truncate(path, 20)
    batches = TrainBatches(source, build_transforms((("resize", {"size": 8}),)), len(source), 0)
    with pytest.raises(UserError, match=os.path.basename(path)):
        batches[0]


def test_what_cannot_work_says_why(image_folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UserError, match="data_dir"):
        opened("")
    with pytest.raises(UserError, match="is a file"):
        opened(image_folder / "cats" / "0.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folders"):
        opened(tmp_path / "empty")
    (tmp_path / "empty" / "only").mkdir()
    with pytest.raises(UserError, match="only the class 'only'"):
        opened(tmp_path / "empty")
    (image_folder / "birds").mkdir()
    with pytest.raises(UserError, match="'birds' has no readable image"):
        opened(image_folder)
    (image_folder / "birds" / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="'birds' has no readable image.*not an image"):
        opened(image_folder)


def test_links_in_a_circle_end(image_folder):
    os.symlink(image_folder / "cats", image_folder / "cats" / "loop")
    assert sum(opened(image_folder).splits.values()) == 40


def test_fake_needs_no_folder():
    dataset = opened("", fake=True)
    assert dataset.info.num_classes == 10 and dataset.splits["train"] == 64


NAMES = [
    ("Training", "Testing", None), ("TRAIN", "TEST", "VAL"), ("train_set", "test-set", "Validation Set"),
    ("training", "test", "dev"), ("Train", "testing", "valid"),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_names_of_splits_in_any_case(tmp_path, picture, names):
    """{Training,Testing}/CLASS once gave the classes 'Training' and 'Testing'."""
    for k, split in enumerate(filter(None, names)):
        for name in ("cat", "dog"):
            for i in range(8):
                picture(tmp_path / split / name / f"{i}.png", 100 * k + i)
    dataset = opened(tmp_path)
    assert dataset.info.class_names == ("cat", "dog") and sum(dataset.splits.values()) == 16 * (3 - names.count(None))
    assert dataset.splits["test"] == 16


def test_folders_that_hold_the_same_folders_are_refused(tmp_path, picture):
    for split in ("part1", "part2"):
        for name in ("cat", "dog"):
            picture(tmp_path / split / name / "a.png", 1)
    with pytest.raises(UserError, match=r"'part1' and 'part2' hold the same folders \(cat, dog\).*name them train"):
        opened(tmp_path)
    os.rename(tmp_path / "part1", tmp_path / "Test")
    os.rename(tmp_path / "part2", tmp_path / "Val")
    with pytest.raises(UserError, match="hold the same folders"):
        opened(tmp_path)
    os.rename(tmp_path / "Val", tmp_path / "testing")
    with pytest.raises(UserError, match="both 'Test' and 'testing' are folders of classes for 'test'"):
        opened(tmp_path)


def test_classes_with_a_folder_of_images_each(tmp_path, picture):
    """The layout of Tiny ImageNet: one folder inside of each class is no split."""
    for name in ("n01", "n02"):
        for i in range(6):
            for place in ("flat", os.path.join("split", "train")):
                picture(tmp_path / place / name / "images" / f"{i}.png", i)
    for place in ("flat", "split"):
        assert opened(tmp_path / place).info.class_names == ("n01", "n02")


def test_a_class_that_is_called_like_a_split_is_a_class(tmp_path, picture):
    for name in ("valid", "invalid"):
        for i in range(6):
            picture(tmp_path / name / f"{i}.png", i)
    assert opened(tmp_path).info.class_names == ("invalid", "valid")


def rewritten(path, change):
    """Changes bytes in place: same inode, same size, and the dates that it had."""
    before = os.stat(path)
    content = bytearray(path.read_bytes())
    change(content)
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_files_changed_in_place_with_equal_size_change_the_fingerprint(tmp_path, picture):
    root = tmp_path / "mine"
    for name in ("a", "b"):
        for i in range(6):
            picture(root / name / f"{i}.bmp", i)
    first = opened(root).fingerprint
    assert opened(root).fingerprint == first
    rewritten(root / "a" / "3.bmp", lambda content: content.__setitem__(60, content[60] ^ 1))
    assert opened(root).fingerprint != first
    rewritten(root / "a" / "3.bmp", lambda content: content.__setitem__(60, content[60] ^ 1))
    os.utime(root / "a" / "3.bmp")
    assert opened(root).fingerprint == first, "dates are not content"


def test_names_that_are_not_utf_8(tmp_path, picture):
    for name in (b"br\xe9", b"b"):
        for i in range(6):
            picture(tmp_path / "x.png", i)
            os.makedirs(os.path.join(os.fsencode(tmp_path), b"mine", name), exist_ok=True)
            os.rename(tmp_path / "x.png", os.path.join(os.fsencode(tmp_path), b"mine", name, b"%d\xff.png" % i))
    (tmp_path / "mine" / "b" / "bad\x1b[31m\n.png").write_bytes(b"")
    dataset = opened(tmp_path / "mine")
    assert dataset.info.class_names == ("b", "br\\xe9")
    (note,) = dataset.notes
    assert "b/bad\\x1b[31m\\n.png" in note and note.isprintable()
    for split in filter(dataset.splits.get, dataset.splits):
        assert dataset.source(split)[0]["image"].shape == (12, 10, 3)
    assert len(dataset.fingerprint) == 32
