"""`cnn list`: what the tables and the configs folder hold. Imports no JAX."""

import ast
import fnmatch
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from cnn import cli, flags, paths
from cnn.errors import UserError, unknown

TABLES = {
    "models": "cnn.models:MODELS",
    "tasks": "cnn.tasks:TASKS",
    "datasets": "cnn.data:DATASETS",
    "transforms": "cnn.transforms:TRANSFORMS",
}
KINDS = (*TABLES, "configs")

Rows = list[tuple[str, str]]  # (name, one line about it)
HEAD = ("name", "parameters", "GMACs", "input", "stages: stride x channels", "about")


def rows_of(kind: str) -> Rows:
    """(name, about) of everything of this kind, in the order of its table."""
    if kind == "configs":
        return configs()
    module, attribute = TABLES[kind].split(":")
    table = getattr(importlib.import_module(module), attribute)
    return [(name, entry.about) for name, entry in table.items()]


def configs() -> Rows:
    """(path, first docstring line) of every config below `configs/`, read without running it.

    The folder of the current directory comes before that of the checkout; a wheel has none.
    """
    here, checkout = Path.cwd(), paths.checkout()
    root = here if (here / "configs").is_dir() else checkout
    if root is None:
        return []
    files = sorted(root.glob("configs/**/*.py"))
    shown = root.relative_to(here) if root.is_relative_to(here) else root
    return [(str(shown / file.relative_to(root)), _first_line(file)) for file in files]


def _first_line(file: Path) -> str:
    try:
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, OSError) as error:
        return f"(cannot be read: {error})"
    return (docstring or "(no docstring)").strip().splitlines()[0]


def matching(kind: str, rows: Rows, pattern: str) -> Rows:
    """The rows whose name matches a glob, or contains the text when it has no wildcard.

    Raises:
      UserError: none does.
    """
    glob = pattern if any(wildcard in pattern for wildcard in "*?[") else f"*{pattern}*"
    found = [row for row in rows if fnmatch.fnmatch(row[0].lower(), glob.lower())]
    if not found:
        raise unknown(kind.removesuffix("s"), pattern, [name for name, _ in rows])
    return found


def details(name: str) -> dict[str, Any]:
    """What `cnn list models` says of a model beside its name and paper, as stored in cnn/models/facts.csv."""
    from cnn.models import MODELS, facts

    if name not in facts.stored():
        raise UserError(f"model '{name}' is not in {facts.FILE.name} yet: python -m cnn.models.facts")
    entry, found = MODELS[name], facts.stored()[name]
    return {
        "parameters": found.params,
        "macs": found.macs,
        "input": list(entry.input),
        "classes": entry.classes,
        "gives": entry.gives,
        "strides": list(found.strides),
        "channels": list(found.channels),
    }


def main(argv: list[str]) -> int | None:
    """`cnn list [KIND] [PATTERN] [--json]`."""
    parser = flags.Parser("list", cli.VERBS["list"].about)
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}; all of them without")
    parser.add_argument("pattern", nargs="?", help="part of the name, or a glob such as 'resnet*'")
    parser.add_argument("--json", action="store_true", help="{kind: [{name, about, ...}]}")
    options, _ = parser.parse(argv)
    if options.kind is not None and options.kind not in KINDS:
        raise unknown("kind", options.kind, KINDS)

    found = {kind: rows_of(kind) for kind in ([options.kind] if options.kind else KINDS)}
    if options.pattern is not None:
        found = {kind: matching(kind, rows, options.pattern) for kind, rows in found.items()}
    if options.kind == "configs" and not found["configs"]:
        raise UserError(
            "there is no configs/ folder here: run this in a checkout of cnn, or name your own "
            "config with `cnn train --config=FILE`"
        )
    if options.json:
        listed = {
            kind: [
                {"name": name, "about": about} | (details(name) if kind == "models" else {})
                for name, about in rows
            ]
            for kind, rows in found.items()
        }
        json.dump(listed, sys.stdout, indent=2)
        print()
    elif options.kind == "models":
        print(_table(found["models"]))
    else:
        print("\n\n".join(_text(kind, rows) for kind, rows in found.items()))
    return 0


def _table(rows: Rows) -> str:
    lines = [HEAD]
    for name, about in rows:
        found = details(name)
        stages = zip(found["strides"], found["channels"], strict=True)
        lines.append(
            (
                name,
                f"{found['parameters']:,}",
                f"{found['macs'] / 1e9:.3f}",
                "x".join(map(str, found["input"])),
                " ".join(f"{stride}x{width}" if stride else str(width) for stride, width in stages),
                about,
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    aligned = [
        "  ".join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([f"models ({len(rows)}), counted with their own head at their own input:", *aligned])


def _text(kind: str, rows: Rows) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"  {name:<{width}}  {about}".rstrip() for name, about in rows]
    return "\n".join([f"{kind} ({len(rows)}):", *lines])


if __name__ == "__main__":
    sys.exit(cli.run("list"))
