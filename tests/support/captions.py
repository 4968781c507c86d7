"""A problem that no task of the library has: two inputs, targets of different lengths, and predictions that call the
network once per token. Everything that a new task needs is in this file; configs name it by module and attribute.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn.data import Provider
from cnn.data.sources import ListSource
from cnn.features import LENGTH, DatasetInfo, Feature
from cnn.scoring.scorer import Scorer
from cnn.tasks import inputs
from cnn.tasks.base import Task, counted, present

LONGEST, WORDS = 6, ("end", "dark", "grey", "light", "left", "right")


class Captions(Provider):
    """Pictures of two halves and a hint; the caption names their brightness, and which half the hint means."""

    splits = ("train", "test")

    def __init__(self, data_dir: str):
        feature = Feature((None,), "int32", "n", pad=LONGEST)
        given = {"image": Feature.image(8, 8, 1), "hint": Feature((2,), "float32", "c")}
        self.info = DatasetInfo("captions", given, {"tokens": feature}, vocabulary=WORDS)

    def sizes(self) -> dict[str, int]:
        return {"train": 45, "test": 21}

    def source(self, split: str) -> ListSource:
        rng, examples = np.random.default_rng(len(split)), []
        for _ in range(self.sizes()[split]):
            levels, side = rng.integers(0, 3, 2), int(rng.integers(0, 2))
            image = np.repeat(levels * 100 + 20, 4)[None, :, None].repeat(8, 0).astype(np.uint8)
            tokens = [1 + levels[side], 4 + side, 1 + levels[1 - side]][: 1 if levels[0] == levels[1] else 3]
            examples.append({"image": image, "hint": np.eye(2, dtype=np.float32)[side], "tokens": np.int32(tokens)})
        return ListSource(examples, f"captions '{split}'")


class Captioner(nn.Module):
    """Logits [b, n, k] of every token, from the picture, the hint and the token before."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        seen = nn.relu(nn.Conv(8, (3, 3), strides=2, name="conv")(x["image"])).reshape(len(x["image"]), -1)
        seen = nn.Dense(16, name="mix")(jnp.concatenate([seen, x["hint"]], axis=-1))
        place = self.param("place", nn.initializers.normal(0.1), (1, LONGEST, 16))[:, : x["previous"].shape[1]]
        state = nn.Embed(self.num_classes + 1, 16, name="embed")(x["previous"]) + place + seen[:, None]
        state = nn.Dropout(0.1, name="dropout")(nn.relu(state), deterministic=not train)
        return {"logits": nn.Dense(self.num_classes, name="head")(nn.relu(nn.Dense(32, name="hidden")(state)))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning(Task):
    """Tokens are learnt one after the other, each given the true ones before it, and decoded greedily."""

    TARGET: ClassVar[str] = "tokens"

    @property
    def num_outputs(self) -> int:
        return len(self.info.vocabulary)

    def inputs(self, batch: Mapping[str, Any], tokens: Any = None) -> dict[str, jax.Array]:
        image = inputs.normalised(inputs.unit(batch["image"]), self.mean, self.std)
        if tokens is None:
            tokens = batch.get("tokens", jnp.zeros((len(image), LONGEST), jnp.int32))
        start = jnp.full((len(image), 1), self.num_outputs, jnp.int32)
        return {"image": image, "hint": batch["hint"], "previous": jnp.concatenate([start, tokens[:, :-1]], axis=1)}

    def losses(self, out, batch):
        there = present(batch, "tokens")
        ends = (jnp.arange(there.shape[1])[None] == batch["tokens" + LENGTH][:, None]) & batch["valid"][:, None]
        error = -jnp.take_along_axis(jax.nn.log_softmax(out["logits"]), batch["tokens"][..., None], -1)[..., 0]
        return {"token": counted(error, there), "end": counted(-jax.nn.log_softmax(out["logits"])[..., 0], ends)}

    def predictions(self, out, batch, apply):
        def next_token(place, tokens):
            found = apply(self.inputs(batch, tokens))["logits"].argmax(-1).astype(jnp.int32)
            return tokens.at[:, place].set(found[:, place])

        tokens = jnp.zeros((len(batch["image"]), LONGEST), jnp.int32)
        return {"caption": jax.lax.fori_loop(0, LONGEST, next_token, tokens)}

    def scorer(self, full=True):
        return CaptionScorer()

    def describe(self, row, frame=None):
        return {"caption": " ".join(WORDS[token] for token in cut(row["caption"]))}


def cut(tokens):
    """The tokens before the first end."""
    return list(np.asarray(tokens)[: int(np.argmax(np.append(tokens, 0) == 0))])


class CaptionScorer(Scorer):
    """Word error rate, by edit distance on the host: no sum of a jitted step gives it."""

    names, proportions = ("word_error", "exact"), ("exact",)
    predictions, batch = ("caption",), ("tokens", "tokens" + LENGTH)

    def __init__(self):
        super().__init__()
        self.errors = self.words = self.exact = self.seen = 0

    def add(self, sums, predictions, batch):
        for said, true, length in zip(predictions["caption"], batch["tokens"], batch["tokens_length"], strict=True):
            distance = edit_distance(cut(said), list(true[:length]))
            self.errors, self.words = self.errors + distance, self.words + int(length)
            self.exact, self.seen = self.exact + (distance == 0), self.seen + 1

    def result(self):
        return {"word_error": self.errors / self.words, "exact": self.exact / self.seen}


def edit_distance(a, b):
    """Insertions, deletions and replacements between two sequences (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]
