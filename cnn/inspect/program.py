"""Single operations of a traced program: running one, and what it strides by."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from cnn.inspect.receptive import CALLS, inner_jaxpr


def apply(equation: Any, operands: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """The results of one operation, `params` replacing some of its parameters."""
    if (
        equation.primitive.name in CALLS
    ):  # as it stands, so that a derivative of its own stays with it
        inputs = [v for v in equation.invars if not isinstance(v, Literal)]
        debug_info = inner_jaxpr(equation).debug_info
        alone = Jaxpr(
            (), list(dict.fromkeys(inputs)), equation.outvars, [equation], debug_info=debug_info
        )
        known = {
            v: value
            for v, value in zip(equation.invars, operands, strict=True)
            if not isinstance(v, Literal)
        }
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*known.values())
    result = equation.primitive.bind(*operands, **(equation.params | params))
    return result if equation.primitive.multiple_results else [result]


def strides_of(equation: Any) -> tuple[int, ...]:
    """The strides of a convolution or a max pool with channels last; () where none is above 1."""
    params = equation.params
    if equation.primitive.name in ("cnn_conv", "cnn_max_pool"):
        steps = params["spec"].strides
    elif equation.primitive.name == "conv_general_dilated":
        steps = params["window_strides"]
    elif equation.primitive.name == "reduce_window_max":
        steps = params["window_strides"][1:-1]
    else:
        return ()
    return tuple(steps) if any(step > 1 for step in steps) else ()


def at_stride_1(equation: Any) -> dict[str, Any]:
    """The parameters that differ when such a window runs at stride 1."""
    if "spec" in equation.params:
        spec = equation.params["spec"]
        return {"spec": spec._replace(strides=(1,) * len(spec.strides))}
    return {"window_strides": (1,) * len(equation.params["window_strides"])}
