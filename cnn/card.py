"""The model card: what someone who has only a checkpoint must know to use its network. Plain JSON; imports no JAX."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnn.features import LENGTH, DatasetInfo, Feature

FORMAT = 2  # of a checkpoint's metadata, the card included
Transforms = tuple[tuple[str, Mapping[str, Any]], ...]
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and type of each entry of one transformed example


def spec_of(info: DatasetInfo) -> Spec:
    """The examples of a data set before the transforms, with 64 entries along the axes that it leaves open."""
    found: Spec = {name: (feature.sized(), np.dtype(feature.dtype)) for name, feature in info.features.items()}
    return found | {name + LENGTH: ((), np.dtype(np.int32)) for name in info.ragged}


def make_card(config: ConfigDict, info: DatasetInfo, spec: Spec) -> dict[str, Any]:
    """The card of a network that a config describes.

    Args:
      spec: of an example after the transforms of evaluation.
    """
    return {
        "task": config.task.name,
        "model": config.model.name,
        "dataset": info.name,
        "classes": list(info.class_names),
        "vocabulary": list(info.vocabulary),
        "inputs": {name: feature.to_json() for name, feature in info.inputs.items()},
        "targets": {name: feature.to_json() for name, feature in info.targets.items()},
        "spec": {name: [list(shape), dtype.name] for name, (shape, dtype) in spec.items()},
        "mean": list(config.input.mean),
        "std": list(config.input.std),
        "eval_transforms": [[name, dict(options)] for name, options in config.input.eval_transforms],
        "preprocess": preprocessing(config, info),
    }


def preprocessing(config: Mapping[str, Any] | ConfigDict, info: DatasetInfo) -> dict[str, Any]:
    """What is done to a raw input besides the transforms of evaluation.

    Args:
      config: a whole one, resolved or as JSON holds it.

    Returns:
      before: transforms, [name, options] each, that come first: those of the data set; images get their channels and,
        where all had one size and no transform of evaluation changes it, that size.
      window: voxels along d, h, w that the network was trained on, None if it saw whole inputs.
    """
    main, given = info.inputs[info.input_key], config["input"]
    before = list(info.preparation)
    if info.input_key == "image" and main.dtype == "uint8":
        if main.shape[-1] in (None, 1, 3):
            before.append(("channels", {"count": main.shape[-1] or 3}))
        if None not in main.shape and not given["eval_transforms"]:
            before.append(("resize", {"size": main.shape[:2]}))
    patch = dict(given["train_transforms"]).get("volume_patch", {}).get("size")
    return {
        "before": [[name, dict(options)] for name, options in before],
        "window": [patch] * 3 if isinstance(patch, int) else patch and list(patch),
    }


def transforms_of(saved: Any) -> Transforms:
    """(name, options) of each transform as a card holds them, with tuples for JSON's lists."""
    return tuple((name, {key: _tuples(value) for key, value in options.items()}) for name, options in saved)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def info_from_card(card: Mapping[str, Any]) -> DatasetInfo:
    """The data set's facts as a checkpoint tells them, so that predicting needs no data."""
    inputs, targets = (
        {name: Feature.from_json(found) for name, found in card[part].items()} for part in ("inputs", "targets")
    )
    return DatasetInfo(card["dataset"], inputs, targets, tuple(card["classes"]), tuple(card["vocabulary"]))


def spec_from_card(card: Mapping[str, Any]) -> Spec:
    """The example that the network was made for."""
    return {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in card["spec"].items()}
