"""From a foreign state dict to our variables: finds the family's table and, where none is named, the layout."""

import fnmatch
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from cnn.convert.rules import Mismatch, Rules, State, convert, targets
from cnn.errors import UserError, unknown
from cnn.models import MODELS

OWN = "cnn"  # the layout of our own names, 'params/stem/conv1/kernel', known for every network


def tables_of(model_name: str) -> Mapping[str, Rules]:
    """The layouts of a model's family; {} where nobody wrote a table.

    Raises:
      UserError: unknown model.
    """
    return getattr(_table_file(model_name), "TABLES", {})


def options_of(model_name: str, layout: str) -> dict[str, Any]:
    """Options of the model that a layout's authors meant and ours do not: an epsilon, a padding."""
    by_pattern = getattr(_table_file(model_name), "OPTIONS", {}).get(layout, {})
    matching = [options for pattern, options in by_pattern.items() if fnmatch.fnmatchcase(model_name, pattern)]
    return {name: value for options in matching for name, value in options.items()}


def _table_file(model_name: str) -> ModuleType | None:
    if model_name not in MODELS:
        raise unknown("model", model_name, MODELS)
    family = MODELS[model_name].target.partition(":")[0].rpartition(".")[2]
    module = f"cnn.convert.tables.{family}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def _chosen(model_name: str, layout: str) -> Mapping[str, Rules]:
    """The layout that was asked for, or all of them."""
    tables = dict(tables_of(model_name)) | {OWN: ()}
    if layout and layout not in tables:
        raise unknown(f"layout of {model_name}", layout, tables)
    return {layout: tables[layout]} if layout else tables


def abstract_variables(model: Any, inputs: Callable[[], jax.Array]) -> dict[str, Any]:
    """The shapes of a model's variables, nested dicts in network order: that of the first call of each layer.

    JAX sorts dicts by name when they leave a trace, so the order is noted inside.

    Args:
      model: a Linen module.
      inputs: makes an input, [b, *space, c]; it is traced, nothing is computed.
    """
    order: list[dict[str, Any]] = []

    def init() -> Any:
        variables = model.init(jax.random.key(0), inputs(), train=False)
        order.append(_shapes(variables))
        return variables

    jax.eval_shape(init)
    return order[0]


def _shapes(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _shapes(child) for name, child in node.items()}
    return jax.ShapeDtypeStruct(node.shape, node.dtype)


def leaves_in_order(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{'params/stem/conv1/kernel': leaf}, in the order of the nested dicts."""
    found: dict[str, Any] = {}
    for name, child in node.items():
        path = f"{above}{name}"
        found |= leaves_in_order(child, f"{path}/") if isinstance(child, Mapping) else {path: child}
    return found


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `leaves_in_order`; always with 'params' and 'batch_stats'."""
    root: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, value in leaves.items():
        *parents, leaf = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return root


def convert_state(
    model_name: str, layout: str, state: State, like: Mapping[str, Any]
) -> dict[str, Any]:
    """{'params', 'batch_stats'} of `model_name` from a foreign state dict.

    Args:
      layout: a name from the family's table, 'cnn' for our own names, or '' for the one that fits.
      state: {foreign key: array}, in the order of the file.
      like: the network's variables or their shapes, best from `abstract_variables`: the order counts when the
        first layer that differs is named.

    Raises:
      UserError: unknown model or layout, or no layout fits: a key without a rule, a leaf that gets nothing, or
        the first layer whose shape differs, with both shapes and the rule.
    """
    return convert_detecting(model_name, layout, state, like)[0]


def convert_detecting(
    model_name: str, layout: str, state: State, like: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """`convert_state`, and the name of the layout that fitted."""
    leaves = leaves_in_order(like)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    refused: list[tuple[int, str, str]] = []
    for name, rules in _chosen(model_name, layout).items():
        try:
            arrays = _own(state, shapes) if name == OWN else convert(rules, state, shapes)
        except Mismatch as error:
            refused.append((error.matched, name, str(error)))
            continue
        return nested({key: _typed(key, arrays[key], leaves[key].dtype) for key in leaves}), name
    _, name, text = max(refused, key=lambda r: r[0])  # of equals, the first
    others = [other for _, other, _ in refused if other != name]
    tried = f" (nor do {', '.join(others)} fit)" if others else ""
    raise UserError(f"layout '{name}' of {model_name}: {text}{tried}")


def _typed(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in our type.

    Raises:
      UserError: it holds whole numbers, or its values are too large for the type.
    """
    if array.dtype.kind != "f":
        raise UserError(f"'{name}' would get {array.dtype}, but weights are floating point; is the file quantized?")
    with np.errstate(over="ignore"):
        typed = array.astype(dtype)
    if not np.isfinite(typed).all():
        raise UserError(f"'{name}' holds values that are too large for {np.dtype(dtype)}")
    return typed


def _own(state: State, like: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays that have our names already; 'params/' may be missing."""
    roots = ("params/", "batch_stats/")
    named = {key if key.startswith(roots) else f"params/{key}": array for key, array in state.items()}
    known = sum(key in like for key in named)
    for key in named:
        if key not in like:
            raise Mismatch(f"this network has no '{key}'", known)
    for name, shape in like.items():
        if name not in named:
            raise Mismatch(f"the file has nothing for '{name}' {shape}", known)
        if named[name].shape != shape:
            raise Mismatch(
                f"first layer that differs: '{name}' is {shape} in this network, {named[name].shape} in the file",
                known,
            )
    return {name: named[name] for name in like}


def classes_in(
    model_name: str, layout: str, state: State, like: Mapping[str, Any]
) -> int | None:
    """How many classes the file's head has; None where no layout knows its head."""
    *_, head = [name for name in leaves_in_order(like) if name.startswith("params/")]
    for rules in _chosen(model_name, layout).values():
        try:
            found = targets(rules, state, leaves_in_order(like))
        except Mismatch:
            continue
        for key, target in found.items():
            if target is not None and target.name == head and state[key].ndim:
                return state[key].shape[0]
    own = state.get(head, state.get(head.removeprefix("params/")))
    return own.shape[-1] if own is not None and own.ndim else None


def dropped(
    model_name: str, layout: str, state: State, like: Mapping[str, Any]
) -> list[str]:
    """Keys of the file that the layout leaves out on purpose."""
    found = targets(_chosen(model_name, layout)[layout], state, leaves_in_order(like))
    return [key for key, target in found.items() if target is None]
