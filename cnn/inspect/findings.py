"""All that is measured about one trained network and one input."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn import tree
from cnn.inspect.activity import Activity, Patch, activity, most_active, top_patches
from cnn.inspect.attribution import (
    effective_field,
    grad_cam,
    occlusion,
    occlusion_windows,
    over_input,
)
from cnn.inspect.equivariance import Errors, equivariance
from cnn.inspect.network import ACTIVATIONS, Layer, Network, Trace, chosen
from cnn.inspect.synthesis import Excited, excite

CHANNELS = 8  # shown of each layer
MADE = 4  # of them with an input made by gradient ascent
MEASURED = 60  # with more layers, equivariance is of those alone that end a module


@dataclasses.dataclass(frozen=True)
class Findings:
    """What `look` found. Arrays are on the host; maps are [*space] of the input unless a layer is named.

    Attributes:
      raw: the input as a person sees it: uint8 image, float series or volume, [*space, c].
      x: the same as the network takes it, [1, *space, c].
      layers: the chosen ones, in order; `stages`: those of them whose maps are shown.
      values: {layer: [*space, c] or [c]}, activations also as 'NAME:in'.
      target: the class that is explained: the most probable one; None for a network without classes.
      channels: {layer: the most active channels, strongest first}.
      batch: examples behind `activity` and `patches`; 1 is this input alone.
    """

    name: str
    card: Mapping[str, Any]
    network: Network
    trace: Trace
    raw: np.ndarray
    x: np.ndarray
    layers: list[Layer]
    stages: list[Layer]
    values: dict[str, np.ndarray]
    target: int | None
    probs: np.ndarray | None
    channels: dict[str, list[int]]
    cams: dict[str, np.ndarray]
    occluded: np.ndarray | None
    window: tuple[int, ...]
    effective: dict[str, np.ndarray]
    excited: dict[str, Excited]
    patches: dict[str, dict[int, list[Patch]]]
    examples: np.ndarray | None
    activity: dict[str, Activity]
    equivariance: dict[str, Errors]
    batch: int

    def first(self, *kinds: str, after: str = "") -> Layer | None:
        """The first layer of one of these kinds, behind the layer `after`."""
        names = list(self.trace.layers)
        start = names.index(after) + 1 if after else 0
        return next((a for a in map(self.trace.layers.get, names[start:]) if a.kind in kinds), None)

    def parameter(self, layer: Layer, name: str) -> np.ndarray | None:
        """A layer's own parameter, as it was trained."""
        found = tree.flatten(self.network.variables["params"]).get(f"{layer.name}/{name}")
        return None if found is None else np.asarray(found, np.float32)

    @property
    def classes(self) -> list[str]:
        return list(self.card.get("classes", ()))


def look(
    name: str,
    card: Mapping[str, Any],
    network: Network,
    raw: np.ndarray,
    to_network: Any,
    pattern: str = "",
    examples: Sequence[np.ndarray] = (),
    say: Callable[[str], None] = lambda part: None,
) -> Findings:
    """Measures everything.

    Args:
      raw: one input after preprocessing, [*space, c].
      to_network: raw batch [n, *space, c] -> what the network takes, float32.
      pattern: regex that chooses layers by name; '' for the stages.
      examples: more raw inputs of the same shape, for statistics and the patches that excite a channel.
      say: is told what is measured next.

    Raises:
      UserError: `pattern` matches nothing.
    """
    x = np.asarray(to_network(raw[None]), np.float32)
    trace = network.trace(x.shape)
    layers = chosen(trace, pattern)
    say("feature maps")
    stages = [a for a in (layers if pattern else trace.stages) if a.spatial]
    values = {
        key: value[0] for key, value in network.read(x, list(trace.layers), before=True).items()
    }
    channels = {a.name: most_active(values[a.name], CHANNELS) for a in stages}
    examples = [one for one in examples if not np.array_equal(one, raw)]
    stacked = np.stack([raw, *examples])
    batch = np.asarray(to_network(stacked), np.float32) if len(examples) else x
    target, probs, cams, occluded = None, None, {}, None
    window, step = occlusion_windows(x.shape[1:-1])
    names = [a.name for a in stages]
    if "logits" in trace.outputs and values[trace.outputs["logits"]].ndim == 1:
        logits = values[trace.outputs["logits"]]
        probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        target = int(logits.argmax())
        say("Grad-CAM and occlusion")
        found = grad_cam(network, x, target, names) if names else {}
        cams = {
            key: over_input(cam, trace.layers[key], x.shape[1:-1]) for key, cam in found.items()
        }
        occluded = occlusion(
            _probability(network, target), x, window, step, x.mean(axis=tuple(range(x.ndim - 1)))
        )
    limits = _limits(raw, batch, to_network)
    measured = layers if pattern else list(trace.layers.values())
    if not pattern and len(measured) > MEASURED:
        measured = [a for a in measured if a.aliases]
    say("effective receptive fields")
    effective = effective_field(network, x, names)
    excited, patches = {}, {}
    for key in names:
        say(f"what excites {key}")
        excited[key] = excite(network, key, channels[key][:MADE], raw.shape, limits)
        if examples:
            patches[key] = top_patches(network, batch, key, channels[key][:MADE])
    say("statistics of all layers")
    active = activity(network, batch)
    say("shifts, rotation and halving")
    errors = equivariance(network, x, [a.name for a in measured])
    return Findings(
        name=name,
        card=card,
        network=network,
        trace=trace,
        raw=raw,
        x=x,
        layers=layers,
        stages=stages,
        values=values,
        target=target,
        probs=probs,
        channels=channels,
        cams=cams,
        occluded=occluded,
        window=window,
        effective=effective,
        excited=excited,
        patches=patches,
        examples=stacked if examples else None,
        activity=active,
        equivariance=errors,
        batch=len(batch),
    )


def _probability(network: Network, target: int) -> Any:
    def probability(inputs: np.ndarray) -> np.ndarray:
        trace = network.trace(inputs.shape)
        logits = network.read(inputs, [trace.outputs["logits"]])[trace.outputs["logits"]]
        return np.asarray(jax.nn.softmax(jnp.asarray(logits), axis=-1))[:, target]

    return probability


def _limits(raw: np.ndarray, batch: np.ndarray, to_network: Any) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each channel that the network can be given."""
    if raw.dtype == np.uint8:
        ends = np.stack([np.zeros_like(raw), np.full_like(raw, 255)])
        low, high = np.asarray(to_network(ends), np.float32).reshape(2, -1, raw.shape[-1])[:, 0]
        return low, high
    axes = tuple(range(batch.ndim - 1))
    return batch.min(axis=axes), batch.max(axis=axes)


def rectifiers(findings: Findings) -> list[Layer]:
    """The activations, in order."""
    return [a for a in findings.trace.layers.values() if a.kind in ACTIVATIONS]
