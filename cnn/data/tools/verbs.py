"""`cnn data prepare|show|check|plan`: make a data set ready, look at it, search it for mistakes, plan a training."""

import json
import sys
from pathlib import Path
from typing import Any

from cnn import config as configs
from cnn import flags
from cnn.data import DATASETS, Dataset, open_dataset
from cnn.errors import UserError, unknown
from cnn.paths import output_folder
from cnn.transforms import build_transforms, check_transforms

ABOUT = {
    "prepare": "Downloads or generates a data set and writes it as ArrayRecord files, once.",
    "show": "Prints sizes, shapes, mean and standard deviation; draws augmented examples.",
    "check": "Reads every example: decoding, finite values, labels, duplicates, leaks between splits, features "
    "that tell the answer alone. "
    "Ends with exit code 1 when something is wrong.",
    "plan": "Writes a training config for a folder of volumes: spacing, patch, depth and batch for a memory, and why.",
}


def main(argv: list[str]) -> int:
    """Runs `cnn data ACTION ...` and returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: cnn data {{{','.join(ABOUT)}}} NAME|DIR|--config=FILE [arguments]\n")
        print("\n".join(f"  {action:<8} {about}" for action, about in ABOUT.items()))
        print(f"\ndata sets: {', '.join(DATASETS)}")
        return 0
    action, rest = argv[0], argv[1:]
    if action not in ABOUT:
        raise unknown("action of `cnn data`", action, ABOUT)
    if action == "plan":
        return plan(rest)
    parser = flags.Parser(f"data {action}", ABOUT[action])
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--data_dir", default="", help="where data sets are kept; for 'folder' the folder")
    parser.add_config(required=False)
    if action == "show":
        parser.add_argument("--out", default="", help="where the pictures go; default data_NAME")
        parser.add_argument("--split", default="", help="the split to draw; default the training one")
    if action != "prepare":
        parser.add_argument("--json", action="store_true", help="prints one JSON object instead of text")
    args, overrides = parser.parse(rest)
    if bool(args.name) == bool(args.config):
        raise UserError(f"cnn data {action} takes a NAME or --config=FILE. Names: {', '.join(DATASETS)}")
    if args.config:
        config = flags.load_config(args.config, overrides)
    else:
        config = configs.default()
        config.input.dataset = args.name
    if args.data_dir:
        config.input.data_dir = args.data_dir
    return {"prepare": prepare, "show": show, "check": check}[action](config, args)


def prepare(config: Any, args: Any) -> int:
    """Makes the data set ready and says what there is."""
    dataset = _open(config)
    sizes = ", ".join(f"{split} {size}" for split, size in dataset.splits.items())
    shape = "x".join(str(size or "?") for size in dataset.info.input_shape)
    print(f"{dataset.info.name}: {sizes}; {dataset.info.input_key} {shape}; {_answer(dataset)}")
    return 0


def show(config: Any, args: Any) -> int:
    """Prints statistics and writes contact_sheet.png (of volumes slices.png) and class_balance.png."""
    from cnn.data.tools import check as checks
    from cnn.data.tools import pictures, slices

    dataset = _open(config)
    splits = _splits(config, dataset, bool(args.config))
    stats = {split: checks.statistics(dataset, split) for split in splits}
    transforms = build_transforms(config.input.train_transforms)
    check_transforms(transforms, dataset.info)
    out = output_folder(args.out or f"data_{dataset.info.name}", "--out")
    drawn = args.split or splits[0]
    files = []
    if dataset.info.target_key == "label" or dataset.info.input_key == "image":
        files.append(pictures.contact_sheet(dataset, drawn, transforms, out / "contact_sheet.png"))
    elif dataset.info.input_key == "volume":
        files.append(slices.slice_sheet(dataset, drawn, transforms, out / "slices.png"))
    if dataset.info.class_names:
        counts = {split: s["classes"] for split, s in stats.items()}
        files.append(pictures.class_balance(dataset, counts, out / "class_balance.png"))
    if args.json:
        print(json.dumps({"name": dataset.info.name, "splits": stats, "files": [*map(str, files)]}))
        return 0
    for split, s in stats.items():
        sampled = f" (of {s['sampled']} sampled)" if s["sampled"] < s["examples"] else ""
        shapes = ", ".join("x".join(map(str, shape)) for shape in s["shapes"])
        print(f"{split}: {s['examples']} examples, {dataset.info.input_key} {shapes}{sampled}")
        print(f"  mean {s['mean']}  std {s['std']}" + (" of values / 255" * _is_image(dataset)))
        if s["classes"]:
            print(f"  per class: {min(s['classes'])} to {max(s['classes'])}, {_answer(dataset)}")
    for file in files:
        print(file)
    return 0


def check(config: Any, args: Any) -> int:
    """Prints what is wrong; 1 when there is something."""
    from cnn.data.tools import check as checks

    with config.unlocked():
        config.input.in_memory = "no"  # so that a record that cannot be read is found, not fatal
    dataset = _open(config, notes=False)
    result = checks.check(dataset, _splits(config, dataset, bool(args.config)))
    if args.json:
        print(json.dumps({"name": dataset.info.name, **result}))
    else:
        for split, counts in result["splits"].items():
            rest = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items()
                             if isinstance(count, int) and count and kind != "examples")  # fmt: skip
            print(f"{split}: {counts['examples']} examples read" + (f"; {rest}" if rest else ""))
        for line in result["notes"]:
            print(f"note: {line}")
        for line in result["problems"]:
            print(f"PROBLEM: {line}")
        print("problems found" if result["problems"] else "no problems found")
    return 1 if result["problems"] else 0


def plan(argv: list[str]) -> int:
    """Prints the choices with their reasons and writes the config file."""
    from cnn.data.tools import plans
    from cnn.data.volumes_folder import VolumesFolder

    parser = flags.Parser("data plan", ABOUT["plan"])
    parser.add_argument("folder", metavar="DIR", help="with dataset.json, imagesTr and labelsTr (see volumes_folder)")
    parser.add_argument("--out", default="", help="the config file; default configs/medical/FOLDER_unet.py")
    parser.add_argument("--memory_gb", type=float, default=8.0, help="GiB that a training step may take; default 8")
    parser.add_argument("--width", type=int, default=32, help="channels of the first level; default 32")
    parser.add_argument("--dtype", default="float32", help=f"of the activations: {', '.join(plans.DTYPES)}")
    parser.add_argument("--steps", type=int, default=10_000, help="training steps; default 10000")
    args, _ = parser.parse(argv)
    if args.dtype not in plans.DTYPES:
        raise unknown("dtype", args.dtype, plans.DTYPES)
    if args.memory_gb <= 0 or args.width < 1 or args.steps < 1:
        raise UserError("--memory_gb, --width and --steps must be above 0")
    provider = VolumesFolder(args.folder)
    provider.prepare()
    for line in provider.notes():
        print(f"note: {line}", file=sys.stderr)
    made = plans.make(provider, args.memory_gb, args.width, args.dtype)
    stem = "".join(letter if letter.isalnum() else "_" for letter in Path(provider.root).name.lower())
    out = Path(args.out or f"configs/medical/{stem}_unet.py")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(plans.config_text(made, args.steps), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another place with --out") from error
    print("\n".join([*made.reasons, f"{out}: cnn train --config={out} --workdir=runs/{stem}"]))
    return 0


def _open(config: Any, notes: bool = True) -> Dataset:
    dataset = open_dataset(config.input)
    for line in dataset.notes if notes else ():
        print(f"note: {line}", file=sys.stderr)
    return dataset


def _splits(config: Any, dataset: Dataset, from_config: bool) -> list[str]:
    """The splits that the config uses, or all that have examples."""
    if from_config:
        named = (config.input.train_split, config.eval.split, config.eval.test_split)
        return [*dict.fromkeys(split for split in named if split)]
    return [split for split, size in dataset.splits.items() if size]


def _answer(dataset: Dataset) -> str:
    """What is to be predicted."""
    info = dataset.info
    if info.target_key == "target":
        return f"{info.target_shape[0]} number(s) to predict"
    where = {"labels": " at every step", "mask": " at every place"}.get(info.target_key, "")
    return f"{info.num_classes} classes{where}"


def _is_image(dataset: Dataset) -> bool:
    return dataset.info.input_key == "image"
