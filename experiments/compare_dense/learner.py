"""One network, compiled once and trained many times: on other seeds, subsets and orders of the pixels."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn import config as configs
from cnn.build import build
from cnn.data.pipeline import TrainBatches, iterate
from cnn.data.sources import ArraySource
from cnn.features import DatasetInfo
from cnn.optim import make_optimizer, make_schedule
from cnn.state import init_variables, new_state
from cnn.step import make_train_step
from experiments.compare_dense.cases import Case, Network

Arrays = dict[str, np.ndarray]  # the input (by the data set's key) and 'label'
CHUNK = 500


class Learner:
    """AdamW with a cosine schedule and a tenth of warm-up; nothing else, no augmentation.

    Args:
      arrays: the training split, for the normalisation of images.
    """

    def __init__(self, case: Case, network: Network, info: DatasetInfo, arrays: Arrays, rate: float):
        c = configs.default()
        c.model = ConfigDict({"name": network.model, **network.options})
        c.input.dataset, c.input.batch_size = info.name, case.batch_size
        if info.input_key == "image":
            pixels = arrays["image"] / 255
            axes = tuple(range(pixels.ndim - 1))
            c.input.mean, c.input.std = (tuple(map(float, f(pixels, axis=axes))) for f in (np.mean, np.std))
        c.optim.name, c.optim.lr, c.optim.weight_decay = "adamw", rate, 1e-2
        c.schedule.warmup_steps = max(case.steps // 10, 1)
        c.mesh.devices = 1
        self.case, self.key = case, info.input_key
        built = build(c, info, {name: (value.shape[1:], value.dtype) for name, value in arrays.items()})
        self.task, self.model, self._zeros = built.task, built.model, built.inputs
        schedule = make_schedule(c.schedule, rate, case.steps, 1.0)
        self._tx = make_optimizer(c.optim, schedule, built.shapes["params"])
        step = make_train_step(built.model, built.task, self._tx, schedule, seed=0)
        self._step = jax.jit(step, donate_argnums=0)
        self._start = jax.jit(self._state)
        self._guess = jax.jit(self._predicted)

    def _state(self, seed: Any) -> Any:
        return new_state(init_variables(self.model, self._zeros(), seed), self._tx, False)

    def _predicted(self, variables: Any, batch: Arrays) -> jax.Array:
        out = self.model.apply(variables, self.task.inputs(batch), train=False)
        return jnp.argmax(out["logits"], axis=-1)

    def train(self, arrays: Arrays, seed: int) -> Any:
        """The variables after the case's steps on `arrays`; order and initial weights follow from the seed."""
        batches = TrainBatches(ArraySource(arrays), (), self.case.batch_size, seed)
        data, state = iterate(batches), self._start(seed)
        for step in range(self.case.steps):
            state, _ = self._step(state, next(data))
            if step % 2:
                jax.block_until_ready(state.step)  # at most two steps in flight
        return jax.block_until_ready(state.variables())

    def accuracy(self, variables: Any, arrays: Arrays) -> float:
        """Share of right answers, in %."""
        right, total = 0, len(arrays["label"])
        for start in range(0, total, CHUNK):
            rows = np.arange(start, start + CHUNK) % total  # one shape, one compilation
            batch = {name: value[rows] for name, value in arrays.items()}
            hits = np.asarray(self._guess(variables, batch)) == batch["label"]
            right += int(hits[: total - start].sum())
        return 100 * right / total

    def costs(self, arrays: Arrays) -> dict[str, float]:
        """Milliseconds of a training step and of predicting one and `CHUNK` examples; MiB of a compiled step."""
        one = {name: value[: self.case.batch_size] for name, value in arrays.items()}
        one["valid"] = np.ones(len(one["label"]), bool)
        state = self._start(0)
        memory = self._step.lower(state, one).compile().memory_analysis()
        state, _ = self._step(state, one)
        found = {"step_mib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20}

        def train() -> Any:
            nonlocal state
            state, _ = self._step(state, one)
            return state.step

        variables = jax.tree.map(jnp.copy, state.variables())
        found["train_ms"] = milliseconds(train)
        for name, count in (("predict_one_ms", 1), (f"predict_{CHUNK}_ms", CHUNK)):
            rows = np.arange(count) % len(arrays["label"])
            batch = {name: value[rows] for name, value in arrays.items()}
            found[name] = milliseconds(lambda batch=batch: self._guess(variables, batch))
        return found


def milliseconds(run: Any, repeats: int = 25) -> float:
    """Median of so many calls, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])
