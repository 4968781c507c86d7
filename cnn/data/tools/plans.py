"""`cnn data plan`: a training config for a folder of volumes, derived from the data, with the reason for each choice.

The rules are those of nnU-Net (Isensee et al. 2021, arXiv 1809.10486, "automated method configuration") in short: the
median spacing; windows as large as the memory allows; halvings along an axis while it is at least 8 voxels long and no
coarser than twice the finest one; a batch of two, more only where the whole volume fits. Nothing here knows a network:
the config names one, and a formula estimates its memory.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cnn.data.volumes_folder import VolumesFolder, VolumeSource
from cnn.draws import Number
from cnn.errors import UserError
from cnn.features import IGNORE

LEAST = 4  # voxels along an axis that a halving leaves
MAX_LEVELS = 6
WIDEST = 320  # channels
COPIES = 4.0  # arrays per convolution at the peak; with 4 the estimate is within 10 % of what XLA:CPU allocates
BATCHES = (2, 8)  # least and most
SHARE = 0.05  # of all training voxels that one batch may see: with more, it would overfit
VOXELS = 10_000  # of the foreground of each case, from which intensities are measured
DTYPES = {"float32": 4, "bfloat16": 2}
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was chosen, and why.

    Attributes:
      spacing: mm along d, h, w that all volumes are resampled to.
      patch: voxels of a training window; window: of an evaluated volume.
      strides, kernels: of the network, per level.
      intensity: options of the transform volume_intensity.
      held_out: whether there are cases for validation and test.
      memory: bytes that a training step is estimated to take.
      reasons: lines for people.
    """

    root: str
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    window: tuple[int, ...]
    batch: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    intensity: dict[str, Any]
    held_out: bool
    memory: int
    reasons: tuple[str, ...]


def levels(
    patch: Sequence[int], spacing: Sequence[Number]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """(strides between levels, kernel sizes of the levels) for a window of `patch` voxels of `spacing` mm."""
    size, mm = np.array(patch, int), np.array(spacing, float)
    strides, kernels = [], []
    while True:
        kernels.append(tuple(np.where(mm < 2 * mm.min(), 3, 1).tolist()))
        able = size >= 2 * LEAST
        if not strides and not able.any():
            able = size == size.max()  # a network has two levels at least
        if not able.any() or len(kernels) == MAX_LEVELS:
            return tuple(strides), tuple(kernels)
        step = np.where(able & (mm < 2 * mm[able].min()), 2, 1)
        strides.append(tuple(step.tolist()))
        size, mm = -(-size // step), mm * step


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Voxels of the input per voxel of the coarsest level, along each axis."""
    return tuple(np.prod(np.array(strides, int), axis=0).tolist())


def widths_of(count: int, base: int) -> tuple[int, ...]:
    """Channels of `count` levels: doubled at each, up to WIDEST."""
    return tuple(min(base << level, max(WIDEST, base)) for level in range(count))


def memory(
    patch: Sequence[int], strides: Sequence[Sequence[int]], widths: Sequence[int], classes: int, batch: int, size: int
) -> int:
    """Bytes that a training step of a U-Net takes: an estimate for two convolutions per level on each way, and AdamW.

    Args:
      size: bytes of a number in the activations.
    """
    voxels = [math.prod(patch)]
    for step in strides:
        voxels.append(math.ceil(voxels[-1] / math.prod(step)))
    activations = parameters = 0
    for level, (count, width) in enumerate(zip(voxels, widths, strict=True)):
        last = level == len(widths) - 1
        activations += count * width * COPIES * (2 if last else 4) + (0 if last else count * width * 2)
        above = widths[level - 1] if level else 1
        parameters += 27 * width * (above + width)
        parameters += 0 if last else 27 * width * 3 * width + 8 * width * widths[level + 1]
    logits = 4 * 4 * voxels[0] * classes  # float32: logits, their gradient, probabilities, one-hot truth
    return int(batch * (activations * size + logits) + 4 * 4 * parameters)


def fitted_patch(
    shape: Sequence[int], spacing: Sequence[Number], base: int, classes: int, limit: Number, size: int
) -> tuple[int, ...]:
    """The largest window of at most `shape` voxels whose step on a batch of two takes at most `limit` bytes.

    It shrinks along the axis that is longest in mm, so it ends as near to a cube as the volume allows.

    Raises:
      UserError: not even the smallest fits.
    """
    patch = np.array(shape, int)
    while True:
        strides, _ = levels(patch.tolist(), spacing)
        unit = np.array(total_stride(strides))
        patch = np.maximum(patch // unit * unit, np.minimum(unit, 2 * LEAST))
        strides, kernels = levels(patch.tolist(), spacing)
        needed = memory(patch.tolist(), strides, widths_of(len(kernels), base), classes, BATCHES[0], size)
        if needed <= limit:
            return tuple(patch.tolist())
        room = patch > 2 * LEAST
        if not room.any():
            raise UserError(
                f"no window of {2 * LEAST} voxels or more fits into {limit / GIB:.3g} GiB; raise --memory_gb or lower "
                "--width"
            )
        axis = int(np.where(room, patch * np.array(spacing), -1).argmax())
        patch[axis] -= min(int(unit[axis]), patch[axis] - 2 * LEAST)


def intensities(sources: Sequence[VolumeSource], modalities: Sequence[str]) -> tuple[dict[str, Any], str]:
    """(options of volume_intensity, why)."""
    if len(modalities) != 1 or "ct" not in modalities[0].lower().replace("-", " ").split():
        said = ", ".join(modalities)
        return {"modality": "mr"}, f"intensity: modality {said} has no absolute scale: z-score of each volume's voxels"
    seen = []
    for source in sources:
        for i in range(len(source)):
            example = source[i]
            inside = example["volume"][..., 0][(example["mask"] > 0) & (example["mask"] != IGNORE)]
            seen.append(inside[:: max(1, len(inside) // VOXELS)].astype(np.float64))
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    if not len(values):
        raise UserError("no training mask holds a class: there is nothing to learn; run `cnn data check`")
    low, high = np.percentile(values, (0.5, 99.5))
    clipped = np.clip(values, low, high)
    mean, std = float(clipped.mean()), float(clipped.std()) or 1.0
    options = {"modality": "ct", "clip": (round(float(low), 1), round(float(high), 1))}
    options |= {"mean": round(mean, 2), "std": round(std, 2)}
    why = (
        f"intensity: CT is absolute: clipped to {low:.0f} .. {high:.0f} (0.5 and 99.5 % of the foreground of the "
        f"training cases), mean {mean:.0f}, deviation {std:.0f}"
    )
    return options, why


def make(provider: VolumesFolder, memory_gb: Number, base: int, dtype: str) -> Plan:
    """The plan for a prepared folder.

    Args:
      memory_gb: GiB that a training step may take.
      base: channels of the first level.
      dtype: of the activations, one of DTYPES.

    Raises:
      UserError: nothing fits.
    """
    cases = provider.cases
    spacings = np.array([case.spacing for case in cases])
    spacing = tuple(round(float(mm), 4) for mm in np.median(spacings, axis=0))
    shapes = np.array([np.rint(np.array(case.shape[:3]) * case.spacing / spacing) for case in cases]).astype(int)
    shapes = np.maximum(shapes, 1)
    median = tuple(int(n) for n in np.median(shapes, axis=0))
    classes, limit, size = provider.info.num_classes, memory_gb * GIB, DTYPES[dtype]
    counts = ", ".join(f"{split} {count}" for split, count in provider.sizes().items())
    reasons = [
        f"cases: {len(cases)} ({counts}), {classes} classes",
        f"spacing: {_mm(spacing)} mm, the median along each axis (from {_mm(spacings.min(0))} to "
        f"{_mm(spacings.max(0))}); volumes then have a median of {_by(median)} voxels",
    ]
    if max(spacing) > 2 * min(spacing):
        reasons.append(
            f"anisotropic: voxels are {max(spacing) / min(spacing):.1f} times as long as wide, so the first levels "
            "neither stride nor convolve along that axis"
        )
    patch = fitted_patch(median, spacing, base, classes, limit, size)
    strides, kernels = levels(patch, spacing)
    widths = widths_of(len(kernels), base)
    unit = total_stride(strides)
    whole = all(n + step > have for n, have, step in zip(patch, median, unit, strict=True))
    share = math.prod(patch) / math.prod(median)
    seen = "the whole median volume" if whole else f"{share:.0%} of the median volume, as much as fits"
    reasons.append(f"patch: {_by(patch)} voxels = {_mm(np.array(patch) * spacing)} mm, {seen}")
    reasons.append(
        f"depth: {len(kernels)} levels, total stride {_by(unit)}: an axis is halved while it has at least {2 * LEAST} "
        f"voxels and is less than twice as coarse as the finest; widths {', '.join(map(str, widths))}"
    )
    everything = float(np.prod(shapes, axis=1).sum())
    batch = BATCHES[0]
    while batch < BATCHES[1]:
        more = memory(patch, strides, widths, classes, batch + 1, size)
        if more > limit or (batch + 1) * math.prod(patch) > SHARE * everything:
            break
        batch += 1
    needed = memory(patch, strides, widths, classes, batch, size)
    reasons.append(
        f"batch: {batch}, about {needed / GIB:.2g} of {memory_gb:g} GiB per step in {dtype} (an estimate); more only "
        f"where memory is left and a batch sees at most {SHARE:.0%} of all voxels"
    )
    intensity, why = intensities([provider.source("train")], provider.modalities)
    reasons.append(why)
    window, why = _window(shapes.max(0), strides, widths, limit, size)
    reasons.append(why)
    held_out = bool(provider.sizes()["test"])
    return Plan(
        *(provider.root, spacing, patch, window, batch, widths, strides, kernels),
        *(intensity, held_out, needed, tuple(reasons)),
    )


def _window(
    largest: np.ndarray, strides: Sequence[Sequence[int]], widths: Sequence[int], limit: Number, size: int
) -> tuple[tuple[int, ...], str]:
    """What is evaluated of each volume: all of the largest one, or the middle that fits without a way back."""
    window = -(-largest // (unit := np.array(total_stride(strides)))) * unit  # rounded up
    shrunk = False
    while 4 * math.prod(window.tolist()) * widths[0] * size > limit and (window > unit).any():
        axis = int(window.argmax())
        window[axis] -= unit[axis]
        shrunk = True
    text = f"evaluation: the {'middle' if shrunk else 'whole volume, padded to'} {_by(window.tolist())}"
    if shrunk:
        text += " voxels of each volume, for all of it does not fit; score whole volumes by tiles (cnn.inference.tiles)"
    return tuple(window.tolist()), text


def _mm(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


def _by(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def config_text(plan: Plan, steps: int) -> str:
    """The plan as a config file."""
    return _CONFIG.format(
        plan=plan,
        reasons="\n".join(f"    {line}" for line in plan.reasons).replace("\\", "/"),
        steps=steps,
        warmup=max(steps // 50, 1),
        deep=len(plan.widths) > 2,
        watched="validation" if plan.held_out else "",
        test="test" if plan.held_out else "",
        narrow=(4,) * len(plan.widths),
        small=tuple(max(step, LEAST) for step in total_stride(plan.strides)),
    )


_CONFIG = '''"""U-Net on the volumes of a folder, as `cnn data plan` planned it. Measured: not run.

{reasons}
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_steps = {steps}
    c.model = ConfigDict(
        {{
            "name": "unet",
            "widths": {plan.widths},
            "strides": {plan.strides},
            "kernel_sizes": {plan.kernels},
            "norm": "instance",
            "aux": {deep},
        }}
    )
    c.task = ConfigDict({{"name": "segmentation", "loss": "ce+dice", "spacing": {plan.spacing}}})

    c.input.dataset = "volumes_folder"
    c.input.data_dir = {plan.root!r}
    c.input.batch_size = {plan.batch}
    patch, window = ({small},) * 2 if arg == "smoke" else ({plan.patch}, {plan.window})
    same = (
        ("volume_spacing", {{"spacing": {plan.spacing}}}),
        ("volume_intensity", {plan.intensity}),
    )
    c.input.train_transforms = (
        *same,
        ("volume_patch", {{"size": patch, "degrees": 15.0, "scale": 0.2, "elastic": 1.0}}),
        ("volume_mirror", {{}}),
        ("volume_gamma", {{}}),
        ("noise", {{"std": 0.05}}),
    )
    c.input.eval_transforms = (*same, ("volume_fit", {{"size": window}}))

    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.weight_decay = 1e-4
    c.optim.clip_norm = 12.0
    c.schedule.warmup_steps = {warmup}

    c.eval.split = {watched!r}
    c.eval.test_split = {test!r}
    c.eval.batch_size = 1
    c.eval.metric = "dice"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.widths = {narrow}
        c.input.batch_size = c.eval.batch_size = 2
    return c
'''
