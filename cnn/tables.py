"""Explicit tables of names: what a model, task or dataset is called and where it is defined.

The tables hold text only, so `cnn list` reads them without importing JAX.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cnn.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table: `target` is 'package.module:attribute', `about` a line for `cnn list`."""

    target: str
    about: str


def resolve(kind: str, table: Mapping[str, Entry], name: str) -> Callable[..., Any]:
    """Imports what `name` stands for.

    Raises:
      UserError: `name` is not in the table.
    """
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].target.split(":")
    return getattr(importlib.import_module(module), attribute)


def build(kind: str, table: Mapping[str, Entry], name: str, options: Mapping[str, Any]) -> Any:
    """Calls what `name` stands for with `options`, after checking every option's name.

    Raises:
      UserError: unknown name, or an option that it does not take.
    """
    target = resolve(kind, table, name)
    accepted = option_names(target)
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {kind} '{name}'", option, accepted)
    try:
        return target(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} '{name}' with {dict(options)}: {error}") from error


def option_names(target: Callable[..., Any]) -> list[str]:
    """Names of the options that `target` takes (variants are `functools.partial` of their family)."""
    return [name for name in inspect.signature(target).parameters if name not in ("parent", "name")]
