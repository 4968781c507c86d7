"""What is installed and what is pinned."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

import cnn
from cnn.listing import TABLES, rows_of

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PINS = {
    canonicalize_name(Requirement(line).name): Requirement(line)
    for line in REQUIREMENTS.splitlines()
    if line and not line.startswith("#")
}


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    project = PROJECT["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group if not line.startswith("cnn[")]


def test_the_wheel_holds_only_cnn():
    found = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    assert found, "no package found"
    assert {name.split(".")[0] for name in found} == {"cnn"}
    folders = {file.parent for file in (ROOT / "cnn").rglob("*.py")}
    assert {ROOT.joinpath(*name.split(".")) for name in found} == folders


def test_every_pin_is_exact_and_names_no_host():
    for pin in PINS.values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    assert "://" not in REQUIREMENTS and "--" not in REQUIREMENTS


EXTRAS = ("cpu", "data", "medical", "segmentation", "parquet", "tensorboard", "dev")


@pytest.mark.parametrize("requirement", wanted(EXTRAS), ids=str)
def test_pins_lie_within_the_declared_bounds(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    version = str(pin.specifier).removeprefix("==")
    assert requirement.specifier.contains(version)


ALL = ("cpu", "data", "medical", "segmentation", "parquet", "tensorboard", "dev", "tpu", "gpu", "preflight")


@pytest.mark.parametrize("requirement", wanted(ALL), ids=str)
def test_dependencies_have_lower_and_upper_bounds(requirement):
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {">=", "<"}


def test_no_tensorflow_and_no_torch_among_the_pins():
    allowed = {"tensorflow-datasets", "tensorflow-metadata"}
    assert not [n for n in PINS if n.startswith(("tensorflow", "torch", "keras", "tf-")) and n not in allowed]


def test_all_holds_every_extra_that_needs_no_accelerator():
    extras = PROJECT["project"]["optional-dependencies"]
    (line,) = extras["all"]
    assert Requirement(line).extras == set(extras) - {"all", "tpu", "gpu", "preflight"}


def test_version_is_the_package_s():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cnn.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", cnn.__version__)


def test_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0" in text and "the cnn authors" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_ci_runs_the_tests_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "make test"
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert "run: make test" in workflow and "run: make train" in workflow


@pytest.mark.parametrize("kind", TABLES)
def test_table_targets_are_files_of_the_package(kind):
    """A line of a table whose module is not there would only be seen by whoever asks for it."""
    import importlib

    module, attribute = TABLES[kind].split(":")
    for name, entry in getattr(importlib.import_module(module), attribute).items():
        target = entry.target.split(":")[0].replace(".", "/")
        assert (ROOT / f"{target}.py").is_file() or (ROOT / target).is_dir(), f"{kind} {name}"
        assert entry.about and "\n" not in entry.about, f"{kind} {name}"
    assert rows_of(kind)
