r"""Weight tables: how the names of a foreign checkpoint become ours. Pure data and NumPy, no JAX.

A family's table is `cnn/convert/tables/<file of the family in cnn/models>.py` with

    TABLES: dict[str, Rules] = {"torchvision": (...), "timm": (...), "lukemelas": (...)}

A rule is `(pattern, replacement)` or `(pattern, replacement, how)`. A foreign key `layer1.0.conv2.weight` is the
module `layer1.0.conv2` and the leaf `weight`. The first rule whose pattern matches all of the module, or all of
the key, decides:

  * It matched the **module**: the replacement is our module's path, and the leaf follows by itself:

        weight, 3 or more axes   [o, i / groups, *k]  -> kernel [*k, i / groups, o]
        weight, 2 axes           [o, i]               -> kernel [i, o]
        weight, 1 axis           [c]                  -> scale [c]
        bias                     [c]                  -> bias [c]
        running_mean, running_var [c]                 -> batch_stats: mean, var [c]
        num_batches_tracked                           -> dropped

    A 1x1 convolution fits a dense layer of ours and the other way round.
  * It matched the **key** (tensors with names of their own: layer scale, GRN): the replacement is the path of our
    leaf, below 'params' unless it begins with 'batch_stats/': `(r"stages\.(\d)\.blocks\.(\d+)\.gamma",
    "stage{1+1}/block{2+1}/gamma")`. The array is taken as it is, or as `how` says.
  * The replacement None: known and dropped on purpose.

In replacements `{1}` is the first group of the pattern, `{1+1}` and `{1-3}` do arithmetic on it: foreign indices
begin at 0, our `stage1/block1` at 1. `how` is one of

    "reshape"               the same numbers in the same order in our shape ([1, 1, 1, c] -> [c])
    "flatten_chw:C,H,W"     weight of the first dense layer behind a flattened feature map: [o, C*H*W] of
                            channels first, or a convolution [o, C, H, W] -> kernel [H*W*C, o]
    "in order"              the foreign modules that match, sorted by the numbers in their names, go one by one to
                            those modules of ours that match the replacement, now a regex (without {1}), sorted
                            alike: for networks that count their layers through. `(r"_blocks\.(\d+)\._bn1",
                            r"stage\d+/block\d+/depthwise_bn", "in order")`
    "convs in order"        the same, for foreign modules whose weight has 3 or more axes only
    "norms in order"        the same, for foreign modules whose weight has 1 axis only

so VGG's `(r"features\.(\d+)", r"stage\d+/conv\d+", "convs in order")` can stand beside `"norms in order"`.

A file may also hold `OPTIONS`: what the authors of a layout built otherwise than our defaults, by model name:

    OPTIONS: Options = {"torchvision": {"mobilenetv3_*": {"norm_epsilon": 1e-3}}}
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnn.errors import UserError

Rule = tuple[str, str | None] | tuple[str, str | None, str]
Rules = tuple[Rule, ...]
Options = Mapping[str, Mapping[str, Mapping[str, Any]]]  # layout: {pattern of model names: options of the model}
State = Mapping[str, np.ndarray]  # foreign key: array, in the order of the file
Shapes = Mapping[str, tuple[int, ...]]  # our leaf's name ('params/stem/conv1/kernel'): shape, in network order

STATISTICS = {"running_mean": "mean", "running_var": "var"}
DROPPED = "num_batches_tracked"
LEAVES = ("weight", "bias", DROPPED, *STATISTICS)
# how: which foreign modules it is for, by the number of axes of their weight
IN_ORDER = {"in order": range(9), "convs in order": range(3, 9), "norms in order": range(1, 2)}


class Target(NamedTuple):
    """Where one foreign tensor goes: our leaf's name, how its array changes, and the rule that says so."""

    name: str
    how: str
    rule: Rule


class Mismatch(UserError):
    """The table does not fit the file; `matched` counts the foreign keys that it does know."""

    def __init__(self, text: str, matched: int):
        super().__init__(text)
        self.matched = matched


def split_key(key: str) -> tuple[str, str]:
    """('layer1.0.conv1', 'weight') of a key; (key, '') where it ends in no known leaf."""
    module, _, leaf = key.rpartition(".")
    return (module, leaf) if leaf in LEAVES and module else (key, "")


def numbers_in(name: str) -> list[Any]:
    """A sort key that takes the numbers in a name as numbers: block2 before block10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def fill(replacement: str, match: re.Match) -> str:
    """The replacement with `{1}`, `{1+1}`, `{2-3}` filled in from the match."""

    def one(found: re.Match) -> str:
        group, offset = match.group(int(found[1])) or "", found[2]
        return str(int(group) + int(offset)) if offset else group

    return re.sub(r"\{(\d+)([+-]\d+)?\}", one, replacement)


def targets(rules: Rules, state: State, ours: Iterable[str]) -> dict[str, Target | None]:
    """Where every foreign tensor goes; None for those dropped on purpose. Unknown keys are missing.

    Args:
      ours: names of our leaves.

    Raises:
      UserError: a rule 'in order' finds another number of modules in the file than in the network.
    """
    rank = {module: array.ndim for key, array in state.items() for module, leaf in [split_key(key)] if leaf == "weight"}
    modules = {name.partition("/")[2].rpartition("/")[0] for name in ours}
    decided = {key: _decide(rules, key, rank) for key in state}
    pairs = _in_order(rules, state, decided, modules)
    found: dict[str, Target | None] = {}
    for key, decision in decided.items():
        if decision is None:
            continue
        rule, match, by_module = decision
        how = rule[2] if len(rule) == 3 else ""
        module, leaf = split_key(key)
        if rule[1] is None or (by_module and leaf == DROPPED):
            found[key] = None
            continue
        path = pairs[module] if how in IN_ORDER else fill(rule[1], match)
        if not by_module:
            root = "" if path.startswith("batch_stats/") else "params/"
            found[key] = Target(root + path, how or "as it is", rule)
        elif leaf in STATISTICS:
            found[key] = Target(f"batch_stats/{path}/{STATISTICS[leaf]}", "", rule)
        else:
            name = leaf if leaf == "bias" else ("scale" if state[key].ndim == 1 else "kernel")
            found[key] = Target(f"params/{path}/{name}", "" if how in IN_ORDER else how, rule)
    return found


def _decide(rules: Rules, key: str, rank: Mapping[str, int]) -> tuple[Rule, re.Match, bool] | None:
    """The first rule that matches, its match, and whether that was the module."""
    module, leaf = split_key(key)
    for rule in rules:
        ordered = len(rule) == 3 and rule[2] in IN_ORDER
        if ordered and rank.get(module, 0) not in IN_ORDER[rule[2]]:
            continue
        match = re.fullmatch(rule[0], module) if leaf else None
        if match:
            return rule, match, True
        match = None if ordered else re.fullmatch(rule[0], key)
        if match:
            return rule, match, False
    return None


def _in_order(rules: Rules, state: State, decided: Mapping[str, Any], ours: set[str]) -> dict[str, str]:
    """{foreign module: our module} of all rules 'in order'."""
    pairs: dict[str, str] = {}
    for rule in rules:
        if len(rule) < 3 or rule[2] not in IN_ORDER or rule[1] is None:
            continue
        theirs = {split_key(key)[0] for key, decision in decided.items() if decision and decision[0] is rule}
        mine = [module for module in ours if re.fullmatch(rule[1], module)]
        if len(theirs) != len(mine):
            raise Mismatch(
                f"the file has {len(theirs)} layers like '{rule[0]}', this network has {len(mine)} like '{rule[1]}'",
                matched=sum(decision is not None for decision in decided.values()),
            )
        pairs |= dict(zip(sorted(theirs, key=numbers_in), sorted(mine, key=numbers_in), strict=True))
    return pairs


def rearranged(array: np.ndarray, target: Target, shape: tuple[int, ...] | None) -> np.ndarray:
    """The foreign array in our axis order; its shape may still differ from `shape`, that of our leaf."""
    kind, _, argument = target.how.partition(":")
    if kind == "reshape":
        fits = shape is not None and array.size == np.prod(shape, dtype=int)
        return array.reshape(shape) if fits else array
    if kind == "flatten_chw":
        c, h, w = map(int, argument.split(","))
        if array.shape[1:] not in ((c * h * w,), (c, h, w)):
            return array.T
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)
    if target.how or not target.name.endswith("/kernel"):
        return array
    kernel = np.moveaxis(array, (0, 1), (-1, -2))
    if shape is not None and len(shape) == 2 and set(kernel.shape[:-2]) <= {1}:
        return kernel.reshape(kernel.shape[-2:])
    if shape is not None and kernel.ndim == 2 and set(shape[:-2]) <= {1}:
        return kernel.reshape((1,) * (len(shape) - 2) + kernel.shape)
    return kernel


def convert(rules: Rules, state: State, like: Shapes) -> dict[str, np.ndarray]:
    """{our leaf's name: array} for every leaf of `like`.

    Raises:
      Mismatch: a key that the table does not know, a leaf that gets nothing, or the first layer, in network
        order, whose shape differs.
    """
    where = targets(rules, state, like)
    known = len(where)
    strange = [key for key in state if key not in where]
    if strange:
        rest = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise Mismatch(f"the table has no rule for '{strange[0]}'{rest}", known)
    source: dict[str, str] = {}
    for key, target in where.items():
        if target is None:
            continue
        if target.name in source:
            raise Mismatch(f"'{source[target.name]}' and '{key}' both become '{target.name}'", known)
        source[target.name] = key
    found: dict[str, np.ndarray] = {}
    for name, shape in like.items():
        if name not in source:
            raise Mismatch(f"the file has nothing for '{name}' {shape}", known)
        key = source[name]
        target = where[key]
        found[name] = rearranged(state[key], target, shape)
        if found[name].shape != shape:
            raise Mismatch(
                f"first layer that differs: '{name}' is {shape} in this network, but '{key}' in the file is "
                f"{state[key].shape}, {found[name].shape} in our order (rule '{target.rule[0]}' -> '{target.rule[1]}')",
                known,
            )
    for name, key in source.items():
        if name not in like:
            raise Mismatch(f"'{key}' in the file becomes '{name}', which this network does not have", known)
    return found
