"""Which layer is the first whose output differs from another framework's, on the same input.

The other side writes one .npz: `input` [b, c, *space], the normalised input as its network takes it, and per module
its output under the module's name, in the order of the calls. In PyTorch:

    def keep(name):
        return lambda module, inputs, output: found.__setitem__(name, output.detach().clone().numpy())

    found = {"input": x.numpy()}
    for name, module in network.eval().named_modules():
        if not list(module.children()):
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        network(x)
    numpy.savez("activations.npz", **found)

Copies, because an activation that works in place overwrites what the layer before it returned.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn.convert.rules import Rules, State, split_key, targets
from cnn.convert.variables import leaves_in_order
from cnn.errors import UserError

INPUT = "input"
TOLERANCE = 1e-4  # of the largest value of the layer's output
# What a capture can hold of a module: its output, and nothing below it.
CALL = "__call__"


class Difference(NamedTuple):
    """The first layer that differs: our module, theirs, both shapes, and by how much (None with other shapes)."""

    ours: str
    theirs: str
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]
    largest: float | None
    scale: float

    def __str__(self) -> str:
        where = f"first layer whose output differs: '{self.ours}' (theirs '{self.theirs}')"
        if self.largest is None:
            return f"{where}: {self.our_shape} here, {self.their_shape} there, in our order"
        return f"{where}: by {self.largest:.3g} at most, where the largest value is {self.scale:.3g}"


def activations(model: Any, variables: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """{our module's path: its output} of one evaluation pass, in the order in which the modules end.

    Args:
      x: [b, *space, c], normalised.
    """
    variables = jax.tree.map(jnp.asarray, variables)
    _, kept = model.apply(  # not under `jit`, which would sort the modules by name
        variables, jnp.asarray(x), train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    ending = f"/{CALL}"
    flat = leaves_in_order(kept["intermediates"])
    return {
        name.removesuffix(ending): np.asarray(outputs[0])
        for name, outputs in flat.items()
        if name.endswith(ending) and isinstance(outputs[0], jax.Array)
    }


def modules(rules: Rules, state: State, ours: Mapping[str, Any]) -> dict[str, str]:
    """{their module: ours}, of all modules that have weights.

    Args:
      ours: leaves of our network by name.
    """
    found = {}
    for key, target in targets(rules, state, ours).items():
        module, leaf = split_key(key)
        if leaf and target is not None:
            found[module] = target.name.partition("/")[2].rpartition("/")[0]
    return found


def first_difference(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    tolerance: float = TOLERANCE,
) -> Difference | None:
    """The first of their modules, in their order, whose output is not ours; None when all agree.

    Args:
      ours: from `activations`, channels last.
      theirs: of the .npz, channels first.
      names: from `modules`.

    Raises:
      UserError: not one module is on both sides.
    """
    compared = 0
    for module, output in theirs.items():
        mine = names.get(module)
        if mine is None or mine not in ours:
            continue
        compared += 1
        there, here = channels_last(output), ours[mine]
        if here.shape != there.shape and here.size == there.size:
            there = there.reshape(here.shape)  # [b, 1, 1, c] of a 1x1 convolution, [b, c] of a dense layer
        scale = float(np.abs(there).max(initial=0))
        if here.shape != there.shape:
            return Difference(mine, module, here.shape, there.shape, None, scale)
        largest = float(np.abs(here.astype(np.float64) - there).max(initial=0))
        if not largest <= tolerance * max(scale, 1e-30):  # NaN differs
            return Difference(mine, module, here.shape, there.shape, largest, scale)
    if not compared:
        raise UserError(
            f"not one of the {len(theirs)} activations has the name of a layer with weights; "
            f"they are called {', '.join(list(theirs)[:3])}, the layers {', '.join(list(names)[:3])}"
        )
    return None


def channels_last(x: np.ndarray) -> np.ndarray:
    """[b, c, *space] as [b, *space, c]."""
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x
