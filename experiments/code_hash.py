"""The code that a row's numbers depend on, as a set of texts that moving or renaming a module leaves as it is.

From a model, a data set, the transforms and what a task does on the device, references are followed through the
packages HASHED, definition by definition: functions, classes and constants at the top of a module. Each becomes its
syntax tree without what changes no number: comments, docstrings, annotations, import statements, the message of a
`raise`. Names of modules are resolved, and left out where they are ours. Files are read and never run.

What HASHED does not hold (the trainer, optimizers, layers, the order of the data) counts by
`experiments.study.TRAINER`.
"""

import ast
import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

OURS = ("cnn", "experiments", "configs")
HASHED = (
    "cnn.models.", "cnn.data.datasets.", "cnn.tasks.", "cnn.transforms.", "cnn.pixels", "cnn.files.", "experiments.",
)  # fmt: skip
DEVICE = ("inputs", "augment", "losses", "loss_weights")  # methods of a task that decide what is learned

_PARSING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed file.

    Attributes:
      definitions: {name: statements at the top of the file that define or change it}.
      imports: {local name: dotted name}, of the whole file.
    """

    definitions: Mapping[str, tuple[ast.stmt, ...]]
    imports: Mapping[str, str]


@functools.cache
def _module(path: Path, changed: int) -> Module:
    """One file at a time: in Python 3.11, `ast.parse` in two threads at once can fail."""
    with _PARSING:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions: dict[str, tuple[ast.stmt, ...]] = {}
    for statement in _top(tree.body):
        for name in _defined(statement):
            definitions[name] = (*definitions.get(name, ()), statement)
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            # `import a.b` binds a.
            imports |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                        for a in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return Module(definitions, imports)


def _top(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those below `if` and `try` too."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            handlers = [line for handler in getattr(statement, "handlers", ()) for line in handler.body]
            yield from _top([*statement.body, *statement.orelse, *handlers])
        else:
            yield statement


def _defined(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines, or whose value it changes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        targets: list[ast.AST] = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]  # TABLE.update(...)
    else:
        return []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


class Code:
    """The sources of a checkout.

    Args:
      root: the folder that holds the packages.
      tables: {name of a model or data set: 'package.module:attribute'}; a string in a hashed definition that is such
        a name is followed, as where a head takes its backbone by name.
    """

    def __init__(self, root: Path, tables: Mapping[str, str]):
        self.root, self.tables = root, tables

    def texts(self, targets: Iterable[str], tasks: Iterable[str] = ()) -> list[str]:
        """The texts of all definitions that are reached, sorted.

        Args:
          targets: 'package.module:attribute' of models, data sets and transforms, followed whole.
          tasks: the same of tasks: how one is made, its methods DEVICE, and what these use.
        """
        found: set[str] = set()
        waiting: list[tuple[str, str]] = [self._place(target) for target in targets]
        for target in tasks:
            found |= self._task(target, waiting)
        done: set[tuple[str, str]] = set()
        while waiting:
            place = waiting.pop()
            if place not in done:
                done.add(place)
                module, name = place
                found |= {self._text(module, node, waiting) for node in self._statements(module, name)}
        return sorted(found)

    def _place(self, target: str) -> tuple[str, str]:
        module, _, name = target.partition(":")
        return module, name

    def _load(self, module: str) -> Module | None:
        path = self.root.joinpath(*module.split(".")).with_suffix(".py")
        if not module.startswith(HASHED) or not path.is_file():
            return None
        return _module(path, path.stat().st_mtime_ns)

    def _statements(self, module: str, name: str) -> tuple[ast.stmt, ...]:
        """What defines a name, or all of a module for '' and for a name that no statement defines."""
        loaded = self._load(module)
        if loaded is None:
            return ()
        every = {id(node): node for nodes in loaded.definitions.values() for node in nodes}
        return loaded.definitions.get(name) or tuple(every.values())

    def _follow(self, dotted: str, waiting: list[tuple[str, str]]) -> str:
        """Notes what a dotted name refers to; its text: the last part for what is ours, else the whole."""
        if dotted.partition(".")[0] not in OURS:
            return dotted
        module, _, name = dotted.rpartition(".")
        if self._load(dotted) is not None:
            waiting.append((dotted, ""))  # a module as a value: all of it may be used
            return "module"
        if self._load(module) is not None:
            waiting.append((module, name))
        return name

    def _text(self, module: str, node: Any, waiting: list[tuple[str, str]]) -> str:
        """A tree as text that is the same for every version of Python; puts what it refers to into `waiting`."""
        loaded = self._load(module)

        def dotted(node: Any) -> str:
            """'a.b.c' of names and attributes whose first is an import; '' of everything else."""
            if isinstance(node, ast.Name):
                return loaded.imports.get(node.id, "")
            above = dotted(node.value) if isinstance(node, ast.Attribute) else ""
            inside = above and (above.partition(".")[0] not in OURS or self._is_package(above))
            return f"{above}.{node.attr}" if inside else ""

        def text(node: Any) -> str:
            if isinstance(node, list):
                return f"[{','.join(filter(None, map(text, node)))}]"
            if not isinstance(node, ast.AST):
                return repr(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                return ""
            if isinstance(node, ast.Raise):
                return "Raise()"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in self.tables:
                waiting.append(self._place(self.tables[node.value]))
            if isinstance(node, ast.Name | ast.Attribute) and dotted(node):
                return f"Name({self._follow(dotted(node), waiting)})"
            if isinstance(node, ast.Name) and node.id in loaded.definitions:
                waiting.append((module, node.id))
            fields = [(key, value) for key, value in ast.iter_fields(node)
                      if value not in (None, []) and key not in ("annotation", "returns", "type_comment", "simple")]
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                documented = ast.get_docstring(node) is not None
                fields = [(key, value[documented:] if key == "body" else value) for key, value in fields]
            return f"{type(node).__name__}({','.join(f'{key}={text(value)}' for key, value in fields)})"

        return text(node)

    def _is_package(self, dotted: str) -> bool:
        """Whether a dotted name of ours is a module or package, so that an attribute of it is a definition."""
        path = self.root.joinpath(*dotted.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()

    def _task(self, target: str, waiting: list[tuple[str, str]]) -> set[str]:
        """The texts of a task's builder, of its options' defaults, of its methods DEVICE and what these use of it."""
        module, name = self._place(target)
        builder, found = self._statements(module, name), set()
        classes = {node.name: node for node in builder if isinstance(node, ast.ClassDef)}
        if not classes:
            used: list[tuple[str, str]] = []
            found |= {self._text(module, node, used) for node in builder}
            here = [node for where, one in used if where == module for node in self._defined_here(module, one)]
            classes = {node.name: node for node in here if isinstance(node, ast.ClassDef)}
            waiting += [place for place in used if place[1] not in classes]
        for node in classes.values():
            line = list(self._bases(module, node))
            wanted, done = [*DEVICE, *(name for _, one in line for name in _options(one))], set()
            while wanted:
                name = wanted.pop()
                if name not in done:
                    done.add(name)
                    for where, part in self._member(line, name):
                        found.add(self._text(where, part, waiting))
                        wanted += [x.attr for x in ast.walk(part) if isinstance(x, ast.Attribute)
                                   and isinstance(x.value, ast.Name) and x.value.id == "self"]  # fmt: skip
        return found

    def _defined_here(self, module: str, name: str) -> tuple[ast.stmt, ...]:
        loaded = self._load(module)
        return () if loaded is None else loaded.definitions.get(name, ())

    def _bases(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        """(module, class) of a class and of those that it inherits from, in HASHED."""
        yield module, node
        imports = getattr(self._load(module), "imports", {})
        for base in node.bases:
            name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
            root = base.value if isinstance(base, ast.Attribute) else base
            whole = imports.get(getattr(root, "id", ""), "")
            above = f"{whole}.{name}" if isinstance(base, ast.Attribute) else whole
            where = above.rpartition(".")[0] if above else module
            for other in self._defined_here(where, name):
                if isinstance(other, ast.ClassDef):
                    yield from self._bases(where, other)

    def _member(self, line: list[tuple[str, ast.ClassDef]], name: str) -> Iterator[tuple[str, ast.stmt]]:
        """What a class has under a name: the first along its bases, and the next ones as long as it calls `super()`."""
        for module, node in line:
            for part in node.body:
                if name in _defined(part) and (isinstance(part, ast.FunctionDef) or getattr(part, "value", None)):
                    yield module, part
                    if not any(isinstance(x, ast.Name) and x.id == "super" for x in ast.walk(part)):
                        return


def _options(node: ast.ClassDef) -> list[str]:
    """Fields of a dataclass that have a default; and `__post_init__` where it sets more of them."""
    plain = [part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is not None]
    names = [name for part in plain if "ClassVar" not in ast.unparse(part.annotation) for name in _defined(part)]
    sets = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__post_init__"
            and any(isinstance(x, ast.Attribute) and x.attr == "__setattr__" for x in ast.walk(part))]  # fmt: skip
    return [*names, *(part.name for part in sets)]
