"""`cnn inspect`: looks inside a trained network on an input of yours.

    cnn inspect --workdir=runs/mine photo.jpg --out=inside
    cnn inspect --workdir=runs/mine photo.jpg --data=photos/ --layers='stage[12]$'

Writes PNG files and one page, index.html, that tells the story of the layers on that input: filters, feature maps,
what excites a channel, Grad-CAM, occlusion, receptive fields, dead units, equivariance.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn import flags
from cnn.errors import UserError, printable
from cnn.inference.inputs import find
from cnn.inference.network_flags import add_network, chosen
from cnn.inference.predictor import Predictor
from cnn.inspect import story
from cnn.inspect.attribution import effective_size
from cnn.inspect.findings import Findings, look
from cnn.inspect.network import Network
from cnn.paths import output_folder
from cnn.run.workdir import to_json


def inspect(
    predictor: Predictor,
    path: Any,
    name: str,
    layers: str = "",
    examples: tuple[Any, ...] = (),
    say: Callable[[str], None] = lambda part: None,
) -> Findings:
    """Everything that is measured of one input (a file or an array).

    Args:
      layers: regex over the names of layers; '' for the network's stages.
      examples: more inputs, for statistics and the patches that excite a channel.
      say: is told what is measured next.
    """
    key, task = predictor.info.input_key, predictor.built.task
    raw = predictor.example(path)[key]
    more = [predictor.example(one)[key] for one in examples]
    if any(one.shape != raw.shape for one in more):
        other = next(one.shape for one in more if one.shape != raw.shape)
        raise UserError(
            f"--data: an input of shape {other} beside {raw.shape}: all must have one shape"
        )
    variables = jax.device_put(jax.device_get(predictor.variables), jax.local_devices()[0])
    network = Network(predictor.built.model, variables)
    to_network = jax.jit(lambda batch: task.inputs({key: batch}))
    return look(name, predictor.card, network, raw, to_network, layers, more, say)


def as_json(f: Findings) -> dict[str, Any]:
    """The numbers."""
    layers = [
        {
            "name": a.name,
            "kind": a.kind,
            "shape": a.shape,
            "parameters": a.params,
            "receptive_field": a.field,  # null: all of the input
            "effective_field": effective_size(f.effective[a.name])
            if a.name in f.effective
            else None,
            "strides": a.strides if a.spatial else None,
            "activity": f.activity[a.name]._asdict(),
            "equivariance": f.equivariance[a.name]._asdict() if a.name in f.equivariance else None,
        }
        for a in f.trace.layers.values()
    ]
    found: dict[str, Any] = {
        "input": f.name,
        "parameters": f.network.parameters(),
        "examples": f.batch,
    }
    if f.target is not None:
        found["class"] = f.classes[f.target] if f.classes else f.target
        found["probability"] = float(f.probs[f.target])
        found["largest_fall_by_occlusion"] = float(f.occluded.max())
    return found | {"layers": layers}


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("inspect", __doc__)
    parser.add_argument(
        "path", metavar="FILE", help="an image, a series (.npy, .csv, .ts) or a volume"
    )
    add_network(parser)
    parser.add_argument(
        "--out", default="", metavar="DIR", help="default: inspect/NAME in the workdir, or here"
    )
    parser.add_argument(
        "--layers", default="", metavar="REGEX", help="which layers; default: the stages"
    )
    parser.add_argument(
        "--data", default="", metavar="DIR", help="more inputs: files, for statistics and patches"
    )
    parser.add_argument(
        "--examples", type=int, default=64, help="at most so many of them (default 64)"
    )
    parser.add_argument(
        "--slice",
        type=int,
        default=-1,
        help="of a volume, along its first axis; default: the middle",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    args, _ = parser.parse(argv)
    if args.examples < 1:
        raise UserError(f"--examples={args.examples} must be positive")
    predictor = chosen(args)
    path, *others = find([args.path], predictor.info.input_key)
    if others:
        raise UserError(f"'{printable(args.path)}' stands for {1 + len(others)} files; give one")
    more = tuple(find([args.data], predictor.info.input_key))[: args.examples] if args.data else ()
    at = _slice(args.slice, predictor.example(path)[predictor.info.input_key].shape)
    folder = output_folder(args.out or Path(args.workdir) / "inspect" / Path(path).stem, "--out")
    found = inspect(predictor, path, Path(path).name, args.layers, more, _say)
    _say("pictures and page")
    page, pictures = story.write(found, folder, at)
    if args.json:
        print(
            to_json(
                json.loads(
                    json.dumps(
                        as_json(found) | {"page": str(page), "pictures": pictures}, default=_plain
                    )
                )
            )
        )
    else:
        print(
            f"{page} ({page.stat().st_size / 1e6:.1f} MB, opens without a network) and {len(pictures)} PNG files"
        )
    return 0


def _say(part: str) -> None:
    print(f"inspect: {part} ...", file=sys.stderr, flush=True)


def _slice(index: int, shape: tuple[int, ...]) -> float:
    """Where a volume is cut, in [0, 1).

    Raises:
      UserError: `index` is for something else than a volume, or outside it.
    """
    if index == -1:
        return 0.5
    if len(shape) != 4:
        raise UserError(f"--slice is for volumes; this input has shape {shape}")
    if not 0 <= index < shape[0]:
        raise UserError(f"--slice={index} is outside 0..{shape[0] - 1}")
    return (index + 0.5) / shape[0]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else math.nan
