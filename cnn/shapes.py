"""The axis letters of the whole project, and the array aliases of signatures.

b batch, t time, d h w depth / height / width, c channels, n boxes / points / tokens, k classes,
s key length. Channels come last everywhere.
"""

from typing import Any

from jaxtyping import Array, Float

Batch = dict[str, Any]  # one stacked example dict; `valid` is bool `b`
Outputs = dict[str, Any]  # what a model returns: stage1 .. stageN, pre_logits, logits, aux ..; see build_model

Logits = Float[Array, "b k"]
PerExample = Float[Array, " b"]
