"""An imported network as an ordinary checkpoint: its config, its model card, and the folder."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from cnn import config as configs
from cnn.build import Built, build
from cnn.card import make_card, spec_of
from cnn.convert.labels import IMAGENET_CLASSES, imagenet_classes
from cnn.errors import UserError
from cnn.features import LABEL, DatasetInfo, Feature
from cnn.models import MODELS, TASK_OF
from cnn.run.checkpoint import FOLDER, Checkpoints
from cnn.state import TrainState
from cnn.stopping import Best

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What was done to the pictures that the weights were made for; it travels with them.

    Attributes:
      size: pixels of the square that the network sees.
      short: pixels of the short side before the middle is cut out.
      method: of resizing: 'area', 'bilinear' or 'bicubic'.
      mean, std: per channel, of images in [0, 1].
    """

    size: int = 224
    short: int = 256
    method: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def transforms(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """As `input.eval_transforms` holds them."""
        return (
            ("channels", {"count": len(self.mean)}),
            ("resize_short", {"size": self.short, "method": self.method}),
            ("center_crop", {"size": self.size}),
        )


def dataset_info(
    classes: tuple[str, ...] | int, channels: int = 3, name: str = "", gives: str = "classes"
) -> DatasetInfo:
    """The facts of pictures of any size; for a number of classes, ImageNet's names or plain numbers.

    Args:
      name: of the data set that `cnn evaluate` would score; default: imagenet2012 for 1000 classes, else folder.
      gives: what the network gives (`ModelEntry`): a label, or a mask.
    """
    if isinstance(classes, int):
        known = classes == IMAGENET_CLASSES
        classes = imagenet_classes() if known else tuple(str(label) for label in range(classes))
    name = name or ("imagenet2012" if len(classes) == IMAGENET_CLASSES else "folder")
    targets = {"mask": Feature.mask(None, None)} if gives == "pixels" else {"label": LABEL}
    return DatasetInfo(name, {"image": Feature.image(None, None, channels)}, targets, tuple(classes))


def network(
    model_name: str,
    options: Mapping[str, Any],
    info: DatasetInfo,
    preprocessing: Preprocessing,
) -> Built:
    """The network, with a config that evaluates and predicts as the weights' authors did.

    Raises:
      UserError: unknown model, or an option or input size that it does not take.
    """
    c = configs.default()
    c.model = ConfigDict({"name": model_name, **options})
    c.task.name = TASK_OF[MODELS[model_name].gives]
    c.input.dataset = info.name
    c.input.eval_transforms = preprocessing.transforms()
    c.input.mean, c.input.std = preprocessing.mean, preprocessing.std
    if info.name == "imagenet2012":
        c.eval.test_split = "validation"  # its test split has no labels
    c.total_steps = 1  # never trained here, but the config must be a whole one
    shape = (preprocessing.size, preprocessing.size, len(preprocessing.mean))
    spec = spec_of(info)
    return build(c.lock(), info, spec | {"image": (shape, spec["image"][1])})


def write(built: Built, variables: Mapping[str, Any], folder: Path, source: Mapping[str, Any]) -> Path:
    """Writes `variables` as step 0 of `folder/checkpoints`; whole or not at all.

    Args:
      source: JSON of where the weights came from, kept in the metadata.

    Raises:
      UserError: there is a checkpoint already, or the folder cannot be written.
    """
    if (folder / FOLDER).exists():
        raise UserError(f"'{folder}' holds checkpoints already; choose another --out, or delete that folder")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        checkpoints = Checkpoints(epath.Path(part.absolute()) / FOLDER)
        meta = {
            "step": 0,
            "position": 0,
            "config": built.config.to_dict(),
            "card": make_card(built.config, built.info, built.spec),
            "data": "",
            "loop": Best(built.config.eval.mode).to_json(),
            "source": dict(source),
        }
        checkpoints.save(_state(variables), meta)
        checkpoints.close()
        _put(part, folder)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {error.strerror}; choose another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _put(part: Path, folder: Path) -> None:
    """The finished folder in its place. Another process may have been faster, or an empty folder be there."""
    folder.mkdir(exist_ok=True)
    try:
        (part / FOLDER).rename(folder / FOLDER)
    except OSError:
        if not (folder / FOLDER).exists():
            raise


def _state(variables: Mapping[str, Any]) -> TrainState:
    arrays = {
        root: _as_arrays(variables.get(root, {})) for root in ("params", "batch_stats")
    }
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero - 1, arrays["params"], arrays["batch_stats"], opt_state={}, ema={})


def _as_arrays(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _as_arrays(child) for name, child in node.items()}
    return jnp.asarray(node)
