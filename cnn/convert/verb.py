"""`cnn convert FILE --model=NAME`: weights of another framework as a checkpoint of ours.

    cnn convert resnet50.pth --model=resnet50 --out=runs/resnet50
    cnn predict --workdir=runs/resnet50 photo.jpg

FILE is a PyTorch file (zip or legacy), .safetensors, or .npz. Nothing in it is executed.
"""

import ast
import json
from pathlib import Path
from typing import Any

from cnn import flags
from cnn.data import DATASETS
from cnn.errors import UserError, printable, unknown
from cnn.models import MODELS

WEIGHTS = ("auto", "ema", "plain")  # which of a file's state dicts; see `cnn.convert.files.read_weights`
ADVICE = (
    "What differs in spite of equal weights is padding (--option=padding=SAME), the norm's epsilon "
    "(--option=norm_epsilon=1e-3), an activation, or the input"
)


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("convert", __doc__)
    parser.add_argument("file", metavar="FILE", help=".pth, .pt, .bin, .safetensors or .npz")
    parser.add_argument("--model", required=True, metavar="NAME", help="see: cnn list models")
    parser.add_argument("--out", default="", help="folder of the checkpoint; default: FILE without its ending")
    parser.add_argument("--layout", default="", help="timm, torchvision, ...; default: the one that fits")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="of the model, such as padding=SAME or norm_epsilon=1e-3; may be repeated; "
                        "wins over what the layout implies")  # fmt: skip
    parser.add_argument("--classes", default="", metavar="TEXTFILE",
                        help="one class name per line; default: ImageNet's for 1000 classes, else numbers")  # fmt: skip
    parser.add_argument("--dataset", default="", help="that `cnn evaluate` scores; default: imagenet2012 or folder")
    parser.add_argument("--size", type=int, default=0, help="pixels that the network sees; default: the model's")
    parser.add_argument("--short", type=int, default=0, help="short side before the crop; default: size / 0.875, "
                        "size where pixels are answered")
    parser.add_argument("--method", default="bilinear", help="of resizing: area, bilinear, bicubic")
    parser.add_argument("--mean", default="", help="per channel, of images in [0, 1]; default: ImageNet's")
    parser.add_argument("--std", default="", help="as --mean")
    parser.add_argument("--weights", default="auto", help="of a file with both: ema (averaged) or plain; default: ema")
    parser.add_argument("--activations", default="", metavar="NPZ",
                        help="outputs of the other network's layers (how: help(cnn.convert.compare)); "
                        "names the first layer that differs")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, _ = parser.parse(argv)
    for kind, name, table in (("model", args.model, MODELS), ("dataset", args.dataset, {"": None, **DATASETS})):
        if name not in table:
            raise unknown(kind, name, table)
    if args.weights not in WEIGHTS:
        raise unknown("choice of --weights", args.weights, WEIGHTS)
    report = convert(args)
    if args.json:
        print(json.dumps(report))
    else:
        print(_text(report))
    return 1 if report["difference"] else 0


def convert(args: Any) -> dict[str, Any]:
    """Reads, converts, compares and writes; returns the report.

    Raises:
      UserError: whatever is wrong with the file, the names or the folder.
    """
    from cnn.convert import variables
    from cnn.convert.compare import INPUT
    from cnn.convert.files import read_state, read_weights
    from cnn.convert.imported import network, write
    from cnn.process import prepare
    from cnn.tree import size

    prepare()
    options = dict(_option(text) for text in args.option)
    preprocessing = _preprocessing(args)
    weights = read_weights(args.file, args.weights)
    state, left_out = weights.arrays, list(weights.aside)
    theirs = read_state(args.activations) if args.activations else {}
    if args.activations and INPUT not in theirs:
        raise UserError(f"'{args.activations}' has no array '{INPUT}', the network's input [b, c, *space]")
    try:
        built, converted, layout = _fitted(args, state, options, preprocessing)
    except UserError:
        if not left_out:
            raise
        state, left_out = state | weights.aside, []  # the network has layers outside of what is wrapped
        built, converted, layout = _fitted(args, state, options, preprocessing)
    meant = variables.options_of(args.model, layout)
    if meant.keys() - options.keys():  # they change no shape
        options = meant | options
        built = network(args.model, options, built.info, preprocessing)
    difference = None
    if theirs:
        difference = _difference(args.model, layout, state, built.model, converted, theirs)
    out = Path(args.out or Path(args.file).with_suffix("").name)
    if difference is None:
        write(built, converted, out, {"file": Path(args.file).name, "layout": layout})
    return {
        "file": args.file,
        "model": args.model,
        "layout": layout,
        "options": options,
        "tensors": len(state),
        "weights": weights.chosen,
        "other_weights": list(weights.others),
        "prefix": weights.prefix,
        "left_out": left_out,
        "dropped": variables.dropped(args.model, layout, state, converted),
        "parameters": size(converted["params"]),
        "classes": list(built.info.class_names),
        "preprocessing": dict(preprocessing.transforms())
        | {"mean": list(preprocessing.mean), "std": list(preprocessing.std)},
        "difference": str(difference) if difference else None,
        "compared": bool(theirs),
        "out": None if difference else str(out),
    }


def _fitted(args: Any, state: dict[str, Any], options: dict[str, Any], preprocessing: Any) -> tuple[Any, Any, str]:
    """(the network, its variables out of the state dict, the layout that fitted).

    Raises:
      UserError: no layout fits.
    """
    from cnn.convert import variables
    from cnn.convert.imported import dataset_info, network
    from cnn.convert.labels import read_classes

    entry, channels = MODELS[args.model], len(preprocessing.mean)
    known = read_classes(args.classes) if args.classes else entry.classes
    info = dataset_info(known, channels, args.dataset, entry.gives)
    built = network(args.model, options, info, preprocessing)
    like = variables.abstract_variables(built.model, built.inputs)
    if not args.classes:
        there = variables.classes_in(args.model, args.layout, state, like)
        if there not in (None, info.num_classes):
            info = dataset_info(there, channels, args.dataset, entry.gives)
            built = network(args.model, options, info, preprocessing)
            like = variables.abstract_variables(built.model, built.inputs)
    return built, *variables.convert_detecting(args.model, args.layout, state, like)


def _difference(
    model_name: str, layout: str, state: Any, model: Any, converted: Any, theirs: Any
) -> Any:
    from cnn.convert import compare, variables

    rules = variables.tables_of(model_name).get(layout)
    if rules is None:
        raise UserError("--activations needs a file with another framework's names")
    names = compare.modules(rules, state, variables.leaves_in_order(converted))
    x = compare.channels_last(theirs[compare.INPUT])
    return compare.first_difference(compare.activations(model, converted, x), theirs, names)


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(f"--option '{text}' must be NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _preprocessing(args: Any) -> Any:
    from cnn.convert.imported import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    shape, gives = MODELS[args.model].input, MODELS[args.model].gives
    if len(shape) != 3:
        raise UserError(f"cnn convert makes networks for pictures; {args.model} takes inputs of shape {shape}")
    size = args.size or shape[0]
    mean, std = _numbers("mean", args.mean), _numbers("std", args.std)
    grey = shape[-1] == 1 and not mean
    return Preprocessing(
        size=size,
        short=args.short or (size if gives == "pixels" else round(size / 0.875)),
        method=args.method,
        mean=(0.0,) if grey else mean or IMAGENET_MEAN,
        std=(1.0,) if grey else std or IMAGENET_STD,
    )


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise UserError(f"--{flag} '{text}' must be numbers with commas between, one per channel") from error


def _text(report: dict[str, Any]) -> str:
    classes = report["classes"]
    options = ", ".join(f"{name}={value}" for name, value in report["options"].items()) or "the model's defaults"
    steps = ", ".join(f"{name} {_short(value)}" for name, value in report["preprocessing"].items())
    dropped = f", {len(report['dropped'])} dropped ({report['dropped'][0]}, ...)" if report["dropped"] else ""
    lines = [
        f"{report['model']}: {report['parameters']:,} parameters from {report['file']}",
        *_chosen_text(report),
        f"  {report['tensors']} tensors{dropped}; layout {report['layout']}; options: {options}",
        f"  pictures: {steps}",
        f"  {len(classes)} classes: {', '.join(classes[:4])}" + (", ..." if len(classes) > 4 else ""),
    ]
    if report["difference"]:
        return "\n".join([*lines, f"  {report['difference']}", f"nothing written. {ADVICE}"])
    if report["compared"]:
        lines.append("  the outputs of all layers agree")
    return "\n".join([*lines, f"written: {report['out']}; try: cnn predict --workdir={report['out']} PHOTO"])


def _chosen_text(report: dict[str, Any]) -> list[str]:
    """Which of the weights in the file were taken, and what was left out."""
    lines = []
    if report["weights"]:
        others = ", ".join(report["other_weights"])
        lines.append(f"  weights: '{report['weights']}'" + (f"; not taken: {others} (see --weights)" if others else ""))
    if report["left_out"]:
        shown = ", ".join(map(printable, report["left_out"][:5])) + ", ..." * (len(report["left_out"]) > 5)
        lines.append(f"  keys without the prefix '{report['prefix']}' that the others have are left out: {shown}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return ",".join(f"{number:g}" for number in value)
