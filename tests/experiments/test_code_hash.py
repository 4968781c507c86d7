"""What a study's code hash sees: what changes numbers, wherever it stands; and nothing else."""

import re
import shutil

import pytest

from cnn.data import DATASETS
from cnn.models import MODELS
from cnn.tasks import TASKS
from cnn.transforms import TRANSFORMS
from experiments.code_hash import Code
from experiments.study import ROOT

FILES = {
    "cnn/models/net.py": '''"""A network."""
import jax.numpy as jnp
from functools import partial
from cnn.layers.conv import Conv
from cnn.models.parts import Block, WIDTH
from cnn.models import other

class Net(Block):
    """Its stages."""
    width: int = WIDTH

    def __call__(self, x: "b c", *, train: bool) -> dict:
        if self.width < 1:
            raise ValueError(f"width is {self.width}")
        return {"logits": jnp.tanh(Conv(other.doubled(self.width))(x))}

net = partial(Net, width=3)
unused = partial(Net, width=5)
''',
    "cnn/models/parts.py": "WIDTH = 8\nALONE = 1\n\nclass Block:\n    depth = 2\n",
    "cnn/models/other.py": "def doubled(n):\n    return FACTOR * n\n\nFACTOR = 2\n\ndef unused(n):\n    return n\n",
    "cnn/data/datasets/toy.py": "def toy(data_dir):\n    return open_provider('base'), SEED\n\nSEED = 1\n",
    "cnn/data/datasets/base.py": "def base(data_dir):\n    return 'numbers'\n",
    "cnn/transforms/flips.py": (
        "from cnn.transforms.moves import mirrored\n\nclass Flip:\n    p: float = 0.5\n\n"
        "    def __call__(self, example, draws):\n        return mirrored(example)\n\nclass Turn:\n    k: int = 1\n"
    ),
    "cnn/transforms/moves.py": "def mirrored(x):\n    return x[::-1]\n",
    "cnn/tasks/base.py": (
        "class Task:\n    def augment(self, batch, rng):\n        return batch\n\n"
        "    def inputs(self, batch):\n        return batch['image']\n"
    ),
    "cnn/tasks/losses.py": "def smooth(t, s):\n    return (1 - s) * t + s / K\n\nK = 10\n",
    "cnn/tasks/sorting/task.py": '''"""Sorting."""
import dataclasses
from typing import ClassVar
from cnn.tasks import losses
from cnn.tasks.base import Task

@dataclasses.dataclass(frozen=True)
class Sorting(Task):
    smoothing: float
    gamma: float = 2.0
    proportions: ClassVar[tuple] = ("accuracy",)

    def inputs(self, batch):
        return super().inputs(batch) / 255

    def losses(self, out, batch):
        return {"loss": self._loss(out, batch)}

    def _loss(self, out, batch):
        return losses.smooth(out, self.smoothing)

    def describe(self, row):
        return {"class": row}


def sorting(smoothing=0.1):
    """Builds it."""
    return Sorting(check(smoothing))


def check(value):
    return max(value, 0)
''',
}
TABLES = {"toy": "cnn.data.datasets.toy:toy", "base": "cnn.data.datasets.base:base"}
TARGETS = ["cnn.models.net:net", TABLES["toy"], "cnn.transforms.flips:Flip"]
TASK = "cnn.tasks.sorting.task:sorting"


def texts(folder, files=FILES, targets=TARGETS, task=TASK, tables=TABLES):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Code(folder, tables).texts(targets, [task])


def edited(name, old, new):
    assert old in FILES[name], f"{old} is not in {name}"
    return FILES | {name: FILES[name].replace(old, new)}


SAME = {
    "comment": ("cnn/models/net.py", "return {", "# why\n        return {"),
    "docstring": ("cnn/models/net.py", "Its stages.", "Its five stages."),
    "annotation": ("cnn/models/net.py", ' -> dict', ""),
    "field's type": ("cnn/models/net.py", "width: int =", "width: float ="),
    "error message": ("cnn/models/net.py", 'f"width is {self.width}"', '"too narrow"'),
    "alias of an import": ("cnn/models/net.py", "jnp", "np"),
    "form of an import": ("cnn/models/net.py", "from cnn.models.parts import Block, WIDTH",
                          "from cnn.models.parts import WIDTH\nfrom cnn.models.parts import Block"),
    "place of a layer": ("cnn/models/net.py", "cnn.layers.conv", "cnn.layers.convolution"),
    "another variant": ("cnn/models/net.py", "width=5", "width=6"),
    "another constant": ("cnn/models/parts.py", "ALONE = 1", "ALONE = 2"),
    "another function": ("cnn/models/other.py", "    return n\n", "    return -n\n"),
    "another transform": ("cnn/transforms/flips.py", "k: int = 1", "k: int = 2"),
    "the task on the host": ("cnn/tasks/sorting/task.py", '{"class": row}', '{"klass": row}'),
    "the task's proportions": ("cnn/tasks/sorting/task.py", '("accuracy",)', '("accuracy", "top5")'),
    "the builder's docstring": ("cnn/tasks/sorting/task.py", '"""Builds it."""', '"""Makes it."""'),
}  # fmt: skip
OTHER = {
    "the variant": ("cnn/models/net.py", "width=3", "width=4"),
    "a default": ("cnn/models/net.py", "= WIDTH", "= WIDTH + 1"),
    "a condition": ("cnn/models/net.py", "self.width < 1", "self.width < 2"),
    "an operation": ("cnn/models/net.py", "jnp.tanh", "jnp.sin"),
    "another library": ("cnn/models/net.py", "jax.numpy as jnp", "numpy as jnp"),
    "an imported constant": ("cnn/models/parts.py", "WIDTH = 8", "WIDTH = 9"),
    "the base class": ("cnn/models/parts.py", "depth = 2", "depth = 3"),
    "a function by its module": ("cnn/models/other.py", "FACTOR * n", "n"),
    "what that one uses": ("cnn/models/other.py", "FACTOR = 2", "FACTOR = 3"),
    "the data set": ("cnn/data/datasets/toy.py", "SEED = 1", "SEED = 2"),
    "a data set by its name": ("cnn/data/datasets/base.py", "'numbers'", "'other numbers'"),
    "the transform": ("cnn/transforms/flips.py", "p: float = 0.5", "p: float = 0.4"),
    "a transform's helper": ("cnn/transforms/moves.py", "x[::-1]", "x"),
    "a loss": ("cnn/tasks/losses.py", "(1 - s) * t", "t"),
    "what a loss uses": ("cnn/tasks/losses.py", "K = 10", "K = 9"),
    "a method that a loss calls": ("cnn/tasks/sorting/task.py", "self.smoothing)", "2 * self.smoothing)"),
    "the inputs": ("cnn/tasks/sorting/task.py", "/ 255", "/ 256"),
    "the inputs of the base class": ("cnn/tasks/base.py", "batch['image']", "batch['picture']"),
    "an inherited method": ("cnn/tasks/base.py", "        return batch\n", "        return rng\n"),
    "an option's default": ("cnn/tasks/sorting/task.py", "smoothing=0.1", "smoothing=0.2"),
    "a field's default": ("cnn/tasks/sorting/task.py", "gamma: float = 2.0", "gamma: float = 3.0"),
    "what the builder calls": ("cnn/tasks/sorting/task.py", "max(value, 0)", "min(value, 1)"),
}


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_number_changes_no_hash(tmp_path, change):
    assert texts(tmp_path / "a") == texts(tmp_path / "b", edited(*SAME[change]))


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_a_number_changes_the_hash(tmp_path, change):
    assert texts(tmp_path / "a") != texts(tmp_path / "b", edited(*OTHER[change]))


MOVES = {  # a module -> its new name, in all files
    "cnn.models.net": "cnn.models.pictures.network",
    "cnn.models.parts": "cnn.models.blocks",
    "cnn.models.other": "cnn.models.pictures.sizes",
    "cnn.data.datasets.toy": "cnn.data.datasets.games.toys",
    "cnn.transforms.moves": "cnn.transforms.geometry",
    "cnn.tasks.sorting.task": "cnn.tasks.ordering.task",
    "cnn.tasks.losses": "cnn.tasks.shared.terms",
}


def renamed(text):
    for old, new in MOVES.items():
        text = text.replace(old.replace(".", "/") + ".py", new.replace(".", "/") + ".py").replace(f"{old}:", f"{new}:")
        (package, module), (above, last) = old.rsplit(".", 1), new.rsplit(".", 1)
        text = text.replace(f"from {package} import {module}\n", f"from {above} import {last}\n")
        text = re.sub(rf"from {re.escape(old)} import", f"from {new} import", text)
        if module in ("other", "losses"):  # called by their modules' names
            text = re.sub(rf"\b{module}\.(\w+\()", rf"{last}.\1", text)
    return text


def test_moved_and_renamed_modules_hash_alike(tmp_path):
    moved = {renamed(name): renamed(text) for name, text in FILES.items()}
    assert moved.keys().isdisjoint(["cnn/models/net.py", "cnn/tasks/losses.py"])
    tables = {name: renamed(target) for name, target in TABLES.items()}
    given = [renamed(target) for target in TARGETS]
    assert texts(tmp_path / "a") == texts(tmp_path / "b", moved, given, renamed(TASK), tables)


def test_this_checkout_moved_hashes_alike(tmp_path):
    """A model that is built on another one's module, and the shared losses under another name."""
    for package in ("cnn/models", "cnn/tasks", "cnn/data/datasets"):
        shutil.copytree(ROOT / package, tmp_path / package)
    moves = {"models/resnet": "models/pictures/residual", "models/backbone": "models/contracts",
             "tasks/classification/mixing": "tasks/mixing"}  # fmt: skip
    for old, new in moves.items():
        (tmp_path / "cnn" / new).parent.mkdir(exist_ok=True)
        (tmp_path / "cnn" / f"{old}.py").rename(tmp_path / "cnn" / f"{new}.py")
    for file in (tmp_path / "cnn").rglob("*.py"):
        text = file.read_text().replace("from cnn.models.backbone import", "from cnn.models.contracts import")
        text = text.replace("from cnn.models.resnet import", "from cnn.models.pictures.residual import")
        imported = re.search(r"from cnn\.tasks\.classification import (.*)", text)
        if imported and "mixing" in imported[1]:
            others = ", ".join(name for name in imported[1].split(", ") if name != "mixing")
            both = f"from cnn.tasks import mixing\nfrom cnn.tasks.classification import {others}"
            text = text.replace(imported[0], both)
        file.write_text(text)
    task, data = TASKS["classification"].target, DATASETS["digits"].target
    here = Code(ROOT, {}).texts([MODELS["resnet_small"].target, data], [task])
    there = Code(tmp_path, {}).texts(["cnn.models.pictures.residual:resnet_small", data], [task])
    assert here == there and len(here) > 20


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_seen(name):
    found = Code(ROOT, {}).texts([], [TASKS[name].target])
    for method in ("inputs", "loss"):
        assert any(text.startswith(f"FunctionDef(name='{method}") for text in found), method
    assert not any("name='describe'" in text or "name='baselines'" in text for text in found)


def test_every_entry_of_the_tables_is_found():
    for table in (MODELS, DATASETS, TRANSFORMS):
        for name, entry in table.items():
            if entry.target.partition(":")[0].startswith(("cnn.models.", "cnn.data.datasets.", "cnn.transforms.")):
                assert Code(ROOT, {}).texts([entry.target]), name


def test_a_network_that_is_named_in_another_one_is_followed(tmp_path):
    files = {"cnn/models/head.py": "def head(backbone='small'):\n    return backbone\n",
             "cnn/models/small.py": "small = 1\n"}  # fmt: skip
    found = texts(tmp_path, files, ["cnn.models.head:head"], "", {"small": "cnn.models.small:small"})
    assert len(found) == 2
