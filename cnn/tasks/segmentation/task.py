"""Segmentation: one class for every pixel of a picture or voxel of a volume."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cnn.errors import UserError
from cnn.features import IGNORE
from cnn.files.masks import write_mask
from cnn.files.volumes import is_nifti, write_nifti
from cnn.scoring.scorer import Scorer
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks.base import Apply, Examples, Pair, Task, per_example, predicted_class
from cnn.tasks.segmentation import baselines, losses, plots
from cnn.tasks.segmentation.scorer import ReportScorer, SegmentationScorer

KEPT_PROBS = 1 << 16  # numbers per example up to which the host keeps the probabilities, not the classes alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """A batch holds `image` (uint8 in [0, 255], or float already in [0, 1]) or `volume` (float32), and `mask` uint8
    [b *space], class ids or 255 for what counts nowhere; the model predicts logits [b *space k].

    Attributes:
      loss: a sum of 'ce', 'dice', 'focal', 'tversky' and 'boundary', with factors: 'ce+0.5*dice'.
      class_weights: of the pixels in 'ce', 'focal' and 'boundary', one per class; () is 1 for all.
      focal_gamma: of 'focal'.
      tversky_alpha, tversky_beta: of 'tversky': the price of false positives and of false negatives.
      boundary_weight, boundary_width: of 'boundary': what pixels within so many of a change of class weigh more.
      aux_weight: of auxiliary outputs; see `losses`.
      background: class 0 is what is no object; `dice` (the score and the losses) then leaves it out.
      spacing: mm per voxel along d, h, w after the transforms, for distances between surfaces; () counts voxels.
    """

    TARGET: ClassVar[str] = "mask"
    NEEDS: ClassVar[str] = "one class per pixel"

    loss: str = "ce"
    class_weights: tuple[float, ...] = ()
    focal_gamma: float = 2.0
    tversky_alpha: float = 0.3
    tversky_beta: float = 0.7
    boundary_weight: float = 4.0
    boundary_width: int = 2
    aux_weight: float = 0.5
    background: bool = True
    spacing: tuple[float, ...] = ()

    def check(self) -> None:
        """See the base class."""
        losses.terms(self.loss)
        if not 2 <= self.num_outputs <= IGNORE:
            raise UserError(f"data set '{self.info.name}' has {self.num_outputs} classes; masks need 2 to {IGNORE}")
        names = ("focal_gamma", "tversky_alpha", "tversky_beta", "boundary_weight", "aux_weight")
        for name in (*names, "boundary_width"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name} is {getattr(self, name)}; it must not be negative")
        weights = self.class_weights
        if weights and (len(weights) != self.num_outputs or min(weights) < 0 or not sum(weights)):
            raise UserError(
                f"task.class_weights is {weights}; it must hold a number of at least 0 for each of the "
                f"{self.num_outputs} classes, or be ()"
            )
        if self.spacing and (len(self.spacing) != self.info.targets["mask"].rank or min(self.spacing) <= 0):
            raise UserError(f"task.spacing is {self.spacing}; it must hold a number above 0 per axis, or be ()")

    # On the device

    def losses(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """The chosen terms; `aux` is their weighted sum over auxiliary outputs.

        `aux` and `aux1` count `aux_weight`, `aux2` its square, and so on: with 1/2 the weights of deep supervision
        (Lee et al. 2015, arXiv 1409.5185) halve with the resolution. An auxiliary output may be coarser than the mask.
        """
        own = self._terms(self._logits(out, batch), batch["mask"])
        found = {name: per_example(value, batch) for name, value in own.items()}
        auxiliary = []
        for name in sorted(name for name in out if name.startswith("aux")):
            terms = self._terms(out[name].astype(jnp.float32), batch["mask"])
            weight = self.aux_weight ** int(name.removeprefix("aux") or 1)
            auxiliary.append(weight * sum(self.loss_weights[term] * value for term, value in terms.items()))
        return found | ({"aux": per_example(sum(auxiliary), batch)} if auxiliary else {})

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The factors of the terms."""
        found: dict[str, float] = {}
        for factor, name in losses.terms(self.loss):
            found[name] = found.get(name, 0.0) + factor
        return found

    def _terms(self, logits: Float[Array, "b *size k"], mask: Any) -> dict[str, PerExample]:
        mask = losses.at_resolution(jnp.asarray(mask), logits.shape[1:-1])
        true = losses.truth(mask, self.num_outputs, self.class_weights)
        return {name: losses.TERMS[name](logits, true, self) for name in self.loss_weights}

    def _logits(self, out: Outputs, batch: Batch) -> Float[Array, "b *space k"]:
        logits, mask = out["logits"].astype(jnp.float32), batch["mask"]
        if logits.shape[:-1] != mask.shape:
            raise UserError(
                f"the model predicts {logits.shape[1:]} per example, the mask is {mask.shape[1:]}; choose one "
                "with an output per pixel: cnn list models"
            )
        return logits

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, Pair]:
        """image_dice (mean over examples and classes that are present or predicted); counts of pixels per class."""
        logits, mask, valid = self._logits(out, batch), jnp.asarray(batch["mask"]), batch["valid"]
        counts = self._counts(predicted_class(logits), mask)
        counts = counts * valid.astype(jnp.int32)[:, None, None]
        count = jnp.sum(valid.astype(jnp.float32))
        right, predicted, true = jnp.moveaxis(counts[..., int(self.background) :].astype(jnp.float32), 1, 0)
        there = predicted + true > 0
        dice = jnp.where(there, 2 * right / jnp.maximum(predicted + true, 1), 0)
        return {
            "image_dice": (jnp.sum(dice), jnp.sum(there.astype(jnp.float32))),
            "class_counts": (jnp.sum(counts, axis=0), count),
        }

    def _counts(self, predicted: Int[Array, "b *space"], mask: Any) -> Int[Array, "b 3 k"]:
        """Pixels of each class: right, predicted, true. Integers: float32 counts no further than 2^24."""
        classes = jnp.arange(self.num_outputs).reshape((1,) * mask.ndim + (-1,))
        axes = tuple(range(1, mask.ndim))
        guess = (predicted[..., None] == classes) & (mask != IGNORE)[..., None]
        true = mask[..., None] == classes
        return jnp.stack([jnp.sum(x, axes, dtype=jnp.int32) for x in (guess & true, guess, true)], axis=1)

    def predictions(self, out: Outputs, batch: Batch, apply: Apply) -> dict[str, Array]:
        """`mask` uint8 [b *space]; and where they are few `probs` [b *space k]."""
        logits = out["logits"].astype(jnp.float32)
        found = {"mask": jnp.argmax(logits, axis=-1).astype(jnp.uint8)}
        if math.prod(logits.shape[1:]) <= KEPT_PROBS:
            found["probs"] = jax.nn.softmax(logits)
        return found

    # On the host

    def scorer(self, full: bool = True) -> Scorer:
        """See `SegmentationScorer` and, in full, `ReportScorer`."""
        if not full:
            return SegmentationScorer(self.info.class_names, self.background)
        return ReportScorer(self.info.class_names, self.background, self.spacing, self.info.targets["mask"].rank)

    def describe(self, row: Mapping[str, Any], frame: Any = None) -> dict[str, Any]:
        """The classes that were found, the largest first, in the raw input where `frame` is given.

        Returns:
          shape: of the mask; areas: {class: share of the pixels that the network saw}; seen: their share of all pixels,
          where a crop cut some off; ml: {class: millilitres} of volumes with a known spacing, without the background.
        """
        mask = np.asarray(row["mask"]) if frame is None else frame.mask_back(np.asarray(row["mask"]))
        counts = np.bincount(mask.reshape(-1), minlength=IGNORE + 1)[: self.num_outputs]
        names, seen = self.info.class_names, int(counts.sum())
        order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
        areas = {names[k]: round(float(counts[k] / seen), 6) for k in order}
        found: dict[str, Any] = {"shape": list(mask.shape), "areas": areas}
        if seen < mask.size:
            found["seen"] = round(seen / mask.size, 6)
        spacing = frame.spacing if frame is not None else None
        if spacing and mask.ndim == 3:
            voxel = math.prod(spacing) / 1000  # ml
            classes = [k for k in sorted(order) if k or not self.background]
            found["ml"] = {names[k]: round(int(counts[k]) * voxel, 4) for k in classes}
        return found

    def write(self, row: Mapping[str, Any], frame: Any, folder: str) -> dict[str, Any]:
        """Writes the mask of the raw input as FOLDER/STEM.png or, of a volume, .nii.gz in the place of its volume.

        Returns:
          mask: the path.

        Raises:
          UserError: it cannot be written.
        """
        mask = frame.mask_back(np.asarray(row["mask"]))
        if mask.ndim == 2:
            path = os.path.join(folder, f"{frame.stem}.png")
            write_mask(path, mask)
        else:
            path = os.path.join(folder, f"{frame.stem}.nii.gz")
            like = frame.path if is_nifti(frame.path) else ""
            write_nifti(path, mask, np.eye(4) if frame.affine is None else frame.affine, like)
        return {"mask": path}

    def baselines_read(self, input_shape: tuple[int, ...]) -> bool:
        """They need masks that went through the transforms, and for a threshold the inputs."""
        return True

    def baselines(self, train: Examples, test: Examples, seed: int) -> dict[str, dict[str, Any]]:
        """See `baselines.answers`."""
        key = self.info.input_key
        given = (train[key], train["mask"], test[key], test["mask"])
        return baselines.answers(*given, self.num_outputs, self.background)

    def plot(self, predictions: Mapping[str, Any], examples: Examples, directory: str) -> list[str]:
        """Worst and best examples and bars per class; see `plots`."""
        given = (np.asarray(predictions["mask"]), examples["mask"], examples[self.info.input_key])
        return plots.draw(*given, self.info.class_names, self.background, directory)
