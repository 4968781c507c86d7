"""Stores what PyTorch's networks answer with the weights of `formula`: the references of tests/models/test_parity.py.

    pip install -e '.[parity]'
    python -m experiments.parity.torch_logits [NAME ...]      # writes tests/models/parity/NAME.npz

Each file has the logits [k], or some of those of all pixels [h, w, k], the names and shapes of the state in PyTorch's
layout, and for some networks (every 16th channel of) the running statistics after one step of training mode. Networks
are full size, pictures small.
"""

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.parity import formula
from experiments.parity.rows import ROWS, Row

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "models" / "parity"


@functools.cache
def declare_operators_of_torchvision() -> Any:
    """A CPU build of PyTorch beside torchvision's wheel lacks its compiled operators, which no classifier uses."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    operators = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
    backward = tuple(f"_{name}_backward" for name in operators[2:])
    for name in operators + backward:
        library.define(f"{name}(Tensor a) -> Tensor")
    return library  # kept by the cache: it unregisters when it is collected


def build(row: Row):
    """The PyTorch module of a row, in evaluation mode with the weights of the formula."""
    import torch

    if row.library == "timm":
        module = importlib.import_module("timm").create_model(row.foreign, pretrained=False, **row.options)
    else:
        models = importlib.import_module("torchvision.models")
        module = models.get_model(row.foreign, weights=None, **row.options)
    state = module.state_dict()  # shares memory with the module; torchvision's MNASNet loads no plain dict
    for key, value in state.items():
        if value.is_floating_point():
            value.copy_(torch.from_numpy(formula.tensor(key, value.shape, row.damp)))
    return module.eval(), state


def _of_pixels(answer: dict[str, Any], every: int) -> dict[str, Any]:
    """`logits` and, where there is an auxiliary head, `aux`, [h, w, k]."""
    names = {"out": "logits", "aux": "aux"}
    kept = {names[key]: value[0, :, ::every, ::every].numpy().transpose(1, 2, 0) for key, value in answer.items()}
    return kept | {"every": np.int64(every)}


def store(name: str, row: Row) -> None:
    """Runs one network and writes its file."""
    import torch

    module, state = build(row)
    image = torch.from_numpy(formula.picture((row.size, row.size, 3)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        answer = module(image)
        found = _of_pixels(answer, row.every) if isinstance(answer, dict) else {"logits": answer[0].numpy()}
        found["size"] = np.int64(row.size)
        if row.train:
            module.train()
            module(torch.cat([image, image.flip(-1), -image, image.flip(-2)]))
            found |= {
                f"after/{key}": value[::16].numpy()
                for key, value in module.state_dict().items()
                if key.endswith(("running_mean", "running_var"))
            }
    layout = [[key, list(value.shape)] for key, value in state.items() if value.is_floating_point()]
    described = {"library": row.library, "model": row.model, "options": row.ours, "damp": row.damp}
    logits = found["logits"]
    found["layout"] = np.array(json.dumps(described | {"state": layout}))
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **found)
    print(f"{name}: logits {logits.std():.3g} +- {logits.mean():.3g}, {len(layout)} tensors", flush=True)


def main(names: list[str]) -> None:
    """The command line."""
    declare_operators_of_torchvision()
    for name, row in ROWS.items():
        if not names or name in names:
            store(name, row)


if __name__ == "__main__":
    main(sys.argv[1:])
