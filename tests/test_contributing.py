"""The example of CONTRIBUTING.md is what it says: one file and one line, and every sweep covers it."""

import functools
import importlib
import re

import pytest

from cnn import models
from cnn.models import facts
from tests.conftest import ROOT
from tests.models import test_models as sweep

CLASSES, INPUT = 10, (32, 32, 3)
NEW = ("cnn/models/nin.py",)  # the example
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SWEPT = (
    sweep.test_contract_of_the_family,
    sweep.test_remat_drop_path_and_group_norm_are_taken,
    sweep.test_numbers,
    sweep.test_dilation_keeps_resolution_and_parameters,
)


@pytest.fixture
def nin(tmp_path, monkeypatch):
    """The module, with its line in MODELS."""
    code = TEXT.split("```python\n")[1].split("```")[0]
    (tmp_path / "example_nin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = re.findall(r'\*\*family\("nin", "(.*)", classes=10, nin=32\),', TEXT)
    entry = models.ModelEntry("example_nin:nin", line, INPUT, CLASSES)
    monkeypatch.setitem(models.MODELS, "nin", entry)
    return importlib.import_module("example_nin")


def test_the_example_counts_as_the_paper_s_network(nin):
    found, out, variables = facts.measure("nin")
    assert found.params == 966_986  # of Caffe's model of it for CIFAR-10
    assert found.strides == (1, 2, 4) and found.channels == (96, 192, 192)
    sweep.check_contract(models.build_model("nin", {"num_classes": CLASSES}), INPUT, out, variables, 1, CLASSES)


@pytest.mark.parametrize("check", SWEPT, ids=lambda check: check.__name__)
def test_the_sweeps_hold_for_the_example(nin, check):
    check(functools.partial(nin.NiN, **nin.NiN.TINY), size=nin.NiN.TINY_INPUT)


def test_the_map_names_what_is_there():
    """Every path in the text exists; '<...>' stands for any name, and a bare file name is one yet to be made."""
    missing = []
    for name in re.findall(r"`((?:cnn|configs|experiments|tests)/[^`\s]*)`", TEXT):
        pattern = re.sub(r"<\w+>", "*", name.rstrip("/"))
        if not any(ROOT.glob(pattern)) and name not in NEW:
            missing.append(name)
    assert not missing
