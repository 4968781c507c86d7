"""From a config to the things it names: data set, task, model, mesh. Shared by all verbs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnn.data.pipeline import EvalBatches, example_shape
from cnn.data.sources import Source
from cnn.errors import UserError
from cnn.features import DatasetInfo
from cnn.mesh import data_parallel_size, make_mesh, on_cpu, process_share
from cnn.models import build_model
from cnn.state import init_variables
from cnn.tasks import build_task
from cnn.transforms import build_transforms, check_transforms

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Built:
    """What a config stands for, besides its data.

    Attributes:
      input_shape: of one input as the network sees it, after the transforms; None where nobody knows.
      shapes: of the model's variables.
    """

    config: ConfigDict
    mesh: Mesh
    info: DatasetInfo
    task: Any
    model: Any
    input_shape: tuple[int, ...] | None = None

    def inputs(self) -> jax.Array:
        """The model's input for one example, zeros; to be traced."""
        return self.task.inputs(self.task.init_batch(self.input_shape))

    def init(self) -> dict[str, Any]:
        """Fresh variables; pure, for `jit` and `eval_shape`."""
        return init_variables(self.model, self.inputs(), self.config.seed)

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        return jax.eval_shape(self.init)


def network_shape(config: ConfigDict, info: DatasetInfo, source: Source) -> tuple[int, ...]:
    """Shape of one input as the network sees it in evaluation: that of the first example.

    Raises:
      UserError: a transform that is not for these data, or the example cannot be read.
    """
    transforms = build_transforms(config.input.eval_transforms)
    check_transforms(transforms, info)
    return example_shape(source, transforms)[info.input_key][0]


def build(
    config: ConfigDict,
    info: DatasetInfo,
    input_shape: tuple[int, ...] | None = None,
    devices: Sequence[Any] | None = None,
) -> Built:
    """Task, model and mesh of a config, for data that `info` describes.

    Args:
      input_shape: `network_shape` of the data; None takes the shape before the transforms.
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
    if config.dtype == "float32":  # TPUs and GPUs multiply float32 in fewer bits unless told otherwise
        jax.config.update("jax_default_matmul_precision", "highest")
    task = build_task(
        config.task.name, info, config.input.mean, config.input.std, **_options(config.task)
    )
    model = build_model(
        config.model.name, {"num_classes": task.num_outputs, "dtype": dtype} | _options(config.model)
    )
    built = Built(config, mesh, info, task, model, input_shape)
    try:
        _ = built.shapes
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:
        shape = jax.eval_shape(built.inputs).shape
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
    )


def model_card(
    config: ConfigDict, info: DatasetInfo, input_shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """What someone who has only a checkpoint must know to use it."""
    return {
        "task": config.task.name,
        "model": config.model.name,
        "dataset": info.name,
        "classes": list(info.class_names),
        "input": info.input_key,
        "input_shape": list(info.input_shape),
        "target": info.target_key,
        "target_shape": list(info.target_shape),
        "network_shape": list(input_shape or ()),
        "mean": list(config.input.mean),
        "std": list(config.input.std),
        "eval_transforms": config.input.eval_transforms.to_dict(),
    }


def info_from_card(card: dict[str, Any]) -> DatasetInfo:
    """The data set's facts as a checkpoint tells them, so that predicting needs no data."""
    return DatasetInfo(
        card["dataset"],
        card["input"],
        tuple(card["input_shape"]),
        tuple(card["classes"]),
        card.get("target", "label"),
        tuple(card.get("target_shape", ())),
    )
