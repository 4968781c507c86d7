"""`cnn predict`: what a trained network says about files; `load(path).predict(x)` in Python.

    cnn predict --workdir=runs/mine photo.jpg more/ 'scans/*.png' --json
    cnn predict --model=efficientnet_lite0 --pretrained photo.jpg
    cnn predict --workdir=runs/masks photos/ --masks=said/ --tile=512
    cnn predict --workdir=runs/organs scan.nii.gz dicom_folder/ --masks=said/ --largest

Where the answer is a mask, --masks writes it as a PNG of class ids with a palette, in the picture's own size; --tile
takes pictures tile by tile at their own resolution. Masks of volumes are NIfTI files that lie over their input.
"""

import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cnn import config as configs
from cnn import flags
from cnn.build import build
from cnn.card import info_from_card, spec_from_card
from cnn.convert.pretrained import PRETRAINED
from cnn.convert.pretrained import folder as pretrained_folder
from cnn.draws import Draws
from cnn.errors import UserError
from cnn.files.images import BadImage, decode_image
from cnn.inference.mask_files import MaskFolder
from cnn.inference.tiles import Tiling, tiled
from cnn.inference.volumes import write_masks
from cnn.mesh import data_parallel_size, replicated
from cnn.process import prepare
from cnn.run import checkpoint
from cnn.step import make_predict_step, make_softmax_step
from cnn.transforms import build_transforms
from cnn.transforms.apply import transform_examples
from cnn.transforms.image import as_channels, resized

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
SERIES = (".npy", ".csv")
BATCH = 32


class Predictor:
    """A trained network with its preprocessing and its words; made by `load`.

    Attributes:
      card: what a checkpoint says of its network and data; see `cnn.card`.
      built: model, task and mesh; `variables`: placed on it.
    """

    def __init__(self, variables: dict[str, Any], meta: dict[str, Any]):
        self.card = meta["card"]
        self.info = info_from_card(self.card)
        config = configs.for_this_machine(meta["config"])
        self.built = build(
            config, self.info, spec_from_card(self.card)
        )
        self._transforms = build_transforms(config.input.eval_transforms)
        self.variables = jax.device_put(variables, replicated(self.built.mesh))
        self._step = jax.jit(make_predict_step(self.built.model, self.built.task))
        self._probs = jax.jit(make_softmax_step(self.built.model, self.built.task))

    def predict(self, inputs: Any, batch_size: int = BATCH) -> list[dict[str, Any]]:
        """One description per input, in order.

        Args:
          inputs: a file's path or a raw array (image uint8 [h, w, c], series float32 [t, c]), or a list.

        Raises:
          UserError: a file that cannot be read, or an input of the wrong shape.
        """
        many = inputs if isinstance(inputs, list | tuple) else [inputs]
        return self.describe([self.example(one) for one in many], batch_size)

    def describe(self, examples: list[dict[str, np.ndarray]], batch_size: int = BATCH) -> list[dict[str, Any]]:
        """One description per preprocessed example, in order."""
        return [self.built.task.describe(row) for row in self.rows(examples, batch_size)]

    def rows(self, examples: list[dict[str, np.ndarray]], batch_size: int = BATCH) -> list[dict[str, np.ndarray]]:
        """What the task predicts of each preprocessed example, in order: `probs`, `mask`, ..."""
        found = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            wanted = batch_size if len(examples) > batch_size else len(part)
            wanted += -wanted % data_parallel_size(self.built.mesh)
            found += self._batch(part + part[:1] * (wanted - len(part)))[: len(part)]  # one shape, one compilation
        return found

    def tiled(
        self, x: Any, tiling: Tiling, *, batch_size: int = 1, out: np.ndarray | None = None
    ) -> UInt8[np.ndarray, "*space"]:
        """The mask of an input of any size at its own resolution, tile by tile; without the run's transforms.

        Args:
          x: image uint8 [h, w, c] or volume float32 [d, h, w, c], prepared as the network was trained; may be
            memory-mapped.
          out: where to put it, for instance a memory-mapped array.

        Raises:
          UserError: the network does not answer at every pixel, or x is not what it takes.
        """
        key, card = self.info.input_key, self.card
        if self.info.target_key != "mask":
            raise UserError(f"this network does {card['task']}, which has no answer for every pixel to be tiled")
        if x.ndim != len(self.info.input_shape) or self.info.input_shape[-1] not in (None, x.shape[-1]):
            raise UserError(f"shape {x.shape}, but this network takes {self.info.input_shape}")
        batch_size += -batch_size % data_parallel_size(self.built.mesh)

        def predict(tiles: np.ndarray) -> np.ndarray:
            # Tiles are float32 here; bytes are told from them by their type.
            batch = {key: tiles.astype(x.dtype)}
            return np.asarray(self._probs(self.variables, self.built.place(batch)))

        return tiled(predict, x, tiling, batch=batch_size, finish=lambda v: v.argmax(-1).astype(np.uint8), out=out)

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the network's coarsest stage: where tiles may begin."""
        return max(getattr(self.built.model, "feature_strides", (1,)))

    def raw(self, path: str | Path) -> np.ndarray:
        """The content of a file with as many channels as the network takes, in its own size."""
        value, channels = self._read(path), self.info.input_shape[-1]
        return as_channels(value, channels or 3) if self.info.input_key == "image" else value

    def example(self, one: Any) -> dict[str, np.ndarray]:
        """Reads (or takes) one input and preprocesses it as in training's evaluation."""
        value = self._read(one) if isinstance(one, str | Path) else np.asarray(one)
        key, shape = self.info.input_key, self.info.input_shape
        example = {key: _fitted(value, shape, bool(self._transforms), str(one)[:80])}
        position = np.zeros(1, np.int64)
        batch = transform_examples([example], self._transforms, Draws(0, position))
        return {name: array[0] for name, array in batch.items()}

    def _read(self, path: str | Path) -> np.ndarray:
        if self.info.input_key == "image":
            try:
                return decode_image(path)
            except BadImage as error:
                raise UserError(f"{path}: {error}") from error
        return _read_series(Path(path))

    def _batch(self, examples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        rows = self._step(self.variables, self.built.place(batch))
        rows = jax.device_get(rows)
        return [{name: value[i] for name, value in rows.items()} for i in range(len(examples))]


def _fitted(value: np.ndarray, shape: Sequence[int | None], transformed: bool, name: str) -> np.ndarray:
    """Checks rank and type; brings an image to the size that the network was trained on."""
    if value.ndim == len(shape) - 1:
        value = value[..., None]
    if value.ndim != len(shape):
        raise UserError(f"{name}: shape {value.shape}, but this network takes {tuple(shape)}")
    if len(shape) == 3:
        if value.dtype != np.uint8:
            raise UserError(f"{name}: images are uint8 in 0..255, got {value.dtype}")
        value = as_channels(value, shape[-1] or 3)
        if None not in shape and not transformed and value.shape != tuple(shape):
            value = resized(value, shape[0], shape[1])
    elif any(want not in (None, have) for want, have in zip(shape, value.shape, strict=True)):
        raise UserError(f"{name}: shape {value.shape}, but this network takes {tuple(shape)}")
    if not np.isfinite(value).all():
        raise UserError(f"{name}: holds values that are not finite")
    return value if value.dtype == np.uint8 else value.astype(np.float32)


def _read_series(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a series: {error}") from error


def load(path: str, which: int | str = "") -> Predictor:
    """The network of a run's workdir, of one checkpoint folder, or a pretrained one.

    Args:
      path: a folder, or a name of `cnn.convert.pretrained.PRETRAINED`; a folder of that name wins.
      which: 'best', 'last' or a step, where `path` holds several checkpoints; '' for the weights that the
        run itself scored (`eval.use`).

    Raises:
      UserError: nothing is there, or it is damaged.
    """
    prepare()
    if path in PRETRAINED and not Path(path).exists():
        path = str(pretrained_folder(path))
    return Predictor(*checkpoint.load_variables(checkpoint.find(path, which)))


def files(patterns: Sequence[str], suffixes: Sequence[str]) -> Iterator[str]:
    """Files, the fitting files below folders, and what globs match; sorted within each.

    Raises:
      UserError: one of them stands for nothing.
    """
    for pattern in patterns:
        if Path(pattern).is_dir():
            found = [str(p) for p in sorted(Path(pattern).rglob("*")) if p.suffix.lower() in suffixes]
        else:
            found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise UserError(f"'{pattern}' is no file, no folder with {'/'.join(suffixes[:3])} files, and no match")
        yield from found


def add_network(parser: flags.Parser) -> None:
    """Adds the flags that name a trained network; `chosen` loads it."""
    parser.add_argument("--workdir", default="", help="of the run, or one checkpoint folder")
    parser.add_argument("--model", default="", help="with --pretrained, in place of --workdir")
    parser.add_argument("--pretrained", action="store_true", help=f"the weights of {', '.join(PRETRAINED)}")
    parser.add_argument("--checkpoint", default="", help="best, last, or a step; default: the run's eval.use")


def chosen(args: Any) -> Predictor:
    """The network that the flags of `add_network` name.

    Raises:
      UserError: they name none or two; and as `load`.
    """
    if bool(args.workdir) == args.pretrained or bool(args.model) != args.pretrained:
        raise UserError("give --workdir=RUN, or --model=NAME with --pretrained")
    path = str(pretrained_folder(args.model)) if args.pretrained else args.workdir
    return load(path, args.checkpoint)


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("predict", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or quoted globs")
    add_network(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--masks", default="", metavar="DIR", help="write the mask of every picture")
    parser.add_argument("--tile", type=int, default=0, help="with --masks: in tiles of so many pixels, unscaled")
    parser.add_argument("--largest", action="store_true", help="of volumes: each class keeps its largest part alone")
    parser.add_argument("--overlap", type=float, default=0.5, help="of the tiles, as a share of one")
    args, _ = parser.parse(argv)
    predictor = chosen(args)
    if args.tile and not args.masks:
        raise UserError("--tile needs --masks=DIR, where the masks go")
    if predictor.info.input_key == "volume":
        return _volumes(predictor, args)
    if args.masks:
        return _masks(predictor, args)
    suffixes = IMAGES if predictor.info.input_key == "image" else SERIES
    everything = list(files(args.paths, suffixes))
    bad, ready = 0, []
    for index, path in enumerate(everything, 1):
        try:
            ready.append((path, predictor.example(path)))
        except UserError as error:
            bad += 1
            print(json.dumps({"path": path, "error": str(error)}) if args.json else f"{path}: {error}")
        if len(ready) == BATCH or index == len(everything):
            described = predictor.describe([example for _, example in ready], BATCH)
            for (name, _), found in zip(ready, described, strict=True):
                print(json.dumps({"path": name, **found}) if args.json else _row(name, found), flush=True)
            ready = []
    if bad:
        print(f"{bad} of {len(everything)} files could not be read", file=sys.stderr)
    return 1 if bad else 0


def _masks(predictor: Predictor, args: Any) -> int:
    """Writes the mask of every picture and prints its row, picture by picture."""
    if predictor.info.input_key != "image" or predictor.info.target_key != "mask":
        raise UserError("--masks is for networks that give every pixel of a picture a class")
    tiling = Tiling((args.tile, args.tile), args.overlap, multiple=predictor.stride) if args.tile else None
    folder = MaskFolder(args.masks)
    everything, bad = list(files(args.paths, IMAGES)), 0
    # After a crop nobody knows which part of the picture a pixel was.
    whole = "center_crop" not in predictor.card["eval_transforms"]
    for path in everything:
        try:
            image = predictor.raw(path)
            if tiling:
                mask = predictor.tiled(image, tiling)
                found = predictor.built.task.describe({"mask": mask})
            else:
                (row,) = predictor.rows([predictor.example(image)])
                mask, found = row["mask"], predictor.built.task.describe(row)
        except UserError as error:
            bad += 1
            print(json.dumps({"path": path, "error": str(error)}) if args.json else f"{path}: {error}")
            continue
        found["mask"] = folder.write(path, mask, image.shape[:2] if whole else None)
        print(json.dumps({"path": path, **found}) if args.json else _row(path, found), flush=True)
    if bad:
        print(f"{bad} of {len(everything)} files could not be read", file=sys.stderr)
    return 1 if bad else 0


def _volumes(predictor: Predictor, args: Any) -> int:
    """Writes the mask of every volume and prints its row, volume by volume."""
    if not args.masks:
        raise UserError("this network takes volumes: give --masks=DIR, where their masks go")
    bad = 0
    for found in write_masks(predictor, args.paths, args.masks, args.tile, args.overlap, args.largest):
        bad += "error" in found
        path = found["path"]
        text = found["error"] if "error" in found else _row(path, {k: v for k, v in found.items() if k != "path"})
        print(json.dumps(found) if args.json else text, flush=True)
    if bad:
        print(f"{bad} of the volumes could not be read", file=sys.stderr)
    return 1 if bad else 0


def _row(path: str, found: dict[str, Any]) -> str:
    if "top" not in found:  # not a class
        return f"{path}  {json.dumps(found)}"
    top = "  ".join(f"{t['class']} {t['probability']:.3f}" for t in found["top"])
    return f"{path}  {top}"


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("predict"))
