"""A trained network with its preprocessing and its class names: from files or arrays to predictions."""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cnn import config as configs
from cnn.build import build
from cnn.card import info_from_card, spec_from_card
from cnn.convert.pretrained import PRETRAINED
from cnn.convert.pretrained import folder as pretrained_folder
from cnn.errors import UserError
from cnn.inference import readers
from cnn.inference.preprocess import Example, Frame, Preprocess
from cnn.inference.readers import Raw
from cnn.inference.tiles import Tiling, tiled
from cnn.mesh import data_parallel_size, replicated
from cnn.process import follow, prepare
from cnn.run import checkpoint
from cnn.step import make_predict_step, make_softmax_step
from cnn.transforms.volume import windowed

BATCH = 32
PIXELS = 1 << 20  # in a batch, where the network gives each of them a class
Row = dict[str, np.ndarray]  # what the task predicts of one example


class Predictor:
    """A trained network with its preprocessing and its class names; made by `load`.

    Attributes:
      card: what a checkpoint holds about its network and data; see `cnn.card`.
      identity: 8 hex digits that tell its weights and settings from others.
      built: model, task and mesh; `variables`: placed on it.
      preprocess: raw inputs to examples; `whole`: the same for prediction in tiles.
    """

    def __init__(self, variables: dict[str, Any], meta: dict[str, Any]):
        self.card, self.identity = meta["card"], meta["checksum"]
        self.info = info_from_card(self.card)
        config = configs.for_this_machine(meta["config"])
        follow(config)
        self.built = build(config, self.info, spec_from_card(self.card))
        self.preprocess, self.whole = (Preprocess.from_card(self.card, whole=whole) for whole in (False, True))
        self.variables = jax.device_put(variables, replicated(self.built.mesh))
        self._step = jax.jit(make_predict_step(self.built.model, self.built.task))
        self._probs = jax.jit(make_softmax_step(self.built.model, self.built.task))

    @property
    def dense(self) -> bool:
        """Whether the network gives every pixel or voxel a class."""
        return self.info.targets[self.info.target_key].rank > 0

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the network's coarsest stage: where tiles may begin."""
        return max(getattr(self.built.model, "feature_strides", (1,)))

    def predict(self, inputs: Any, batch_size: int = BATCH) -> list[dict[str, Any]]:
        """One description per input, in order; of a file that holds several, one for each.

        Args:
          inputs: a file's path, a raw array (image uint8 [h, w, c], series float32 [t, c]) or a dict of the network's
            inputs; or a list of them.

        Raises:
          UserError: a file that cannot be read, or an input of the wrong shape.
        """
        many = inputs if isinstance(inputs, list | tuple) else [inputs]
        pairs = [self.preprocess(raw) for one in many for raw in self.read(one)]
        rows = self.rows([example for example, _ in pairs], batch_size)
        return [self.built.task.describe(row, frame) for row, (_, frame) in zip(rows, pairs, strict=True)]

    def read(self, one: Any) -> Iterator[Raw]:
        """The raw inputs of a file, or of what is in memory."""
        if isinstance(one, str | os.PathLike):
            return readers.read(self.info.input_key, one)
        return iter([readers.given(self.info.input_key, one)])

    def example(self, one: Any) -> Example:
        """Reads (or takes) one input and preprocesses it as evaluation does; the first one of a file of several."""
        return self.preprocess(next(self.read(one)))[0]

    def raw(self, path: str | Path) -> np.ndarray:
        """The main input of a file, prepared but not resized, for `tiled`."""
        return self.whole(next(self.read(path)))[0][self.info.input_key]

    def describe(self, examples: Iterable[Example], batch_size: int = BATCH) -> list[dict[str, Any]]:
        """One description per preprocessed example, in order, in the geometry of the examples."""
        return [self.built.task.describe(row) for row in self.rows(examples, batch_size)]

    def rows(self, examples: Iterable[Example], batch_size: int = BATCH) -> list[Row]:
        """What the task predicts of each preprocessed example, in order: `probs`, `mask`, ..."""
        return [row for row in self.stream(examples, batch_size) if row is not None]

    def stream(self, examples: Iterable[Example | None], batch_size: int = BATCH) -> Iterator[Row | None]:
        """`rows`, one after the other.

        Examples are taken as they come, a batch at a time. Their sizes may differ: neighbours of one size share a
        batch. In the place of None comes None.
        """
        waiting: list[Example | None] = []
        count, shapes, most = 0, None, 0
        full: set[Any] = set()  # shapes of which a whole batch was compiled: smaller ones are filled up to it

        def flush() -> Iterator[Row | None]:
            part = [example for example in waiting if example is not None]
            found = iter(self._batch(part, most if shapes in full else count) if part else [])
            yield from [None if example is None else next(found) for example in waiting]
            waiting.clear()

        for example in examples:
            if example is not None:
                if _shapes(example) != shapes:
                    yield from flush()
                    count, shapes, most = 0, _shapes(example), self._most(example, batch_size)
                count += 1
            waiting.append(example)
            if count == most:
                full.add(shapes)
                yield from flush()
                count = 0
        yield from flush()

    def _most(self, example: Example, batch_size: int) -> int:
        """How many of such examples share a batch: the classes of all pixels of many large ones need much memory."""
        if not self.dense:
            return batch_size
        return max(1, min(batch_size, PIXELS // math.prod(example[self.info.input_key].shape[:-1])))

    def _batch(self, examples: list[Example], size: int) -> list[Row]:
        size += -size % data_parallel_size(self.built.mesh)
        given = examples + examples[:1] * (size - len(examples))
        batch = {name: np.stack([example[name] for example in given]) for name in given[0]}
        batch["valid"] = np.ones(size, bool)
        rows = jax.device_get(self._step(self.variables, self.built.place(batch)))
        return [{name: value[i] for name, value in rows.items()} for i in range(len(examples))]

    def tiling(self, tile: int = 0, overlap: float = 0.5) -> Tiling | None:
        """Tiles for `mask`; None where neither `tile` nor the training gives their size: the whole input is one.

        Args:
          tile: pixels or voxels along each axis; 0 is the window that the network was trained on.

        Raises:
          UserError: the network does not give every pixel a class, or a value out of range.
        """
        if not self.dense:
            raise UserError(f"masks and tiles need a segmentation model; this one is for {self.card['task']}")
        rank = self.info.inputs[self.info.input_key].rank
        given = (tile,) * rank if tile else tuple(max(n, self.stride) for n in self.whole.window or ())
        shown = Tiling(given or (self.stride,) * rank, overlap, multiple=self.stride)
        return shown if given else None

    def mask(
        self, example: Example, frame: Frame, tile: int = 0, overlap: float = 0.5
    ) -> tuple[UInt8[np.ndarray, "*raw"], Frame]:
        """The classes of all pixels or voxels of an input of any size, predicted in tiles, and the frame that they are
        in: the raw input's own.

        Args:
          example, frame: what `whole` made of the raw input.
          tile, overlap: see `tiling`; without a size one tile takes it all.

        Raises:
          UserError: as `tiling` and `tiled`.
        """
        x = example[self.info.input_key]
        space = x.shape[:-1]
        tiling = self.tiling(tile, overlap) or Tiling(
            tuple(max(n, self.stride) for n in space), overlap, multiple=self.stride
        )
        if self.info.input_key == "volume":  # a small one is padded as in training
            room = [max(n, m) for n, m in zip(space, tiling.tile, strict=True)]
            x = windowed({"volume": x}, (0, 0, 0), room)["volume"]
        mask = self.tiled(x, tiling)[tuple(slice(n) for n in space)]
        return frame.mask_back(mask), frame.raw()

    def tiled(
        self, x: Any, tiling: Tiling, *, batch_size: int = 1, out: np.ndarray | None = None
    ) -> UInt8[np.ndarray, "*space"]:
        """The mask of an input of any size at its own resolution, tile by tile; without the run's transforms.

        Args:
          x: image uint8 [h, w, c] or volume float32 [d, h, w, c], prepared as the network was trained; may be
            memory-mapped.
          out: where to put it, for instance a memory-mapped array.

        Raises:
          UserError: the network does not give every pixel a class, or x is not what it takes.
        """
        key, shape = self.info.input_key, self.info.input_shape
        if not self.dense:
            raise UserError(f"masks and tiles need a segmentation model; this one is for {self.card['task']}")
        if x.ndim != len(shape) or shape[-1] not in (None, x.shape[-1]):
            raise UserError(f"shape {x.shape}, but this network takes {shape}")
        batch_size += -batch_size % data_parallel_size(self.built.mesh)

        def predict(tiles: np.ndarray) -> np.ndarray:
            # Tiles are float32 here; bytes are told from them by their type.
            batch = {key: tiles.astype(x.dtype)}
            return np.asarray(self._probs(self.variables, self.built.place(batch)))

        return tiled(predict, x, tiling, batch=batch_size, finish=lambda v: v.argmax(-1).astype(np.uint8), out=out)


def _shapes(example: Example) -> tuple[Any, ...]:
    return tuple((name, np.shape(value)) for name, value in example.items())


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
