"""Command lines: one parser whose mistakes are one clear line, and `--config=FILE[:ARG]` with overrides."""

import argparse
import ast
import importlib.util
import os
from typing import Any, NoReturn

from ml_collections import ConfigDict

from cnn.config import UNITS
from cnn.errors import UserError, closest, unknown

PREFIX = "--config."


class Parser(argparse.ArgumentParser):
    """argparse, but an error is a UserError and an unknown flag names the nearest one."""

    def __init__(self, verb: str, description: str):
        super().__init__(
            prog=f"cnn {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def add_config(self, required: bool = True) -> None:
        """Adds `--config=FILE[:ARG]` and, by that, `--config.FIELD=VALUE`."""
        self.add_argument(
            "--config",
            metavar="FILE[:ARG]",
            required=required,
            help="a Python file with get_config(arg=''); ':smoke' shrinks it to a few seconds; "
            "override any field with --config.FIELD=VALUE",
        )

    def parse(self, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
        """The flags, and the overrides as {'optim.lr': '0.1'}.

        Raises:
          UserError: a flag that does not exist, a value of the wrong type, a missing one.
        """
        args, rest = self.parse_known_args(_joined(argv))
        overrides = {}
        known = [flag for action in self._actions for flag in action.option_strings]
        for item in rest:
            name, separator, value = item.partition("=")
            if name.startswith(PREFIX) and "--config" in known:
                if not separator:
                    raise UserError(f"{name} needs a value: {name}=VALUE")
                overrides[name.removeprefix(PREFIX)] = value
            elif item.startswith("-"):
                near = closest(name, known)
                hint = f" Did you mean '{near}'?" if near else f" Valid: {', '.join(known)}"
                raise UserError(f"unknown flag '{name}'.{hint}")
            else:
                raise UserError(f"unexpected argument '{item}' (see {self.prog} --help)")
        if overrides and not args.config:
            raise UserError("--config.FIELD=VALUE needs --config=FILE")
        return args, overrides


def _joined(argv: list[str]) -> list[str]:
    """'--config.a.b', 'v' as '--config.a.b=v', as ml_collections allows both."""
    joined: list[str] = []
    for item in argv:
        if joined and joined[-1].startswith(PREFIX) and "=" not in joined[-1] and item[:2] != "--":
            joined[-1] += "=" + item
        else:
            joined.append(item)
    return joined


def load_config(spec: str, overrides: dict[str, str]) -> ConfigDict:
    """Runs `get_config` of 'FILE[:ARG]', applies the overrides and locks the result.

    Raises:
      UserError: no such file, no get_config, an unknown field, a value of another type.
    """
    path, _, argument = spec.partition(":")
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        there = [f for f in os.listdir(folder) if f.endswith(".py")] if os.path.isdir(folder) else []
        near = closest(os.path.basename(path), there)
        hint = f" Did you mean '{os.path.join(folder, near)}'?" if near else " See: cnn list configs"
        raise UserError(f"config file '{path}' does not exist.{hint}")
    module_spec = importlib.util.spec_from_file_location("cnn_user_config", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"config file '{path}' is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        c = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:  # the user's own file can fail in any way
        line = _line_in(error, path)
        raise UserError(f"config file '{path}'{line}: {type(error).__name__}: {error}") from error
    if not isinstance(c, ConfigDict):
        raise UserError(f"config file '{path}': get_config must return an ml_collections.ConfigDict")
    c.lock()
    for field, text in overrides.items():
        override(c, field, text)
    for field in overrides:  # another unit for the same duration replaces the config's
        stem, _, unit = field.rpartition("_")
        for other in set(UNITS) - {unit} if unit in UNITS else ():
            if f"{stem}_{other}" not in overrides:
                override(c, f"{stem}_{other}", "None")
    return c


def _line_in(error: Exception, path: str) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""


def override(c: ConfigDict, field: str, text: str) -> None:
    """Sets one field from its text, as the type that the field has.

    Raises:
      UserError: unknown field (names the nearest), or a text that is not of the field's type.
    """
    names = field.split(".")
    node, leaf = c, names[-1]
    for depth, name in enumerate(names):
        above = ".".join(names[:depth])
        if not isinstance(node, ConfigDict):
            raise UserError(f"config field '{above}' has no fields of its own")
        if name not in node:
            raise unknown(f"config field in '{above}'" if above else "config field", name, node.keys())
        if depth < len(names) - 1:
            node = node[name]
    if isinstance(node[leaf], ConfigDict):
        raise UserError(f"config field '{field}' is a group; set one of: {', '.join(node[leaf].keys())}")
    node[leaf] = _value(text, node.get_type(leaf), field)


def _value(text: str, kind: type, field: str) -> Any:
    if kind is str:
        return text
    if text in ("None", "none", "null", ""):
        return None
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"config field '{field}' is a bool: use true or false, not '{text}'")
        return text.lower() in ("true", "1")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if kind is tuple and not isinstance(value, tuple | list):
        value = (value,)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is tuple:
        return tuple(value)
    if kind is not type(None) and not isinstance(value, kind):
        raise UserError(f"config field '{field}' is of type {kind.__name__}: '{text}' is not")
    return value
