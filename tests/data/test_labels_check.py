"""Targets that cannot be are refused before the first step, for every task; what can be meant is mapped, and said."""

import numpy as np
import pytest
from PIL import Image

from cnn.cli import main
from cnn.data import DATASETS, Dataset, Provider, open_dataset
from cnn.data.labels_check import check_example, check_targets
from cnn.data.masks import white_is_1
from cnn.data.sources import ArraySource, RecordSource, SplitSource
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.tables import Entry
from tests.support import volumes

RNG = np.random.default_rng(0)
SERIES = {"series": Feature.series(8, 1)}
INFOS = {
    "classification": DatasetInfo("mine", SERIES, {"label": LABEL}, ("a", "b")),
    "sequence_labelling": DatasetInfo("mine", SERIES, {"labels": Feature.labels(8)}, ("a", "b")),
    "segmentation": DatasetInfo("mine", {"image": Feature.image(8, 8, 1)}, {"mask": Feature.mask(8, 8)}, ("a", "b")),
    "regression": DatasetInfo("mine", SERIES, {"target": Feature.numbers(1)}, ()),
}
SHAPES = {"label": (), "labels": (8,), "mask": (8, 8), "target": (1,)}


def arrays(task, n=12):
    """Examples that can be learned from."""
    info = INFOS[task]
    shape = (n, *info.input_shape)
    x = RNG.integers(0, 256, shape).astype(np.uint8) if info.input_key == "image" else RNG.normal(size=shape)
    key = info.target_key
    feature = info.targets[key]
    y = RNG.integers(0, 2, (n, *SHAPES[key])).astype(feature.dtype)
    return {info.input_key: x.astype(info.inputs[info.input_key].dtype), key: y}


def spoilt(task, what):
    """The same, and what the message must hold."""
    found = arrays(task)
    key = INFOS[task].target_key
    if what == "white":
        found[key] *= 255
        return found, "nothing but 0 and 255"
    value = np.nan if task == "regression" else {"above": 7, "below": -1}[what]
    found[key][(5,) + (0,) * len(SHAPES[key])] = value
    return found, "example 5 of"


CASES = [
    ("classification", "above"), ("classification", "below"), ("sequence_labelling", "above"),
    ("sequence_labelling", "below"), ("segmentation", "above"), ("segmentation", "white"), ("regression", "nan"),
]  # fmt: skip


class Stub(Provider):
    """A data set made of arrays, the same in both splits."""

    def __init__(self, task, made):
        self.info, self.splits, self.made = INFOS[task], ("train", "test"), made

    def sizes(self):
        return {split: 12 for split in self.splits}

    def arrays(self, split):
        return self.made

    def source(self, split):
        return ArraySource(self.made, f"mine '{split}'")


@pytest.mark.parametrize(("task", "what"), CASES)
@pytest.mark.parametrize("way", ["yes", "no"])
def test_a_split_is_refused_when_it_is_opened(task, what, way):
    made, said = spoilt(task, what)
    provider = Stub(task, made)
    dataset = Dataset(provider.info, provider.sizes(), (), provider, False, way, 0)
    for split in ("train", "test", "train[:80%]+test"):
        with pytest.raises(UserError, match=said):
            dataset.source(split)
    assert len(dataset.source("train", checked=False)) == 12
    good = Stub(task, arrays(task))
    Dataset(good.info, good.sizes(), (), good, False, way, 0).source("train+test")


@pytest.mark.parametrize(("task", "what"), [case for case in CASES if case[1] != "white" and case[0] != "regression"])
def test_records_are_refused_one_by_one(task, what):
    made, _ = spoilt(task, what)

    class Records(list):
        def __getitems__(self, rows):
            return [self[i] for i in rows]

    rows = Records({key: value[i] for key, value in made.items()} for i in range(12))
    provider = Stub(task, made)
    provider.source = lambda split: RecordSource(rows, provider.info, f"mine '{split}'")
    source = Dataset(provider.info, provider.sizes(), (), provider, False, "no", 0).source("train")
    assert isinstance(source, SplitSource) and source[4].keys() == made.keys() and len(source.get([0, 1])) == 2
    for read in (lambda: source[5], lambda: source.get([4, 5])):
        with pytest.raises(UserError, match=r"record 5 of mine 'train': (label|labels|mask) .*there are 2 classes"):
            read()


def test_what_can_be_is_left_alone():
    info = INFOS["segmentation"]
    made = arrays("segmentation")
    made["mask"][0] = 255
    check_targets(ArraySource(made), info, "train")
    check_example({key: value[0] for key, value in made.items()}, info, "here")


@pytest.mark.parametrize(("task", "what"), CASES)
def test_training_ends_before_the_first_step(task, what, tmp_path, monkeypatch, capsys):
    made, said = spoilt(task, what)
    monkeypatch.setitem(DATASETS, "mine", Entry(f"{__name__}:made_up", "for this test"))
    monkeypatch.setattr(f"{__name__}.MADE", Stub(task, made), raising=False)
    model = {"segmentation": "unet", "sequence_labelling": "tcn"}.get(task, "mlp")
    (tmp_path / "c.py").write_text(
        "from cnn.config import default\n\ndef get_config(arg=''):\n    c = default()\n"
        f"    c.input.dataset, c.task.name, c.model.name = 'mine', '{task}', '{model}'\n"
        "    c.total_steps, c.input.batch_size, c.eval.split = 2, 4, 'test'\n    return c\n"
    )
    assert main(["train", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "step" not in captured.out and not (tmp_path / "run" / "checkpoints").exists()


def made_up(data_dir=""):
    return MADE  # noqa: F821


def test_white_masks_are_mapped_or_refused():
    a, b, c, white = {0, 1}, {0, 1, 2}, {0, 1, 255}, {0, 255}
    assert white_is_1("x", {"1": a, "2": b, "3": c}, None) == (False, "")
    assert white_is_1("x", {"1": white, "2": {255}, "3": {0}}, None)[0]
    mapped, said = white_is_1("x", {**{str(i): white for i in range(19)}, "odd": a}, None)
    assert mapped and said == "x: 19 masks hold 0 and 255, 1 hold 0 and 1: both 1 and 255 are read as class 1"
    mapped, said = white_is_1("x", {"1": c, "2": c, "3": white}, None)
    assert not mapped and "in 1 masks with nothing but 0 and 255 (such as 3) 255 is read as no class" in said
    for found, named in (({"1": white, "2": white, "3": c}, None), ({"1": white, "2": white, "3": b}, 3)):
        with pytest.raises(UserError, match="2 masks hold nothing but 0 and 255 .such as 1., others class ids .3"):
            white_is_1("x", found, named)
    with pytest.raises(UserError, match="but 3 classes are named"):
        white_is_1("x", {"1": white}, 3)


def opened(name, root):
    from cnn import config

    c = config.default().input
    c.dataset, c.data_dir, c.in_memory = name, str(root), "no"
    return open_dataset(c)


def black_and_white_volumes(root, odd=()):
    volumes.folder(root, count=5)
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace(', "2": "tumour"', ""))
    for i in range(5):
        mask = (volumes.blob(i, (20, 18, 12))[1] > 0).astype(np.uint8)
        volumes.save(root / "labelsTr" / f"case_{i}.nii.gz", mask * (1 if i in odd else 255), (1.0, 1.0, 2.5))
    return root


@pytest.mark.parametrize("odd", [(), (3,)])
def test_volumes_with_masks_of_0_and_255(tmp_path, odd):
    dataset = opened("volumes_folder", black_and_white_volumes(tmp_path / "mine", odd))
    (note,) = dataset.notes
    assert "class 1" in note and ("1 hold 0 and 1" in note) == bool(odd)
    for split in ("train", "validation", "test"):
        source = dataset.source(split)
        for i in range(len(source)):
            number = int(source.describe(i)[-8])
            wanted = volumes.blob(number, (20, 18, 12))[1].transpose(2, 1, 0) > 0
            assert np.array_equal(source[i]["mask"], wanted)


def test_volumes_with_masks_of_0_and_255_and_three_classes_are_refused(tmp_path):
    root = volumes.folder(tmp_path / "mine", count=4)
    for i in range(4):
        mask = (volumes.blob(i, (20, 18, 12))[1] > 0).astype(np.uint8) * 255
        volumes.save(root / "labelsTr" / f"case_{i}.nii.gz", mask, (1.0, 1.0, 2.5))
    with pytest.raises(UserError, match="but 3 classes are named"):
        opened("volumes_folder", root)


def test_one_mask_of_0_and_1_among_black_and_white_ones(tmp_path, picture):
    for i in range(20):
        picture(tmp_path / "images" / f"{i:02d}.jpg", i, (16, 12))
        mask = np.random.default_rng(i).integers(0, 2, (16, 12), dtype=np.uint8)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask * (1 if i == 7 else 255)).save(tmp_path / "masks" / f"{i:02d}.png")
    dataset = opened("masks_folder", tmp_path)
    assert "19 masks hold 0 and 255, 1 hold 0 and 1: both 1 and 255 are read as class 1" in dataset.notes[0]
    for split in filter(dataset.splits.get, dataset.splits):
        source = dataset.source(split)
        for i in range(len(source)):
            number = int(source.describe(i)[-6:-4])
            assert np.array_equal(source[i]["mask"], np.random.default_rng(number).integers(0, 2, (16, 12), np.uint8))


def test_palettes_of_another_order_in_a_folder(tmp_path, picture):
    from tests.files.test_masks import BLACK, GREEN, RED, with_palette

    (tmp_path / "masks").mkdir()
    for i in range(12):
        picture(tmp_path / "images" / f"{i:02d}.jpg", i, (7, 5))
        ids = np.random.default_rng(i).integers(0, 3, (7, 5), dtype=np.uint8)
        content = with_palette(ids, BLACK, RED, GREEN)
        if i in (2, 9):
            content = with_palette(np.array([1, 2, 0], np.uint8)[ids], GREEN, BLACK, RED)
        (tmp_path / "masks" / f"{i:02d}.png").write_bytes(content)
    dataset = opened("masks_folder", tmp_path)
    (note,) = dataset.notes
    assert "2 masks have a palette of another order, colours decide (masks/02.png, masks/09.png)" in note
    for split in filter(dataset.splits.get, dataset.splits):
        source = dataset.source(split)
        for i in range(len(source)):
            number = int(source.describe(i)[-6:-4])
            wanted = np.random.default_rng(number).integers(0, 3, (7, 5), np.uint8)
            assert np.array_equal(source[i]["mask"], wanted)
    for i in range(8):
        ids = np.random.default_rng(i).integers(0, 3, (7, 5), dtype=np.uint8)
        (tmp_path / "masks" / f"{i:02d}.png").write_bytes(with_palette(ids, BLACK, GREEN, RED))
    with pytest.raises(UserError, match="palettes of masks disagree on the order of their colours: the colour #"):
        opened("masks_folder", tmp_path)
