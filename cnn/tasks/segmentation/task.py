"""Segmentation: one class for every pixel of a picture or voxel of a volume."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cnn.errors import UserError
from cnn.features import IGNORE, DatasetInfo
from cnn.files.mask_png import write_mask
from cnn.files.volumes import is_nifti, write_nifti
from cnn.scoring import boundaries, overlap, surfaces
from cnn.scoring import classification as scores
from cnn.scoring import sums as metric_sums
from cnn.shapes import Batch, Outputs, PerExample
from cnn.tasks import inputs
from cnn.tasks.segmentation import baselines, losses, plots

KEPT_PROBS = 1 << 16  # numbers per example up to which the host keeps the probabilities, not the classes alone
CALIBRATED = 2_000_000  # pixels that the calibration error is computed from


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The task; `segmentation` builds it and describes the options.

    A batch holds `image` (uint8 in [0, 255], or float already in [0, 1]) or `volume` (float32), and `mask` uint8
    [b *space], class ids or 255 for what counts nowhere; the model answers with logits [b *space k].
    """

    info: DatasetInfo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    objective: tuple[tuple[float, str], ...]
    class_weights: tuple[float, ...]
    focal_gamma: float
    tversky_alpha: float
    tversky_beta: float
    boundary_weight: float
    boundary_width: int
    aux_weight: float
    background: bool
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.info.target_key != "mask" or not 2 <= self.info.num_classes <= IGNORE:
            raise UserError(f"data set '{self.info.name}' has no class per pixel; its task is another one")
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
        if self.spacing and (len(self.spacing) != len(self.info.input_shape) - 1 or min(self.spacing) <= 0):
            raise UserError(f"task.spacing is {self.spacing}; it must hold a number above 0 per axis, or be ()")
        inputs.check_normalisation(self.mean, self.std)

    @property
    def num_outputs(self) -> int:
        """Number of classes: the model's `num_classes`."""
        return self.info.num_classes

    def init_batch(self, input_shape: tuple[int, ...] | None = None) -> Batch:
        """See `inputs.one_zero`."""
        return inputs.one_zero(self.info, input_shape)

    # On the device

    def augment(self, batch: Batch, rng: Key[Array, ""]) -> Batch:
        """Nothing is mixed."""
        return batch

    def inputs(self, batch: Batch) -> Float[Array, "b *space c"]:
        """Images in [0, 1], volumes as they are; minus `mean`, over `std`. float32."""
        return inputs.normalised(inputs.unit(batch[self.info.input_key]), self.mean, self.std)

    def loss(self, out: Outputs, batch: Batch) -> PerExample:
        """The sum of the chosen terms, plus those of auxiliary outputs.

        `aux` and `aux1` count `aux_weight`, `aux2` its square, and so on: with 1/2 the weights of deep supervision
        (Lee et al. 2015, arXiv 1409.5185) halve with the resolution. An auxiliary output may be coarser than the mask.
        """
        logits = self._logits(out, batch)
        total = self._loss(logits, batch["mask"])
        for name in sorted(name for name in out if name.startswith("aux")):
            weight = self.aux_weight ** int(name.removeprefix("aux") or 1)
            total = total + weight * self._loss(out[name].astype(jnp.float32), batch["mask"])
        return total

    def _loss(self, logits: Float[Array, "b *size k"], mask: Any) -> PerExample:
        mask = losses.at_resolution(jnp.asarray(mask), logits.shape[1:-1])
        true = losses.truth(mask, self.num_outputs, self.class_weights)
        return sum(factor * losses.TERMS[name](logits, true, self) for factor, name in self.objective)

    def _logits(self, out: Outputs, batch: Batch) -> Float[Array, "b *space k"]:
        logits, mask = out["logits"].astype(jnp.float32), batch["mask"]
        if logits.shape[:-1] != mask.shape:
            raise UserError(
                f"the model answers with {logits.shape[1:]} per example, the mask is {mask.shape[1:]}; choose one "
                "that answers at every pixel: cnn list models"
            )
        return logits

    def metrics(self, out: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """loss; image_dice (the mean over examples and classes that are there or said); counts of pixels per class."""
        logits, mask, valid = self._logits(out, batch), jnp.asarray(batch["mask"]), batch["valid"]
        counts = self._counts(jnp.argmax(logits, axis=-1), mask)
        counts = counts * valid.astype(jnp.int32)[:, None, None]
        count = jnp.sum(valid.astype(jnp.float32))
        right, said, true = jnp.moveaxis(counts[..., int(self.background) :].astype(jnp.float32), 1, 0)
        there = said + true > 0
        dice = jnp.where(there, 2 * right / jnp.maximum(said + true, 1), 0)
        return {
            "loss": (jnp.sum(jnp.where(valid, self.loss(out, batch), 0)), count),
            "image_dice": (jnp.sum(dice), jnp.sum(there.astype(jnp.float32))),
            "class_counts": (jnp.sum(counts, axis=0), count),
        }

    def _counts(self, said: Int[Array, "b *space"], mask: Any) -> Int[Array, "b 3 k"]:
        """Pixels of each class: right, said, true. Integers: float32 counts no further than 2^24."""
        classes = jnp.arange(self.num_outputs).reshape((1,) * mask.ndim + (-1,))
        axes = tuple(range(1, mask.ndim))
        guess = (said[..., None] == classes) & (mask != IGNORE)[..., None]
        true = mask[..., None] == classes
        return jnp.stack([jnp.sum(x, axes, dtype=jnp.int32) for x in (guess & true, guess, true)], axis=1)

    def predictions(self, out: Outputs) -> dict[str, Array]:
        """`mask` uint8 [b *space]; and where they are few `probs` [b *space k]."""
        logits = out["logits"].astype(jnp.float32)
        found = {"mask": jnp.argmax(logits, axis=-1).astype(jnp.uint8)}
        if math.prod(logits.shape[1:]) <= KEPT_PROBS:
            found["probs"] = jax.nn.softmax(logits)
        return found

    # On the host

    def finalize(self, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """loss, image_dice; accuracy, mean_accuracy, miou, dice over all pixels; `per_class`. See `overlap`."""
        counts = np.asarray(sums["class_counts"][0], np.float64)
        result: dict[str, Any] = metric_sums.means(sums) | overlap.scores(counts, self.background)
        result["per_class"] = overlap.per_class(counts, self.info.class_names)
        return result

    def report(self, predictions: Mapping[str, Any], targets: Any) -> dict[str, Any]:
        """Of pictures `boundary_f` (and of how many, where not all); of volumes distances between surfaces, see
        `surfaces.summary`; `ece` of the pixels where `probs` were kept."""
        said, mask = np.asarray(predictions["mask"]), np.asarray(targets)
        result: dict[str, Any] = {}
        if mask.ndim == 3:
            result["boundary_f"], looked = boundaries.mean_boundary_f(said, mask, self.num_outputs)
            if looked < len(mask):
                result["boundary_f_pictures"] = looked
        if mask.ndim == 4:
            result |= surfaces.summary(mask, said, self.info.class_names, self.spacing)
        if "probs" in predictions:
            seen = np.flatnonzero(mask != IGNORE)
            seen = seen[:: max(1, len(seen) // CALIBRATED)]
            probs = np.asarray(predictions["probs"]).reshape(-1, self.num_outputs)[seen]
            result["ece"] = scores.reliability(probs, mask.reshape(-1)[seen].astype(int)).ece
        return result

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

    def baselines(self, train: Mapping[str, Any], test: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
        """See `baselines.answers`."""
        key = self.info.input_key
        given = (train[key], train["mask"], test[key], test["mask"])
        return baselines.answers(*given, self.num_outputs, self.background)

    def draw(self, predictions: Mapping[str, Any], examples: Mapping[str, Any], directory: str) -> list[str]:
        """Worst and best examples and bars per class; see `plots`."""
        given = (np.asarray(predictions["mask"]), examples["mask"], examples[self.info.input_key])
        return plots.draw(*given, self.info.class_names, self.background, directory)


def segmentation(
    info: DatasetInfo,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    loss: str = "ce",
    class_weights: tuple[float, ...] = (),
    focal_gamma: float = 2.0,
    tversky_alpha: float = 0.3,
    tversky_beta: float = 0.7,
    boundary_weight: float = 4.0,
    boundary_width: int = 2,
    aux_weight: float = 0.5,
    background: bool = True,
    spacing: tuple[float, ...] = (),
) -> Segmentation:
    """Builds the task; everything after `std` is an option of `config.task`.

    Args:
      info: the data set: input key, shape and class names, the background first.
      mean, std: per channel, of images in [0, 1] or of volumes; empty leaves the scale as it is.
      loss: a sum of 'ce', 'dice', 'focal', 'tversky' and 'boundary', with factors: 'ce+0.5*dice'.
      class_weights: of the pixels in 'ce', 'focal' and 'boundary', one per class; () is 1 for all.
      focal_gamma: of 'focal'.
      tversky_alpha, tversky_beta: of 'tversky': the price of what is wrongly said and of what is missed.
      boundary_weight, boundary_width: of 'boundary': what pixels within so many of a change of class weigh more.
      aux_weight: of auxiliary outputs; see `Segmentation.loss`.
      background: class 0 is what is no object; `dice` (the score and the losses) then leaves it out.
      spacing: mm per voxel along d, h, w after the transforms, for distances between surfaces; () counts voxels.

    Raises:
      UserError: a value out of range, or a data set without masks.
    """
    return Segmentation(
        info=info,
        mean=tuple(mean),
        std=tuple(std),
        objective=losses.terms(loss),
        class_weights=tuple(class_weights),
        focal_gamma=focal_gamma,
        tversky_alpha=tversky_alpha,
        tversky_beta=tversky_beta,
        boundary_weight=boundary_weight,
        boundary_width=boundary_width,
        aux_weight=aux_weight,
        background=background,
        spacing=tuple(spacing),
    )
