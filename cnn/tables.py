"""Explicit tables of names: what a model, task or dataset is called and where it is defined.

The tables hold text only, so `cnn list` reads them without importing JAX. Where a config names a model, task or
data set it may also say 'package.module:callable': one of your own, without a line in a table.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cnn.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table: `target` is 'package.module:attribute', `about` a line for `cnn list`."""

    target: str
    about: str


def resolve(kind: str, table: Mapping[str, Entry], name: str) -> Callable[..., Any]:
    """Imports what `name` stands for: a name of the table, or 'package.module:callable' of your own.

    Raises:
      UserError: `name` is not in the table, or there is no such module or callable.
    """
    if ":" in name:
        return _own(kind, name)
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].target.split(":")
    return getattr(importlib.import_module(module), attribute)


def _own(kind: str, name: str) -> Callable[..., Any]:
    """What 'package.module:callable' names; modules of the current folder count, as with `python -m`."""
    path, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(path)
    except Exception as error:  # the user's own file can fail in any way
        raise UserError(
            f"{kind} '{name}': module '{path}' cannot be imported from {os.getcwd()}: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        there = [
            key
            for key, value in vars(module).items()
            if callable(value) and key[0] != "_" and getattr(value, "__module__", path) in (path, "functools")
        ]
        raise unknown(f"{kind}: in module '{path}'", attribute, there)
    if not callable(found):
        raise UserError(f"{kind} '{name}' is a {type(found).__name__}, it must be a class or function")
    return found


def build(kind: str, table: Mapping[str, Entry], name: str, options: Mapping[str, Any]) -> Any:
    """Calls what `name` stands for with `options`, after checking every option's name.

    Raises:
      UserError: unknown name, or an option that it does not take.
    """
    try:
        return with_options(kind, table, name, options)()
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} '{name}' with {dict(options)}: {error}") from error


def with_options(
    kind: str, table: Mapping[str, Entry], name: str, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """What `name` stands for with `options` filled in, yet to be called.

    Raises:
      UserError: unknown name, or an option that it does not take.
    """
    target = resolve(kind, table, name)
    accepted = option_names(target)
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {kind} '{name}'", option, accepted)
    return functools.partial(target, **options)


def option_names(target: Callable[..., Any]) -> list[str]:
    """Names of the options that `target` takes (variants are `functools.partial` of their family)."""
    return [name for name in inspect.signature(target).parameters if name not in ("parent", "name")]
