"""Checks of the shapes in signatures, each prepared when its function is first called with the checks on.

jaxtyping's import hook writes `@jaxtyping.jaxtyped(...)` in front of every function. At once for all of `cnn` that
takes each test process five seconds, most of them for functions that it never calls.
"""

import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped


def _resolve(function: Callable) -> Callable:
    """The same function; names in its signature that exist for type checkers only stand for anything."""
    found = {}
    for name, hint in function.__annotations__.items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found |= typing.get_type_hints(one, function.__globals__, include_extras=True)
        except (NameError, AttributeError):
            found[name] = Any
    function.__annotations__ = found
    return function


def _later(function: Callable) -> Callable:
    checked: list[Callable] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not checked:  # arguments once, result once: with jaxtyping's own order of the two, arguments twice
            checked.append(_jaxtyped(beartype(_resolve(function)), typechecker=None))
        return checked[0](*args, **kwargs)

    return call


def _decorate(made: Any) -> Any:
    if isinstance(made, (classmethod, staticmethod)):
        return type(made)(_decorate(made.__func__))
    if isinstance(made, property):
        parts = (made.fget, made.fset, made.fdel)
        return property(*(part and _decorate(part) for part in parts), doc=made.__doc__)
    if inspect.isclass(made):
        if dataclasses.is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = _later(made.__init__)
        return made
    return _later(made)


def check_lazily() -> None:
    """To be called before the first import of a module under the hook."""
    jaxtyping.jaxtyped = lambda made=None, *, typechecker=None: _decorate if made is None else _decorate(made)


@contextlib.contextmanager
def checks(wanted: bool) -> Iterator[None]:
    """Inside, shapes are checked or not."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", before or not wanted)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
