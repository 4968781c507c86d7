"""The settings of a process: set by `prepare` and `follow`, aloud, and by nothing else."""

import subprocess
import sys
import types

import jax
import pytest

from cnn import process
from cnn.build import build
from cnn.data import open_dataset
from cnn.errors import UserError
from cnn.native import onednn
from cnn.plan import make_plan
from tests.support.runs import tiny
from tests.test_architecture import TREES, in_package, run_python

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from cnn.process import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = jax.jit(lambda x: jnp.outer(x, x) @ x)
x = jnp.arange(4096.0)
faults = []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[30:])[15])  # until then the heap finds its size
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not process.has_glibc(), reason="another C library than glibc")
def test_a_step_takes_no_fresh_pages():
    plain, kept = faults("plain"), faults("keep")
    assert kept < 100 < 10_000 < plain  # 64 MiB in pages of 4 KiB: 16,384


SETTINGS = """
import importlib, logging, os, signal, sys, warnings
import cv2, jax, flax.linen, optax, grain, absl.logging, ml_collections, matplotlib, scipy.special
from orbax.checkpoint import v1

def settings():
    named = {name: logger.level for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")}
    return {
        "loggers": {"": logging.root.level} | {name: level for name, level in named.items() if level},
        "hooks": (sys.unraisablehook, sys.excepthook, sys.displayhook),
        "jax": dict(jax.config.values),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)},
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
    }

def differ(before, after):
    if isinstance(before, dict):
        return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return [part for part in after if part not in before]
"""


def test_importing_changes_no_setting_of_the_process():
    modules = sorted(name for name in TREES if in_package(name, "cnn") and name != "cnn.__main__")
    run_python(SETTINGS + f"""
before = settings()
for name in {modules!r}:
    importlib.import_module(name)
after = settings()
for name in before:
    assert not differ(before[name], after[name]), (name, differ(before[name], after[name]))
""")


def test_prepare_sets_what_it_says_and_once():
    run_python(SETTINGS + """
from cnn import process
from tests.support.runs import tiny

before = settings()
for _ in range(2):
    process.prepare(tiny(dtype="float32"))
after = settings()
assert logging.getLogger("absl").level == logging.getLogger("asyncio").level == logging.CRITICAL
assert after["hooks"][0].otherwise is before["hooks"][0] and after["hooks"][1:] == before["hooks"][1:]
assert jax.config.jax_default_matmul_precision == "highest"
process.follow(tiny())
assert jax.config.jax_default_matmul_precision == before["jax"]["jax_default_matmul_precision"]
""")


def test_one_kind_of_unraisable_error_is_dropped_and_no_other():
    seen = []
    hook = process.LateAnswers(lambda unraisable: seen.append(str(unraisable.exc_value)))
    for text in ("Event loop is closed", "something else"):
        hook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert seen == ["something else"]


@pytest.fixture
def settings_as_before(monkeypatch):
    monkeypatch.setattr(onednn, "_threads", onednn._threads)
    yield
    process.follow(tiny())


def test_building_sets_nothing(settings_as_before):
    before, threads = dict(jax.config.values), onednn._threads
    config = tiny(dtype="float32")
    build(config, open_dataset(config.input).info)
    make_plan(config)
    assert dict(jax.config.values) == before and onednn._threads == threads


def test_a_config_is_followed_aloud(settings_as_before, monkeypatch, capfd):
    invariant = tiny(deterministic="invariant", mesh__virtual_shards=8)
    onednn.use_threads(2)
    with pytest.raises(UserError, match="call cnn.process.prepare"):
        make_plan(invariant)
    process.follow(invariant)
    assert onednn.threads() == 1 and "one thread per native convolution" in capfd.readouterr().err
    make_plan(invariant)
    process.follow(tiny())
    assert onednn._threads == 0 and capfd.readouterr().err == ""
    process.follow(tiny(dtype="float32"))
    assert capfd.readouterr().err == ""  # a CPU's products are exact already
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    process.follow(tiny(dtype="float32"))
    assert "full precision" in capfd.readouterr().err
