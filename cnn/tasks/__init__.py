"""The tasks by name. This module imports no JAX; building one does."""

from collections.abc import Mapping
from typing import Any

from cnn.tables import Entry, build

TASKS: dict[str, Entry] = {
    "classification": Entry(
        "cnn.tasks.classification.task:Classification",
        "one class per picture or series: softmax, BCE or focal loss",
    ),
    "regression": Entry(
        "cnn.tasks.regression.task:Regression", "numbers per series or picture: squared, absolute or Huber loss"
    ),
    "segmentation": Entry(
        "cnn.tasks.segmentation.task:Segmentation",
        "one class for every pixel or voxel: cross entropy, Dice, focal, Tversky"
    ),
    "sequence_labelling": Entry(
        "cnn.tasks.sequence_labelling.task:SequenceLabelling", "one class for every step of a series"
    ),
}


def build_task(name: str, info: Any, mean: tuple = (), std: tuple = (), **options: Any) -> Any:
    """The task called `name` for the data set `info` (a DatasetInfo); see `cnn.tasks.base.Task`.

    Args:
      mean, std: per channel, of images in [0, 1]; empty leaves the scale as it is.
      options: the fields of `config.task` other than `name`.

    Raises:
      UserError: unknown name or option, or an option's value that the task refuses.
    """
    given: Mapping[str, Any] = {"info": info, "mean": tuple(mean), "std": tuple(std), **options}
    return build("task", TASKS, name, given)
