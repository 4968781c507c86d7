"""Parameters, multiply-adds and stages of every model at its own input size, and the file that keeps them.

    python -m cnn.models.facts     # measures all of MODELS and rewrites cnn/models/facts.csv

`cnn list models` reads the file, because measuring imports JAX and takes a second for each model. A test
measures every model again and compares.
"""

import csv
import functools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# `cnn.layers.resample`: a matrix product by choice, most of whose factors are 0. torchvision and timm count it as none.
INTERPOLATION = "linear_resize"
FILE = Path(__file__).with_suffix(".csv")


class Facts(NamedTuple):
    """What a model is made of, with the head of its entry in MODELS.

    Attributes:
      params: parameters; running statistics are none.
      macs: multiply-adds of convolutions and matrix products for one example.
      strides, channels: of each stage.
    """

    params: int
    macs: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]


@functools.cache
def stored() -> dict[str, Facts]:
    """The file's rows by model; imports no JAX."""
    with open(FILE, encoding="utf-8", newline="") as file:
        return {
            row["name"]: Facts(
                int(row["params"]),
                int(row["macs"]),
                *(tuple(int(n) for n in row[key].split()) for key in ("strides", "channels")),
            )
            for row in csv.DictReader(file)
        }


def multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of all convolutions and matrix products in a closed jaxpr."""
    return sum(_of(equation) for equation in _equations(jaxpr.jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.params.get("name") == INTERPOLATION:
            continue
        inner = [
            value
            for parameter in equation.params.values()
            for value in (parameter if isinstance(parameter, list | tuple) else [parameter])
            if hasattr(value, "eqns") or hasattr(value, "jaxpr")
        ]
        if inner:
            for value in inner[:1] if equation.primitive.name.startswith("custom_") else inner:
                yield from _equations(getattr(value, "jaxpr", value))
        else:
            yield equation


def _of(equation: Any) -> int:
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        return out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "cnn_conv":  # cnn.layers.lowering; the kernel is [*window, i / groups, o]
        kernel = equation.invars[1].aval
        return out.size * kernel.size // kernel.shape[-1]
    return 0


def measure(name: str, size: tuple[int, ...] = (), **options: Any) -> tuple[Facts, Any, Any]:
    """The facts of a model, the shapes of its outputs and of its variables; computes no number.

    Args:
      size: shape [*space, c] of the example; () for that of its entry in MODELS.
    """
    import jax
    import jax.numpy as jnp

    from cnn.models import MODELS, build_model

    model = build_model(name, {"num_classes": MODELS[name].classes} | options)
    example = jnp.zeros((1, *(size or MODELS[name].input)))
    key = jax.random.key(0)
    jaxpr, (out, variables) = jax.make_jaxpr(
        lambda: model.init_with_output(key, example, train=False), return_shape=True
    )()
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    facts = Facts(params, multiply_adds(jaxpr), model.feature_strides, model.feature_channels)
    return facts, out, variables


def main() -> None:
    """Rewrites the file."""
    from cnn.models import MODELS

    rows = []
    for name in MODELS:
        facts, _, _ = measure(name)
        print(f"{name}: {facts.params:,} parameters, {facts.macs / 1e9:.3f} GMACs", file=sys.stderr, flush=True)
        rows.append([name, facts.params, facts.macs, *(" ".join(map(str, f)) for f in facts[2:])])
    with open(FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *Facts._fields])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
