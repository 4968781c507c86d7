"""`cnn predict`: predictions of a trained network for files; in Python `cnn.load(RUN).predict(x)`.

    cnn predict --workdir=runs/mine photo.jpg more/ 'scans/*.png' --json
    cnn predict --model=efficientnet_lite0 --pretrained photo.jpg
    cnn predict --workdir=runs/mine photos/ --out=predictions.jsonl            # or .parquet; repeat it to resume
    cnn predict --workdir=runs/masks photos/ --masks=said/ --tile=512
    cnn predict --workdir=runs/organs scan.nii.gz dicom_folder/ --masks=said/ --largest

Inputs are read while others are predicted, so any number of them takes the same memory. One that cannot be read is one
line; the rest goes on, and the exit code is 1. With --masks, masks are written as PNG files of class ids with a palette
in the size of their picture, masks of volumes as NIfTI files that lie over their volume; --tile takes pictures tile by
tile at their own resolution.
"""

import contextlib
import json
import sys
from typing import Any

from cnn import flags
from cnn.errors import UserError, printable
from cnn.inference import inputs
from cnn.inference.network_flags import add_network, chosen
from cnn.inference.prediction_files import PredictionFile, check_name
from cnn.inference.predictor import Predictor, load
from cnn.inference.progress import Progress
from cnn.inference.stream import Masks, predictions
from cnn.paths import output_folder
from cnn.run.workdir import to_json

__all__ = ["Predictor", "load", "main"]


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("predict", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or quoted globs")
    add_network(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "--out", default="", metavar="FILE", help="write them to a .jsonl or .parquet file; what is there is not redone"
    )
    parser.add_argument("--masks", default="", metavar="DIR", help="write the mask of every picture or volume")
    parser.add_argument("--tile", type=int, default=0, help="pixels of the tiles that pictures or volumes are cut into")
    parser.add_argument("--largest", action="store_true", help="of masks: each class keeps its largest part alone")
    parser.add_argument("--overlap", type=float, default=0.5, help="of the tiles, as a share of one")
    args, _ = parser.parse(argv)
    if args.tile < 0:
        raise UserError(f"--tile={args.tile} must not be negative")
    if args.out:
        check_name(args.out)
    predictor = chosen(args)
    paths = inputs.find(args.paths, predictor.info.input_key)
    if args.masks:
        predictor.tiling()  # refuses networks without masks
        output_folder(args.masks, "--masks")
    return _predict(predictor, paths, Masks(args.masks, args.tile, args.overlap, args.largest), args.out, args.json)


def _predict(predictor: Predictor, paths: list[str], masks: Masks, out: str, as_json: bool) -> int:
    """Writes and prints the predictions; returns 1 if any input failed, else 0."""
    counts = {"predicted": 0, "skipped": 0, "failed": 0}
    rows_are_shown = as_json or not out
    progress = Progress("predict", len(paths), quiet=rows_are_shown and sys.stdout.isatty())
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(PredictionFile(out, predictor.identity)) if out else None
        stack.callback(progress.close)
        found = stack.enter_context(
            contextlib.closing(predictions(predictor, paths, masks, file.done if file else ()))
        )
        for one in found:
            counts["skipped" if one.skipped else "failed" if one.error else "predicted"] += 1
            progress.count(one.path)
            if file and not one.skipped:
                file.add(one.row)
            if rows_are_shown and not one.skipped:
                print(to_json(one.row) if as_json else _line(one.name, one.row), flush=True)
        if file:
            file.finish()
    if out:
        skipped = f", {counts['skipped']:,} skipped (predicted before)" if counts["skipped"] else ""
        print(f"{printable(out)}: {counts['predicted']:,} predicted{skipped}", file=sys.stderr)
    if counts["failed"]:
        total = sum(counts.values())
        print(f"{counts['failed']:,} of {total:,} inputs could not be predicted", file=sys.stderr)
    return 1 if counts["failed"] else 0


def _line(name: str, row: dict[str, Any]) -> str:
    """One prediction as text."""
    if "error" in row:
        return f"{printable(name)}: {row['error']}"
    if "top" not in row:  # not a class
        return f"{printable(name)}  {json.dumps({key: value for key, value in row.items() if key != 'path'})}"
    return f"{printable(name)}  " + "  ".join(f"{printable(t['class'])} {t['probability']:.3f}" for t in row["top"])


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("predict"))
