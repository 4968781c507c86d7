"""Metadata of older checkpoints, brought to today's format, so that their runs load, predict and resume.

    1   transforms by name, {name: options}, applied in one fixed order; one input and one target, with their shapes
    2   transforms in the order of the config; features with axes, and the shape of a transformed example

Arrays are the same in both. Imports no JAX.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cnn import config as configs
from cnn.card import FORMAT, info_from_card, preprocessing
from cnn.errors import UserError
from cnn.features import KINDS, LABEL, SPACING, Feature
from cnn.transforms import FORMAT_1_ORDER

TASKS = {"labelling": "sequence_labelling"}
MODELS = {
    "fpn_resnet50": "semantic_fpn_resnet50",
    "cnn.models.fpn:fpn_resnet50": "cnn.models.semantic_fpn:semantic_fpn_resnet50",
}
OPTIONS = {  # {model: {old option: new option}}
    "series_fcn": {"windows": "kernel_sizes"},
    "series_inception_time": {"windows": "kernel_sizes"},
}
OPTIONS |= {f"cnn.models.series:{name}": renamed for name, renamed in OPTIONS.items()}
FREE_GROUPS = ("task", "model")  # whose fields are options, without defaults in `cnn.config.default`
TRANSFORMS = ("train_transforms", "eval_transforms")


def upgraded(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint in today's format.

    Raises:
      UserError: the format is newer than this version, or it describes what this version does not have.
    """
    version = meta["format"]
    if version > FORMAT:
        raise UserError(f"it has format {version}, this version of cnn reads up to {FORMAT}; upgrade cnn")
    if version == FORMAT:
        return dict(meta)
    config, card = upgraded_config(meta["config"]), _card(meta["card"])
    card["preprocess"] = preprocessing(config, info_from_card(card))
    return {**meta, "format": FORMAT, "config": config, "card": card}


def upgraded_config(config: Any) -> dict[str, Any]:
    """A config, as JSON holds it, of any format: today's names, transforms in order, new fields with their defaults.

    Raises:
      TypeError: it is no JSON object.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"a {type(config).__name__} in place of an object")
    new = {name: dict(group) if isinstance(group, Mapping) else group for name, group in config.items()}
    new["task"]["name"] = TASKS.get(new["task"]["name"], new["task"]["name"])
    new["model"] = _model(new["model"])
    for name in TRANSFORMS:
        new["input"][name] = ordered(new["input"][name])
    return _with_defaults(new, json.loads(configs.to_json(configs.default())))


def ordered(steps: Mapping[str, Any] | Iterable[Any]) -> list[list[Any]]:
    """Transforms in the order in which they are applied, [[name, options], ...]."""
    if not isinstance(steps, Mapping):
        return [[name, options] for name, options in steps]
    places = {name: place for place, name in enumerate(FORMAT_1_ORDER)}
    missing = sorted(steps.keys() - places.keys())
    if missing:
        raise UserError(f"its transform '{missing[0]}' is none of an older format; restore config.json from a copy")
    return [[name, dict(steps[name])] for name in sorted(steps, key=places.__getitem__)]


def _model(options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's name and options, those of its backbone too."""
    name = options.get("name", "")
    new = {OPTIONS.get(name, {}).get(key, key): value for key, value in options.items()}
    if isinstance(new.get("backbone"), Mapping):
        new["backbone"] = _model(new["backbone"])
    return {**new, "name": MODELS.get(name, name)}


def _with_defaults(config: dict[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """`config` and the fields that it lacks."""
    added = {key: value for key, value in default.items() if key not in config}
    both = {
        key: _with_defaults(value, default[key]) if key not in FREE_GROUPS and isinstance(value, dict) else value
        for key, value in config.items()
        if key in default
    }
    return {**config, **both, **added}


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    """A model card of format 1 in today's."""
    old = ("input", "input_shape", "target", "target_shape", "network_shape")
    kind, target = card["input"], card.get("target", "label")
    if kind not in KINDS:
        raise UserError(f"its input '{kind}' is unknown to this version of cnn; use the version that wrote it")
    main = KINDS[kind](*card["input_shape"])
    inputs = {kind: main} | ({"spacing": SPACING} if kind == "volume" else {})
    targets = {target: _target(target, card.get("target_shape", ()))}
    shape = tuple(card.get("network_shape") or main.sized())
    shapes = {name: shape if name == kind else feature.sized() for name, feature in inputs.items()}
    shapes[target] = shape[:-1] if target == "mask" else targets[target].sized()
    features = {**inputs, **targets}
    return {
        **{key: value for key, value in card.items() if key not in old},
        "task": TASKS.get(card["task"], card["task"]),
        "model": MODELS.get(card["model"], card["model"]),
        "vocabulary": [],
        "inputs": {name: feature.to_json() for name, feature in inputs.items()},
        "targets": {name: feature.to_json() for name, feature in targets.items()},
        "spec": {name: [list(shapes[name]), features[name].dtype] for name in features},
        "eval_transforms": ordered(card["eval_transforms"]),
    }


def _target(name: str, shape: Iterable[int | None]) -> Feature:
    if name == "label":
        return LABEL
    made = {"labels": Feature.labels, "target": Feature.numbers, "mask": Feature.mask}
    if name not in made:
        raise UserError(f"its target '{name}' is unknown to this version of cnn; use the version that wrote it")
    return made[name](*shape)
