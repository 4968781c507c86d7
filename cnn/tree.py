"""Names of leaves: how a parameter's path is written in regexes, reports and files."""

import re
from typing import Any

import jax

from cnn.errors import UserError


def path_name(path: tuple) -> str:
    """'stage1/block1/conv1/kernel' for a leaf's key path."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def names(tree: Any) -> list[str]:
    """The names of all leaves, in tree order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def flatten(tree: Any) -> dict[str, Any]:
    """{name: leaf}, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def matching(tree: Any, pattern: str, field: str) -> Any:
    """A tree of booleans: whether each leaf's whole name matches the regex `pattern`.

    Raises:
      UserError: `pattern` is not a regular expression, or it matches no leaf (`field` says whose it is).
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field} '{pattern}' is not a regular expression: {error}") from error
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: rule.fullmatch(path_name(path)) is not None, tree
    )
    if not any(jax.tree.leaves(mask)):
        raise UserError(
            f"{field} '{pattern}' matches no parameter; names look like {', '.join(names(tree)[:3])}"
        )
    return mask


def size(tree: Any) -> int:
    """The number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
