"""The rules of the house: what may import what, how long a file may be, what is never used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "cnn").rglob("*.py"))
EVERYTHING = [
    file for name in ("cnn", "configs", "experiments", "tests") for file in (ROOT / name).rglob("*.py")
]
MAX_LINES, MAX_LOOP_LINES = 400, 250

# From the bottom to the top. A package stands for all that is in it; modules that are not named here
# (metrics, checkpoint, ...) may stand anywhere, so what they import in turn is followed.
RANKS = {
    "cnn.errors": 0, "cnn.tables": 0, "cnn.shapes": 0, "cnn.paths": 0,
    "cnn.draws": 0, "cnn.features": 0, "cnn.pixels": 0,
    "cnn.ops": 1, "cnn.native": 1,
    "cnn.layers": 2,
    "cnn.models": 3,
    "cnn.tasks": 4,
    "cnn.step": 5,
    "cnn.train": 6, "cnn.evaluate": 6, "cnn.predict": 6, "cnn.data.tools.verbs": 6, "cnn.doctor": 6,
    "cnn.listing": 6, "cnn.report": 6, "cnn.inspect": 6, "cnn.preflight": 6, "cnn.inference": 6,
    "configs": 7,
    "experiments": 8,
}  # fmt: skip
# Whatever these packages reach, it is none of those.
STRANGERS = {
    "cnn.data": ("cnn.models", "cnn.tasks", "cnn.layers", "cnn.step"),
    "cnn.transforms": ("cnn.models", "cnn.tasks", "cnn.layers", "cnn.step", "cnn.data", "cnn.files", "cnn.config"),
    "cnn.files": ("cnn.models", "cnn.tasks", "cnn.layers", "cnn.step", "cnn.data", "cnn.transforms", "cnn.config"),
    "cnn.inference.preprocess": ("cnn.models", "cnn.tasks", "cnn.layers", "cnn.step", "cnn.data"),
    "cnn.layers": ("cnn.data", "cnn.transforms", "cnn.config"),
    "cnn.models": ("cnn.data", "cnn.transforms", "cnn.config"),
    "cnn.convert.tables": ("cnn.models", "cnn.layers", "cnn.data", "cnn.config"),
    "cnn.ops": ("cnn.data", "cnn.transforms", "cnn.config", "cnn.models"),
}
NO_JAX = (
    "cnn", "cnn.cli", "cnn.errors", "cnn.tables", "cnn.config", "cnn.paths", "cnn.models", "cnn.tasks",
    "cnn.data", "cnn.transforms", "cnn.transforms.apply", "cnn.listing", "cnn.doctor", "cnn.report", "cnn.html",
    "cnn.convert", "cnn.convert.verb", "cnn.convert.rules", "cnn.convert.files", "cnn.convert.pretrained",
    "cnn.native.build", "cnn.native.onednn", "cnn.inference.preprocess", "cnn.inference.inputs",
)  # fmt: skip
REFERENCES = ("experiments.parity", "experiments.benchmarks")  # run other frameworks on purpose, to compare
BANNED_MODULES = ("tensorflow", "torch", "pickle", "dill", "cloudpickle", "clu")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in EVERYTHING}


def imports_of(name: str, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports; `from a import b` gives a.b when that is one of our modules."""
    tree, found = TREES[name], set()
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in TREES else node.module)
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name in TREES}


def in_package(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rank_of(name: str) -> int | None:
    """The rank of the longest entry of RANKS that `name` falls under."""
    found = [entry for entry in RANKS if in_package(name, entry)]
    return RANKS[max(found, key=len)] if found else None


def reached(name: str) -> dict[str, str]:
    """Every module of ours that `name` imports, directly or not: {module: who imports it}."""
    found, waiting = {}, [name]
    while waiting:
        current = waiting.pop()
        for target in ours(imports_of(current)) - found.keys() - {name}:
            found[target] = current
            waiting.append(target)
    return found


def test_imports_go_downhill():
    wrong = []
    for name in TREES:
        rank = rank_of(name)
        if rank is None or name.startswith("tests"):
            continue
        for target, via in reached(name).items():
            other = rank_of(target)
            if other is not None and other > rank:
                wrong.append(f"{name} reaches {target} through {via}")
    assert not wrong, "\n".join(wrong)


def test_packages_do_not_know_each_other():
    wrong = [
        f"{name} reaches {target} through {via}"
        for package, strangers in STRANGERS.items()
        for name in TREES
        if in_package(name, package)
        for target, via in reached(name).items()
        if any(in_package(target, stranger) for stranger in strangers)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_cycle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in ours(imports_of(name, top_level_only=True)):
                visit(target, (*path, name))
            done.add(name)

    for name in TREES:
        visit(name, ())


def test_nothing_imports_experiments_or_tests():
    wrong = [
        f"{name} imports {target}"
        for name in TREES
        if in_package(name, "cnn") or in_package(name, "configs")
        for target in imports_of(name)
        if target.split(".")[0] in ("experiments", "tests")
    ]
    assert not wrong, "\n".join(wrong)


def test_flax_stays_in_layers_and_models():
    wrong = []
    for name in TREES:
        if not in_package(name, "cnn") or in_package(name, "cnn.layers") or in_package(name, "cnn.models"):
            continue
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Import):
                wrong += [f"{name}: {a.name}" for a in node.names if in_package(a.name, "flax")]
            elif isinstance(node, ast.ImportFrom) and in_package(node.module or "", "flax"):
                imported = {alias.name for alias in node.names}
                if not (name == "cnn.state" and node.module == "flax" and imported == {"struct"}):
                    wrong.append(f"{name}: {node.module} {imported}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("banned", BANNED_MODULES)
def test_banned_modules_are_not_imported(banned):
    users = [
        name
        for name in TREES
        if not (name.startswith("tests") or any(in_package(name, folder) for folder in REFERENCES))
        and any(in_package(target, banned) for target in imports_of(name))
    ]
    assert not users


def test_no_pmap_and_no_axis_name():
    wrong = []
    for name in TREES:
        if not in_package(name, "cnn"):
            continue
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute | ast.Name | ast.alias):
                word = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", "")
                if word in ("pmap", "pjit", "pmean"):
                    wrong.append(f"{name}:{node.lineno}: {word}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_too_long():
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in EVERYTHING}
    wrong = [f"{f.relative_to(ROOT)}: {n}" for f, n in lengths.items() if n > MAX_LINES]
    assert not wrong, "\n".join(wrong)
    assert lengths.get(ROOT / "cnn" / "train.py", 0) <= MAX_LOOP_LINES


def test_modules_are_named_for_what_they_do():
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [file for file in EVERYTHING if file.stem in vague or file.parent.name in vague]


def test_every_folder_is_a_package():
    folders = {file.parent for file in SOURCES}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_ALL_WITHOUT = """
import importlib, importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name + " is blocked", name=name)

sys.meta_path.insert(0, Block())
for name in {modules!r}:
    importlib.import_module(name)
print(sorted(name for name in sys.modules if "." not in name))
"""


def test_everything_imports_without_tensorflow_and_without_extras():
    blocked = ("tensorflow", "sklearn", "mnist1d", "tensorboardX", "nibabel", "pydicom")
    modules = [name for name in TREES if in_package(name, "cnn") and name != "cnn.__main__"]
    run_python(IMPORT_ALL_WITHOUT.format(blocked=blocked, modules=modules))


@pytest.mark.parametrize("name", NO_JAX)
def test_light_modules_import_no_jax(name):
    if name not in TREES:
        pytest.fail(f"{name} is gone: mend NO_JAX")
    run_python(IMPORT_ALL_WITHOUT.format(blocked=("jax", "jaxlib", "flax", "matplotlib"), modules=[name]))


@pytest.mark.parametrize(
    ("module", "blocked"),
    [("cnn.predict", ("optax", "cnn.optim", "cnn.plan")), ("cnn.inference.preprocess", ("jax", "jaxlib", "flax"))],
)
def test_what_using_a_network_does_not_import(module, blocked):
    found = run_python(f"import sys, {module}; print(sorted(set({blocked!r}) & set(sys.modules)))")
    assert found.strip() == "[]"
