"""A network as a list of layers in its own order, any of which can be read and moved while it computes.

Flax says what its modules return (`capture_intermediates`); what lies between them (ReLU, pooling, residual sums)
is no module, and is found in the program that JAX traced. Running that program, instead of the network, gives
every layer's value and lets one be moved, for instance to differentiate by it.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array, Float

from cnn import tree
from cnn.errors import UserError
from cnn.inspect.program import apply, at_stride_1, strides_of
from cnn.inspect.receptive import Number, Reach, input_reaches, reaches
from cnn.layers.pool import blur_pool
from cnn.models.dense import DensePrediction

ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "silu",
    "gelu",
    "hard_swish",
    "hard_silu",
    "elu",
    "selu",
    "tanh",
)
RECTIFIERS = ("relu", "relu6")  # those that can die
KINDS = {
    "Conv": "convolution",
    "Dense": "dense",
    "BatchNorm": "norm",
    "GroupNorm": "norm",
    "LayerNorm": "norm",
}
FUNCTIONS = {
    "cnn_max_pool": "max_pool",
    "reduce_window_max": "max_pool",
    "concatenate": "concat",
    "tanh": "tanh",
    "logistic": "sigmoid",
}
IDENTITIES = (
    "Dropout",
    "StochasticDepth",
    "NoNorm",
)  # hand on what they get, here where nothing trains


@dataclasses.dataclass(frozen=True)
class Layer:
    """One value that a network computes on the way.

    Attributes:
      name: path of the module that returns it, or path and function: 'stage1/block1/relu'.
      kind: 'convolution', 'norm', 'relu', 'max_pool', 'add', 'dense', ... or the module's class.
      shape: [*space, c] of one example, or [c].
      params: of the module itself.
      aliases: modules and outputs that hand the same value on, innermost first.
      reach: what one position depends on, for each spatial axis of the input.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    aliases: tuple[str, ...]
    reach: tuple[Reach, ...]

    @property
    def spatial(self) -> bool:
        """Whether it still has all the axes of the input, each at its place."""
        return [r.axis for r in self.reach] == list(range(1, len(self.shape)))

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def strides(self) -> tuple[Number, ...]:
        """Input positions per position, for each axis."""
        return tuple(r.jump for r in self.reach)

    @property
    def field(self) -> tuple[Number, ...]:
        """Receptive field in input positions, for each axis; math.inf sees all of the input."""
        return tuple(r.size if self.spatial else math.inf for r in self.reach)


class Trace:
    """A network traced at one input shape. Made by `Network.trace`.

    Attributes:
      layers: by name, in the order of computation.
      outputs: {what the network calls it ('stage1', 'logits'): name of the layer}.
    """

    def __init__(self, model: Any, variables: Any, shape: tuple[int, ...]):
        modules: list[tuple[str, str]] = []

        def keep(module: Any, method: str) -> bool:
            if method == "__call__" and module.path:
                modules.append(("/".join(module.path), type(module).__name__))
                return True
            return False

        def forward(variables: Any, x: Array) -> tuple[Any, list[Any]]:
            modules.clear()
            out, state = model.apply(
                variables, x, train=False, capture_intermediates=keep, mutable=["intermediates"]
            )
            return out, [_at(state["intermediates"], path) for path, _ in modules]

        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        self.closed, (out, kept) = jax.make_jaxpr(forward, return_shape=True)(variables, x)
        self.rank = len(shape) - 2
        names = [("", f"out:{key}") for key in sorted(out)]  # as the flattened outputs come
        for (path, kind), value in zip(modules, kept, strict=True):
            leaves = len(jax.tree.leaves(value))
            names += [(path, kind)] if leaves == 1 else [("", "")] * leaves
        flat = jax.tree.leaves(variables)
        found: dict[Any, Any] = {}
        start = [None] * len(flat) + [input_reaches(self.rank)]
        reaches(self.closed.jaxpr, start, found.__setitem__)
        params = tree.flatten(variables["params"])
        self._variables: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self.layers: dict[str, Layer] = {}
        self.outputs: dict[str, str] = {}
        self._name(names, found, params)

    def _name(
        self, names: list[tuple[str, str]], found: Mapping[Any, Any], params: Mapping[str, Any]
    ) -> None:
        jaxpr = self.closed.jaxpr
        returned: dict[Any, list[tuple[str, str]]] = {}
        for variable, name in zip(jaxpr.outvars, names, strict=True):
            if not isinstance(variable, Literal) and any(name):
                returned.setdefault(variable, []).append(name)
        by_variable: dict[Any, str] = {}
        maker = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
        for equation in jaxpr.eqns:
            variable = equation.outvars[0]
            who, reach = returned.get(variable, []), found.get(variable)
            if reach is None:
                continue
            modules = [(path, kind) for path, kind in who if path and kind not in IDENTITIES]
            outputs = [kind.removeprefix("out:") for path, kind in who if not path]
            function = _function(equation, found, maker)
            if function and function != "global_pool":
                source = maker[equation.invars[0]] if function == "avg_pool" else equation
                inputs = [v for v in source.invars if not isinstance(v, Literal)]
                above = _path(equation) or next(
                    (by_variable[v] for v in inputs if v in by_variable), ""
                )
                name, kind = f"{above}/{function}".strip("/"), function
            elif modules:
                name, kind = modules[0][0], KINDS.get(modules[0][1], modules[0][1])
            elif outputs:
                name, kind = outputs[0], function or "flatten"
            else:
                continue
            name = self._free(name)
            own = re.compile(re.escape(name) + "/[^/]+")
            aliases = [
                alias for alias in [*(path for path, _ in modules), *outputs] if alias != name
            ]
            self.layers[name] = Layer(
                name,
                kind,
                tuple(variable.aval.shape[1:]),
                sum(math.prod(a.shape) for path, a in params.items() if own.fullmatch(path)),
                tuple(dict.fromkeys(aliases)),
                reach,
            )
            by_variable[variable] = name
            self._variables[name] = variable
            if kind in ACTIVATIONS:
                self._before[name] = equation.invars[0]
            self.outputs |= dict.fromkeys(outputs, name)

    def _free(self, name: str) -> str:
        if name not in self.layers:
            return name
        return next(f"{name}{n}" for n in range(2, 10_000) if f"{name}{n}" not in self.layers)

    @property
    def stages(self) -> list[Layer]:
        """What the network offers as its stages, in order."""
        named = [key for key in self.outputs if re.fullmatch(r"stage\d+", key)]
        return [
            self.layers[self.outputs[key]] for key in sorted(named, key=lambda key: int(key[5:]))
        ]

    def run(
        self,
        variables: Any,
        x: Float[Array, "b *space c"],
        taps: Sequence[str],
        plus: Mapping[str, Array] | None = None,
        before: Sequence[str] = (),
        antialias: bool = False,
    ) -> dict[str, Array]:
        """Values of the layers `taps`; to be jitted, by which what they do not need is left out.

        Args:
          plus: added to a layer before anything reads it.
          before: activations of which to give the input too, as 'NAME:in'.
          antialias: let every strided window run at stride 1, with `blur_pool` behind it taking the steps.
        """
        moved = {self._variables[name]: value for name, value in (plus or {}).items()}
        jaxpr, values = self.closed.jaxpr, {}
        values.update(zip(jaxpr.constvars, self.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, [*jax.tree.leaves(variables), x], strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            steps = strides_of(equation) if antialias else ()
            params = at_stride_1(equation) if steps else {}
            results = apply(equation, [read(variable) for variable in equation.invars], params)
            if steps:
                results = [blur_pool(results[0], strides=steps)]
            for variable, value in zip(equation.outvars, results, strict=True):
                values[variable] = value + moved[variable] if variable in moved else value
        found = {name: values[self._variables[name]] for name in taps}
        return found | {
            f"{name}:in": read(self._before[name]) for name in before if name in self._before
        }

    def rectified(self, name: str) -> bool:
        """Whether the layer is an activation, so that its input can be read too."""
        return name in self._before


def _at(intermediates: Any, path: str) -> Any:
    for part in path.split("/"):
        intermediates = intermediates[part]
    # A module that is called several times (shared weights) leaves one value for each; the last one counts.
    return intermediates["__call__"][-1]


def _path(equation: Any) -> str:
    """The module in which an operation stands, as Flax scopes say it; '' for the network itself."""
    parts = str(equation.source_info.name_stack).split("/")[1:]
    return "/".join(part for part in parts if "." not in part)


def _function(equation: Any, found: Mapping[Any, Any], maker: Mapping[Any, Any]) -> str:
    """The name of what an operation does, where it is one that is a layer; ''."""
    name, called = equation.primitive.name, equation.params.get("name", "")
    if name in ("custom_jvp_call", "custom_vjp_call"):
        inner = equation.params["call_jaxpr"].eqns
        called = inner[0].params.get("name", "") if inner else ""
    if called in ACTIVATIONS:
        return called
    operands = [
        v for v in equation.invars if not isinstance(v, Literal) and found.get(v) is not None
    ]
    if name == "add":  # residual where both sides come from the input and are whole feature maps
        shapes = {v.aval.shape for v in operands}
        return (
            "add"
            if len(operands) == 2 and len(shapes) == 1 and len(operands[0].aval.shape) > 2
            else ""
        )
    if name == "div" and operands and operands[0] in maker:
        summed = maker[operands[0]].primitive.name
        return {"reduce_window_sum": "avg_pool", "reduce_sum": "global_pool"}.get(summed, "")
    return FUNCTIONS.get(name, "")


class Network:
    """A model with its variables, traced at any input shape.

    Args:
      variables: {'params', 'batch_stats'}.
    """

    def __init__(self, model: Any, variables: Any):
        if getattr(model, "remat", False):
            model = model.clone(remat=False)  # recomputed blocks would hide what is in them
        self.model = model
        self.variables = {
            "params": variables["params"],
            "batch_stats": variables.get("batch_stats", {}),
        }
        self.trace = functools.cache(self._trace)
        self._reader = functools.cache(self._make_reader)

    def _trace(self, shape: tuple[int, ...]) -> Trace:
        return Trace(self.model, self.variables, shape)

    def read(
        self,
        x: Float[np.ndarray, "b *space c"],
        names: Sequence[str],
        *,
        before: bool = False,
        antialias: bool = False,
    ) -> dict[str, np.ndarray]:
        """The layers' values [b, *space, c] or [b, c] on an input, float32; see `Trace.run`.

        Args:
          before: also the inputs of activations, as 'NAME:in'.
        """
        run = self._reader(x.shape, tuple(names), before, antialias)
        found = jax.device_get(run(self.variables, np.asarray(x, np.float32)))
        return {name: np.asarray(value, np.float32) for name, value in found.items()}

    def _make_reader(
        self, shape: tuple[int, ...], names: tuple[str, ...], before: bool, antialias: bool
    ) -> Any:
        trace = self.trace(shape)
        read = names if before else ()
        return jax.jit(
            lambda variables, x: trace.run(variables, x, names, before=read, antialias=antialias)
        )

    @functools.cached_property
    def headless(self) -> "Network":
        """The same without classifier, so that other sizes fit networks that flatten; those for pixels do not."""
        if isinstance(self.model, DensePrediction):
            return self
        variables = self.variables["params"]
        params = {key: value for key, value in variables.items() if key != "head"}
        return Network(self.model.clone(num_classes=0), self.variables | {"params": params})

    def parameters(self) -> int:
        """Parameters in all."""
        return tree.size(self.variables["params"])


def chosen(trace: Trace, pattern: str) -> list[Layer]:
    """The layers whose name or alias matches the regex; all for ''.

    Raises:
      UserError: no regex, or none matches.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--layers '{pattern}' is no regular expression: {error}") from error
    found = [
        x
        for x in trace.layers.values()
        if any(wanted.search(name) for name in (x.name, *x.aliases))
    ]
    if not found:
        some = ", ".join(list(trace.layers)[:6])
        raise UserError(
            f"--layers '{pattern}' matches no layer; there are {len(trace.layers)}: {some}, ..."
        )
    return found
