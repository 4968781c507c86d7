"""Command lines: one parser whose mistakes are one clear line, and `--config=FILE[:ARG]` with overrides."""

import argparse
import ast
import importlib.util
import os
from typing import Any, NoReturn

from ml_collections import ConfigDict, FieldReference

from cnn.config import UNITS, default
from cnn.errors import UserError, closest, unknown
from cnn.tables import option_names, resolve
from cnn.transforms import FORM, TRANSFORMS, check_form

PREFIX = "--config."
# Groups whose fields are options of what they name; they are checked where that is built.
OPEN = ("model", "task")
LISTS = ("input.train_transforms", "input.eval_transforms")  # ((name, options), ...)


class Parser(argparse.ArgumentParser):
    """argparse, but an error is a UserError and an unknown flag names the nearest one."""

    def __init__(self, verb: str, description: str, program: str = "cnn"):
        super().__init__(
            prog=f"{program} {verb}",
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
                near = closest(name.strip("-"), [flag.strip("-") for flag in known])
                hint = f" Did you mean '--{near}'?" if near else f" Valid: {', '.join(known)}"
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
        if isinstance(error, TypeError) and any(f"'{field.partition('.')[2]}'" in str(error) for field in LISTS):
            raise UserError(f"config file '{path}'{line}: transforms are {FORM}") from error
        raise UserError(f"config file '{path}'{line}: {type(error).__name__}: {error}") from error
    if not isinstance(c, ConfigDict):
        raise UserError(f"config file '{path}': get_config must return an ml_collections.ConfigDict")
    _check_fields(c, default(), f"config file '{path}'")
    c.lock()
    for field, text in overrides.items():
        override(c, field, text)
    for field in overrides:  # another unit for the same duration replaces the config's
        above, _, name = field.rpartition(".")
        stem, _, unit = name.rpartition("_")
        if unit not in UNITS or field.startswith(LISTS):
            continue
        group = c[above] if above else c
        for other in (f"{stem}_{other}" for other in UNITS if other != unit):
            if other in group and f"{above}.{other}".lstrip(".") not in overrides:
                group[other] = None
    return c


def _check_fields(c: ConfigDict, wanted: ConfigDict, where: str, above: str = "") -> None:
    """Raises UserError unless `c` has the fields of `wanted` and, in closed groups, no others."""
    group = above.rstrip(".")
    for name in wanted:
        if name not in c or isinstance(wanted[name], ConfigDict) != isinstance(c[name], ConfigDict):
            raise UserError(f"{where}: '{above}{name}' is missing; start from cnn.config.default()")
        if isinstance(wanted[name], ConfigDict):
            _check_fields(c[name], wanted[name], where, f"{above}{name}.")
    for name in c if group not in OPEN else ():
        if name not in wanted:
            raise UserError(f"{where}: {unknown(_field_in(group), name, wanted.keys())}")


def _field_in(group: str) -> str:
    return f"config field in '{group}'" if group else "config field"


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
    for above in LISTS:
        if field.startswith(above + "."):
            group, _, name = above.partition(".")
            c[group][name] = _with_option(c[group][name], above, field.removeprefix(above + "."), text)
            return
    *groups, leaf = field.split(".")
    node: Any = c
    for depth, name in enumerate([*groups, leaf]):
        above = ".".join(groups[:depth])
        if not isinstance(node, ConfigDict):
            raise UserError(f"config field '{above}' has no fields of its own")
        if name not in node:
            if not above.startswith(OPEN):
                raise unknown(_field_in(above), name, node.keys())
            with node.unlocked():  # an option that the config file leaves at its default
                node[name] = ConfigDict() if depth < len(groups) else None
        if depth < len(groups):
            node = node[name]
    if isinstance(node[leaf], ConfigDict):
        inside = ", ".join(node[leaf].keys()) or "nothing is in it yet"
        raise UserError(f"config field '{field}' is a group; set one of its fields: {inside}")
    reference = dict(node.items(preserve_field_references=True))[leaf]
    optional = isinstance(reference, FieldReference) or reference is None
    node[leaf] = _value(text, node.get_type(leaf), field, optional)


def _with_option(steps: tuple, field: str, where: str, text: str) -> tuple:
    """The transforms with one option set: `where` is 'NAME.OPTION' or, of those with one name, 'POSITION.OPTION'."""
    check_form(steps)
    name, _, option = where.partition(".")
    names = [name for name, _ in steps]
    found = [i for i, one in enumerate(names) if name in (one, str(i))]
    if not found:
        added = f"; to add it give the whole list, for instance --config.{field}=\"(('{name}', {{}}),)\""
        raise UserError(f"{unknown(f'transform in {field}', name, names)}{added if name in TRANSFORMS else ''}")
    if len(found) > 1:
        places = " or ".join(f"{field}.{i}.{option}" for i in found)
        raise UserError(f"'{field}' has '{name}' {len(found)} times; say which by its position: {places}")
    accepted = option_names(resolve("transform", TRANSFORMS, names[found[0]]))
    if option not in accepted:
        raise unknown(f"option of transform '{names[found[0]]}'", option, accepted)
    value = _value(text, type(None), f"{field}.{where}", False)
    return tuple(
        (one, {**options, option: value}) if i == found[0] else (one, options) for i, (one, options) in enumerate(steps)
    )


def _value(text: str, kind: type, field: str, optional: bool) -> Any:
    if kind is str:
        return text
    if optional and text in ("None", "none", "null", ""):
        return None
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"config field '{field}' is a bool: use true or false, not '{text}'")
        return text.lower() in ("true", "1")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        value = {"true": True, "false": False}.get(text, text)
    if kind is tuple or isinstance(value, list):
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
    elif kind is float and type(value) is int:
        value = float(value)
    elif kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is not type(None) and type(value) is not kind:  # a bool is no number here
        raise UserError(f"config field '{field}' is of type {kind.__name__}: '{text}' is not")
    return value
