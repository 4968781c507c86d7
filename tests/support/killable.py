"""A server that runs `cnn.train.train` in forked processes and kills them at chosen points.

    python -m tests.support.killable      one JSON job per line in, one JSON result per line out

Everything is imported once, before the fork, and no JAX backend exists in the parent: a run starts in the
time that its compiled programs take to load. A job is {'config': JSON text, 'workdir', 'log', 'journal',
'final', 'devices', 'kill', 'stale'}; the result is {'status': exit code, or minus the signal's number}.

    journal   file that gets one line per training step: {step, rows, digest}, written before it runs
    final     file that gets the last checkpoint, read back from disk: {'arrays': {name: sha256}, 'loop',
              'position'}; and beside it a .npz of the arrays
    stale     every evaluation finds an accuracy of 0.5, so that only the first one is an improvement
    kill      {'at': POINT, 'n': count, 'delay': seconds, 'signal': number} or null; see `_plant`
"""

import glob
import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import jax
import numpy as np

import cnn.train
from cnn import config, tree
from cnn.data import Dataset
from cnn.data.sources import ArraySource, ListSource
from cnn.errors import UserError
from cnn.evaluate import Evaluator
from cnn.paths import compile_cache_dir
from cnn.plan import Plan, make_plan
from cnn.run import checkpoint
from tests.support import quick

# What a run imports after its start, imported once instead.
LATE = ("cnn.models.resnet", "cnn.tasks.classification.task", "cnn.data.datasets.digits", "cnn.transforms.image")
POINTS = ("before_step", "after_step", "after_eval", "save", "tmp_folder", "commit", "committed", "time")


def digest(value: Any) -> str:
    """sha256 of an array's type, shape and bytes."""
    value = np.ascontiguousarray(value)
    return hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()


def digests(arrays: Any) -> dict[str, str]:
    """{name: sha256} of a tree of arrays."""
    return {name: digest(x) for name, x in tree.flatten(jax.device_get(arrays)).items()}


def _number_rows() -> None:
    """Every example of a split carries its row, so that a batch tells what it is made of."""
    source = Dataset.source

    def numbered(self: Dataset, split: str) -> Any:
        made = source(self, split)
        if isinstance(made, ArraySource):
            made.arrays["row"] = np.arange(len(made), dtype=np.int32)
            return made
        return ListSource([{**made[i], "row": np.int32(i)} for i in range(len(made))], split)

    Dataset.source = numbered


def _never_improve() -> None:
    score = Evaluator.score

    def constant(self: Evaluator, *args: Any, **kwargs: Any) -> Any:
        result = score(self, *args, **kwargs)
        result.metrics["accuracy"] = 0.5
        return result

    Evaluator.score = constant


def _keep_journal(path: str, on_step: Any) -> None:
    make = Plan.train_step

    def train_step(self: Plan) -> Any:
        step = make(self)

        def noted(state: Any, batch: Any) -> Any:
            rows = np.asarray(batch["row"]).tolist()
            line = {"step": int(state.step), "rows": rows, "digest": digest(batch["image"])}
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
            on_step("before_step")
            result = step(state, {k: v for k, v in batch.items() if k != "row"})
            on_step("after_step")
            return result

        return noted

    Plan.train_step = train_step


def _die(kill: dict[str, Any]) -> None:
    time.sleep(kill.get("delay", 0))
    os.kill(os.getpid(), kill.get("signal", signal.SIGKILL))


def _plant(kill: dict[str, Any] | None, workdir: str) -> Any:
    """Arranges the death of this process; returns what the step calls with the point it has reached.

    before_step, after_step, after_eval: at the n-th time. save: `delay` seconds after the n-th save has
    begun to write. tmp_folder: as soon as the n-th save's temporary folder is seen (and `delay`). commit,
    committed: just before, just after the n-th save's folder gets its name. time: after `delay` seconds.
    """
    if not kill:
        return lambda point: None
    left = {kill["at"]: kill.get("n", 1)}

    def reached(point: str) -> None:
        if point in left:
            left[point] -= 1
            if not left[point]:
                _die(kill)

    def watch() -> None:
        seen: set[str] = set()
        while len(seen) < kill.get("n", 1):
            seen |= set(glob.glob(f"{workdir}/checkpoints/*.orbax-checkpoint-tmp*"))
            time.sleep(0.0002)
        _die(kill)

    if kill["at"] in ("time", "tmp_folder"):
        target = watch if kill["at"] == "tmp_folder" else lambda: _die(kill)
        threading.Thread(target=target, daemon=True).start()
    save, score, rename = checkpoint.Checkpoints.save, Evaluator.score, os.rename

    def saved(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        if kill.get("delay"):
            threading.Thread(target=reached, args=("save",), daemon=True).start()
        else:
            reached("save")

    def scored(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = score(self, *args, **kwargs)
        reached("after_eval")
        return result

    def renamed(source: Any, target: Any, **kwargs: Any) -> None:
        whole = ".orbax-checkpoint-tmp" in str(source) and os.path.basename(target).isdigit()
        if whole:
            reached("commit")
        rename(source, target, **kwargs)
        if whole:
            reached("committed")

    checkpoint.Checkpoints.save, Evaluator.score, os.rename = saved, scored, renamed
    return reached


def _run(job: dict[str, Any]) -> int:
    os.environ["XLA_FLAGS"] = quick.flags(job["devices"])  # read when the backend is made, which is after the fork
    quick.training()
    settings = config.from_json(job["config"])
    _number_rows()
    if job["stale"]:
        _never_improve()
    _keep_journal(job["journal"], _plant(job["kill"], job["workdir"]))
    code = cnn.train.train(settings, job["workdir"])
    if code == 0:
        kept = checkpoint.Checkpoints(f"{job['workdir']}/checkpoints")
        state, meta = kept.restore(make_plan(settings).abstract)
        kept.close()
        result = {"arrays": digests(state), "loop": meta["loop"], "position": meta["position"]}
        np.savez(job["final"].replace(".json", ".npz"), **tree.flatten(jax.device_get(state)))
        with open(job["final"], "w") as file:
            json.dump(result, file)
    return code


def _child(job: dict[str, Any]) -> None:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        code = _run(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serves jobs until standard input ends."""
    jax.config.update("jax_compilation_cache_dir", str(compile_cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    for module in LATE:
        importlib.import_module(module)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            _child(job)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
