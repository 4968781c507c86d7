"""From a config to the things it names: data set, task, model, mesh. Shared by all verbs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnn.card import Spec, spec_of
from cnn.data.pipeline import EvalBatches, example_spec
from cnn.data.sources import Source
from cnn.errors import UserError
from cnn.features import DatasetInfo
from cnn.mesh import data_parallel_size, make_mesh, on_cpu, process_share, to_global
from cnn.models import build_model
from cnn.state import init_variables
from cnn.tasks import build_task
from cnn.transforms import build_transforms, check_transforms

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Built:
    """What a config stands for, besides its data.

    Attributes:
      spec: shape and type of each entry of an example after the transforms of evaluation.
      shapes: of the model's variables.
    """

    config: ConfigDict
    mesh: Mesh
    info: DatasetInfo
    task: Any
    model: Any
    spec: Spec

    def zeros(self) -> dict[str, np.ndarray]:
        """A batch of one zero example, of the shapes and types that the pipeline delivers."""
        batch = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self.spec.items()}
        return {**batch, "valid": np.ones(1, bool)}

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's rows of a batch on the devices."""
        return to_global(batch, self.mesh, {name: feature.axes for name, feature in self.info.features.items()})

    def inputs(self) -> Any:
        """The model's input for one example, zeros; to be traced."""
        return self.task.inputs(self.zeros())

    def init(self) -> dict[str, Any]:
        """Fresh variables; pure, for `jit` and `eval_shape`."""
        return init_variables(self.model, self.inputs(), self.config.seed)

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        return jax.eval_shape(self.init)


def network_spec(config: ConfigDict, info: DatasetInfo, source: Source) -> Spec:
    """An example as the network sees it in evaluation: the first one, after the transforms.

    Raises:
      UserError: a transform that is not for these data, or the example cannot be read.
    """
    transforms = build_transforms(config.input.eval_transforms)
    check_transforms(transforms, info)
    return example_spec(source, transforms, info.ragged)


def build(
    config: ConfigDict,
    info: DatasetInfo,
    spec: Spec | None = None,
    devices: Sequence[Any] | None = None,
) -> Built:
    """Task, model and mesh of a config, for data that `info` describes. Sets nothing: see `cnn.process.follow`.

    Args:
      spec: `network_spec` of the data; None takes the shapes before the transforms.
      devices: to make the mesh of; None for this machine's.

    Raises:
      UserError: an unknown name or option, a transform that is not for these data, or a model that does
        not take inputs of this shape.
    """
    for transforms in (config.input.train_transforms, config.input.eval_transforms):
        check_transforms(build_transforms(transforms), info)
    mesh = make_mesh(config.mesh, devices)
    if config.dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype '{config.dtype}' is unknown. Valid: auto, {', '.join(DTYPES)}")
    automatic = "float32" if on_cpu(mesh) else "bfloat16"
    dtype = DTYPES[automatic if config.dtype == "auto" else config.dtype]
    task = build_task(
        config.task.name, info, config.input.mean, config.input.std, **_options(config.task)
    )
    model = build_model(
        config.model.name, {"num_classes": task.num_outputs, "dtype": dtype} | _options(config.model)
    )
    built = Built(config, mesh, info, task, model, spec or spec_of(info))
    try:
        _ = built.shapes
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:
        shape = jax.tree.map(lambda x: x.shape, jax.eval_shape(built.inputs))
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model '{config.model.name}' does not take inputs of shape {shape}: {reason}") from error
    return built


def _options(group: ConfigDict) -> dict[str, Any]:
    return {key: value for key, value in group.to_dict().items() if key != "name"}


def eval_batches(built: Built, source: Source, batch_size: int = 0) -> EvalBatches:
    """A split in order, padded; the batch size is rounded up to a multiple of the parts of the mesh."""
    size = batch_size or built.config.eval.batch_size
    cut = data_parallel_size(built.mesh)
    return EvalBatches(
        source,
        build_transforms(built.config.input.eval_transforms),
        -(-size // cut) * cut,
        *process_share(built.mesh),
        ragged=built.info.ragged,
    )
