"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719): `layers` operations at one `magnitude`."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnn.draws import Draws, Number
from cnn.errors import UserError

Example = dict[str, Any]
GREY = 128  # what comes in at the border


def _affine(image: Any, matrix: tuple[Number, ...]) -> Any:
    from PIL import Image

    fill = GREY if image.mode == "L" else (GREY,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)


def _rotate(image: Any, degrees: Number) -> Any:
    return image.rotate(degrees, fillcolor=GREY if image.mode == "L" else (GREY,) * 3)


def _enhance(kind: str) -> Callable[[Any, float], Any]:
    def apply(image: Any, change: Number) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(image).enhance(max(0.0, 1 + change))

    return apply


def _operate(kind: str) -> Callable[[Any, float], Any]:
    def apply(image: Any, _: Number) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, kind)(image)

    return apply


def _posterize(image: Any, bits: Number) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(image, max(1, 8 - round(bits)))


def _solarize(image: Any, lowered: Number) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(image, max(0, 256 - round(lowered)))


# name: (function of image and amount, amount at magnitude 10, whether its sign is random)
OPERATIONS: dict[str, tuple[Callable[[Any, float], Any], float, bool]] = {
    "identity": (lambda image, _: image, 0.0, False),
    "autocontrast": (_operate("autocontrast"), 0.0, False),
    "equalize": (_operate("equalize"), 0.0, False),
    "rotate": (_rotate, 30.0, True),  # degrees
    "solarize": (_solarize, 256.0, False),
    "color": (_enhance("Color"), 0.9, True),
    "posterize": (_posterize, 4.0, False),  # bits taken away
    "contrast": (_enhance("Contrast"), 0.9, True),
    "brightness": (_enhance("Brightness"), 0.9, True),
    "sharpness": (_enhance("Sharpness"), 0.9, True),
    "shear_x": (lambda image, a: _affine(image, (1, a, 0, 0, 1, 0)), 0.3, True),
    "shear_y": (lambda image, a: _affine(image, (1, 0, 0, a, 1, 0)), 0.3, True),
    "translate_x": (lambda image, a: _affine(image, (1, 0, a * image.width, 0, 1, 0)), 0.45, True),
    "translate_y": (lambda image, a: _affine(image, (1, 0, 0, 0, 1, a * image.height)), 0.45, True),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies `layers` operations, each drawn from the paper's 14, at one magnitude.

    As in the authors' code a magnitude of 10 is the full range of AutoAugment (30 degrees, shear 0.3,
    translation 0.45 of a side, factors 0.1 .. 1.9), and larger ones go on linearly; solarize and
    posterize grow stronger with the magnitude.

    Args:
      layers: operations per image (N in the paper).
      magnitude: 0..30 (M in the paper).

    Raises:
      UserError: images that are neither grey nor RGB.
    """

    batched: ClassVar[bool] = False
    key: ClassVar[str] = "image"
    leaves_targets: ClassVar[bool] = True
    layers: int = 2
    magnitude: Number = 9

    def __post_init__(self):
        if self.layers < 1:
            raise ValueError(f"layers must be 1 or more, got {self.layers}")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude must be in 0..30, got {self.magnitude}")

    def __call__(self, example: Example, draws: Draws) -> Example:
        from PIL import Image

        pixels = example["image"]
        if pixels.shape[-1] not in (1, 3):
            raise UserError(f"randaugment needs grey or RGB images, not {pixels.shape[-1]} channels")
        grey = pixels.shape[-1] == 1
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
        operations = list(OPERATIONS.values())
        chosen = draws.integers(0, len(operations), (self.layers,))[0]
        negative = draws.bernoulli(0.5, (self.layers,))[0]
        for which, minus in zip(chosen, negative, strict=True):
            function, full, signed = operations[which]
            amount = full * self.magnitude / 10
            image = function(image, -amount if signed and minus else amount)
        return example | {"image": np.array(image).reshape(pixels.shape)}
