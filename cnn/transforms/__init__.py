"""The table of transforms, and building them from a config. Holds text only; imports no JAX.

A transform is a frozen dataclass, `transform(example, draws) -> example`, that never changes its
input. The order in the table is the order of application, whatever the order in the config.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cnn.errors import UserError, unknown
from cnn.tables import Entry, build

if TYPE_CHECKING:
    from cnn.features import DatasetInfo


@runtime_checkable
class Transform(Protocol):
    """One step between the source and the batch.

    With `batched` True it takes stacked examples (arrays `b ...` of one shape, draws of b positions);
    the pipeline adds and removes the axis for a single one. With False it takes one example. `key` is
    what it changes, 'image', 'volume' or 'series'; a tuple of those that it takes, or None where it takes all.
    One that draws nothing and costs much says `fixed = True`: the pipeline may then apply it once and keep the result.
    A `mask` beside an image moves with it (`cnn.transforms.masks`); what cannot do that says `leaves_masks = True`.
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


def build_transforms(config: Any) -> list[Transform]:
    """The named transforms of a config (a mapping {name: options}), in the order of the table.

    Raises:
      UserError: a name or an option that does not exist, or a value it cannot have.
    """
    for name, options in config.items():
        if name not in TRANSFORMS:
            raise unknown("transform", name, TRANSFORMS)
        if not hasattr(options, "items"):  # a ConfigDict is no Mapping
            raise UserError(
                f"transform '{name}' needs its options as a dict, for instance {{}}, got {options!r}"
            )
    chosen = [name for name in TRANSFORMS if name in config]
    return [build("transform", TRANSFORMS, name, dict(config[name])) for name in chosen]


def check_transforms(transforms: Iterable[Transform], info: "DatasetInfo") -> None:
    """Refuses transforms of images for series, of series for volumes, and so on; and what would leave masks behind.

    Raises:
      UserError: names the first that does not fit the data set.
    """
    names = {entry.target.partition(":")[2]: name for name, entry in TRANSFORMS.items()}
    for transform in transforms:
        name = names.get(type(transform).__name__, type(transform).__name__)
        if info.target_key == "mask" and getattr(transform, "leaves_masks", False):
            raise UserError(
                f"transform '{name}' moves pixels but not the mask of '{info.name}'; use affine, flip and color_jitter"
            )
        takes = (transform.key,) if isinstance(transform.key, str) else transform.key
        if takes is not None and info.input_key not in takes:
            needed = "' or '".join(takes)
            raise UserError(
                f"transform '{name}' needs '{needed}', data set '{info.name}' has '{info.input_key}'"
            )
