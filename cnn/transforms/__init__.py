"""The table of transforms, and building them from a config. Holds text only; imports no JAX.

A transform is a frozen dataclass, `transform(example, draws) -> example`, that never changes its
input. A config lists them as ((name, options), ...): they are applied in this order, each as often as it is listed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from cnn.errors import UserError, unknown
from cnn.features import DatasetInfo
from cnn.tables import Entry, build

FORM = "((name, options), ...), for instance (('pad_crop', {'padding': 2}), ('flip', {})) or ()"
# Axes and type of what transforms work on.
KEYS = {"image": ("h w c", "uint8"), "volume": ("d h w c", "float32"), "series": ("t c", "float32")}
MOVING = ("mask", "labels", "boxes", "points")  # entries that go wherever the pixels, voxels or steps go


@runtime_checkable
class Transform(Protocol):
    """One step between the source and the batch.

    With `batched` True it takes stacked examples (arrays `b ...` of one shape, draws of b positions);
    the pipeline adds and removes the axis for a single one. With False it takes one example. `key` is
    what it changes, one of KEYS; a tuple of those that it takes, or None where it takes all.
    One that draws nothing and costs much sets `fixed = True`: the pipeline may then apply it once and keep the result.
    One that moves pixels is `Geometric` (`cnn.transforms.rows`): a `mask` (`labels` of a series), `boxes` and `points`
    move with them; one that cannot do that sets `leaves_targets = True`. `unlabelled = True` means that it brings in
    steps without a class.
    """

    batched: bool
    key: str | tuple[str, ...] | None

    def __call__(self, example: dict[str, Any], draws: Any) -> dict[str, Any]: ...


TRANSFORMS: dict[str, Entry] = {
    "volume_spacing": Entry("cnn.transforms.volume:Spacing", "resample to voxels of `spacing` mm, masks with them"),
    "volume_intensity": Entry(
        "cnn.transforms.intensity:Intensity", "normalise by `modality`: 'ct', 'mr' or 'microscopy'"
    ),
    "volume_fit": Entry("cnn.transforms.volume:Fit", "crop or pad about the middle, to `size` or a `multiple`"),
    "volume_patch": Entry(
        "cnn.transforms.volume:Patch", "random window of `size` voxels, foreground balanced, rotated, scaled, bent"
    ),
    "volume_mirror": Entry("cnn.transforms.volume:Mirror", "mirror along `axes` with probability one half each"),
    "volume_gamma": Entry("cnn.transforms.intensity:Gamma", "bend the intensities by a random power"),
    "fill_gaps": Entry("cnn.transforms.series:FillGaps", "fill gaps of a series by linear interpolation"),
    "resample": Entry("cnn.transforms.series:Resample", "series to `steps` time steps by a cubic spline"),
    "channels": Entry("cnn.transforms.image:Channels", "grey <-> RGB, alpha onto white (count=3)"),
    "resize_short": Entry("cnn.transforms.image:ResizeShort", "short side to `size` pixels"),
    "resize": Entry("cnn.transforms.image:Resize", "to `size` x `size` pixels"),
    "center_crop": Entry("cnn.transforms.geometry:CenterCrop", "the middle `size` x `size` pixels"),
    "random_scale": Entry("cnn.transforms.image:RandomScale", "larger or smaller by a random factor"),
    "random_crop": Entry("cnn.transforms.geometry:RandomCrop", "`size` x `size` pixels from a random place"),
    "random_resized_crop": Entry(
        "cnn.transforms.geometry:RandomResizedCrop", "Szegedy et al. 2015: part of the image, resized"
    ),
    "pad_crop": Entry("cnn.transforms.geometry:PadCrop", "pad, then crop back at a random place"),
    "shift": Entry("cnn.transforms.series:Shift", "move by up to `size` pixels or time steps"),
    "affine": Entry("cnn.transforms.affine:Affine", "rotate, scale, shear and shift about the centre"),
    "elastic": Entry("cnn.transforms.affine:Elastic", "bend smoothly (Ronneberger et al. 2015)"),
    "rotate90": Entry("cnn.transforms.geometry:Rotate90", "turn by a multiple of 90 degrees"),
    "flip": Entry("cnn.transforms.geometry:Flip", "mirror with probability p (axis 'w', 'h' or 't')"),
    "color_jitter": Entry("cnn.transforms.image:ColorJitter", "brightness, contrast, saturation"),
    "randaugment": Entry(
        "cnn.transforms.randaugment:RandAugment", "Cubuk et al. 2020: random image operations"
    ),
    "scale": Entry("cnn.transforms.series:Scale", "multiply a series or a volume by a random factor"),
    "noise": Entry("cnn.transforms.series:Noise", "add Gaussian noise to a series or a volume"),
    "erase": Entry("cnn.transforms.image:Erase", "Zhong et al. 2017: erase a random rectangle"),
}


# The order in which checkpoints of format 1 applied transforms, whatever the order of their config.
FORMAT_1_ORDER = (
    "volume_spacing", "volume_intensity", "volume_fit", "volume_patch", "volume_mirror", "volume_gamma", "channels",
    "resize_short", "resize", "center_crop", "random_scale", "random_crop", "random_resized_crop", "pad_crop", "shift",
    "affine", "elastic", "rotate90", "flip", "color_jitter", "randaugment", "scale", "noise", "erase",
)  # fmt: skip


def check_form(steps: Any) -> None:
    """Refuses what is not ((name, options), ...) with names of the table.

    Raises:
      UserError: says what is wrong.
    """
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise UserError(f"transforms are {FORM}; got {_brief(steps)}")
    for step in steps:
        if isinstance(step, str) or not isinstance(step, Sequence) or len(step) != 2 or not isinstance(step[1], dict):
            raise UserError(f"transforms are {FORM}; {_brief(step)} is no (name, options)")
        if step[0] not in TRANSFORMS:
            raise unknown("transform", str(step[0]), TRANSFORMS)


def build_transforms(steps: Any) -> list[Transform]:
    """The transforms of a config, ((name, options), ...), in its order.

    Raises:
      UserError: another form, a name or an option that does not exist, or a value it cannot have.
    """
    check_form(steps)
    return [build("transform", TRANSFORMS, name, options) for name, options in steps]


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:56]} ..."


def check_transforms(transforms: Iterable[Transform], info: DatasetInfo) -> None:
    """Refuses transforms of what a data set does not hold, and those that would leave masks or boxes behind.

    Raises:
      UserError: names the first that does not fit the data set.
    """
    names = {entry.target.partition(":")[2]: name for name, entry in TRANSFORMS.items()}
    for transform in transforms:
        name = names.get(type(transform).__name__, type(transform).__name__)
        behind = [key for key in MOVING if key in info.features and getattr(transform, "leaves_targets", False)]
        if behind:
            raise UserError(
                f"transform '{name}' moves pixels but not the {behind[0]} of '{info.name}'; "
                "use affine, flip and color_jitter"
            )
        if "labels" in info.targets and getattr(transform, "unlabelled", False):
            raise UserError(f"transform '{name}' brings in steps without a class; set mode to edge, reflect or wrap")
        takes = (transform.key,) if isinstance(transform.key, str) else transform.key
        found = [key for key in takes or () if key in info.inputs]
        if takes is not None and not found:
            needed = "' or '".join(takes)
            raise UserError(f"transform '{name}' needs '{needed}', data set '{info.name}' has '{info.input_key}'")
        for key in found:
            feature = info.inputs[key]
            if (feature.axes, feature.dtype) != KEYS[key]:
                raise UserError(
                    f"transform '{name}' takes '{key}' as {KEYS[key][1]} [{KEYS[key][0]}], data set '{info.name}' has "
                    f"{feature.dtype} [{feature.axes}]"
                )
