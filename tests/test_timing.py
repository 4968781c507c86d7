"""Where the time goes: the clock, the compile cache, the profiler."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from cnn import process
from cnn.process import use_compile_cache
from cnn.result import timing_text
from cnn.timing import Clock, Profiler, bare_step_seconds, overhead
from cnn.train import train
from tests.support.runs import tiny


def test_the_clock_takes_other_work_out_of_the_laps():
    clock = Clock()
    clock.compiled(jnp.zeros(()))
    clock.lap()
    for _ in range(2):
        with clock.time("eval"):
            time.sleep(0.05)
        with clock.time("input"):
            time.sleep(0.01)
        clock.lap(2)
    assert clock.seconds["eval"] >= 0.1 and clock.seconds["input"] >= 0.02
    assert [steps for _, steps in clock.laps] == [2, 2]
    assert all(0.01 <= seconds < 0.05 for seconds, _ in clock.laps)


def test_the_bare_step_is_timed_in_bursts():
    calls = []

    def step(state, batch):
        calls.append(state)
        time.sleep(0.002)
        return state + 1, {}

    bursts = bare_step_seconds(step, jnp.zeros(()), None, budget=0.1)
    assert all(0.002 <= burst < 0.01 for burst in bursts) and len(bursts) == 10
    assert len(calls) > 10


QUIET, SLOWING = [1.00, 1.01, 0.99, 1.00, 1.02, 0.98, 1.00, 1.01], [1.0] * 20 + [1.4] * 20


@pytest.mark.parametrize(
    ("laps", "bursts", "found"),
    [
        ([1.1 * lap for lap in QUIET], QUIET, {"overhead"}),
        (QUIET, QUIET, {"overhead_below"}),
        ([0.843 * lap for lap in QUIET], QUIET, set()),  # '-15.7 %': the machine changed, the loop is not faster
        (QUIET[:5], QUIET, set()),  # too few to know the spread
        (QUIET, QUIET[:3], set()),
        (SLOWING, [1.05] * 8, {"overhead_below"}),  # half of the run is faster than the bare step, half slower
    ],
)
def test_the_overhead_is_said_as_far_as_it_is_resolved(laps, bursts, found):
    said = overhead(laps, bursts)
    assert said.keys() - {"overhead_interval"} == found
    if "overhead" in found:
        assert said["overhead"] == pytest.approx(0.1)
        assert 0 < said["overhead_interval"][0] < 0.1 < said["overhead_interval"][1]
    text = timing_text({**TIMING, **said})
    assert "-" not in text and ("overhead" in text) == bool(found)


TIMING = dict.fromkeys(("total_seconds", "train_seconds", "compile_seconds", "cache_hits", "cache_misses",
                        "eval_seconds", "save_seconds", "input_wait"), 0) | {
    "step_ms": 1.0, "bare_step_ms": 1.0, "examples_per_second": 1.0}  # fmt: skip


def test_a_profile_of_the_chosen_steps(tmp_path):
    profiler = Profiler((1, 2), tmp_path / "profile")
    for step in range(5):
        profiler.at(step, jnp.ones(()))
        assert profiler._running == (step in (1, 2))
    profiler.stop(jnp.ones(()))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    off = Profiler((), tmp_path / "none")
    for step in range(3):
        off.at(step, None)
    assert not (tmp_path / "none").exists()


def test_a_run_writes_a_profile_and_its_timing(tmp_path):
    config = tiny(total_steps=12, log_every_steps=3, profile_steps=(3, 4), eval__every_steps=12)
    assert train(config, str(tmp_path)) == 0
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    found = json.loads((tmp_path / "summary.json").read_text())["timing"]
    for name in ("total_seconds", "train_seconds", "compile_seconds", "eval_seconds", "save_seconds"):
        assert found[name] >= 0
    assert found["total_seconds"] > found["compile_seconds"] > 0
    assert found["step_ms"] > 0 and found["bare_step_ms"] > 0 and found["examples_per_second"] > 0
    assert "overhead" not in found  # of four laps
    assert 0 <= found["input_wait"]


@pytest.fixture
def empty_cache(tmp_path):
    """JAX's compile cache in a folder of this test's."""
    from jax._src import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_hits_and_misses_of_the_compile_cache_are_counted(empty_cache, monkeypatch):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        use_compile_cache()

        def counts(number):
            start = dict(process.cache_counts)
            jax.jit(lambda x: jnp.sin(x) * number)(1.0)
            return {name: process.cache_counts[name] - start[name] for name in start}

        assert counts(3.25) == {"hits": 0, "misses": 1}
        jax.clear_caches()
        assert counts(3.25) == {"hits": 1, "misses": 0}
        assert counts(4.25) == {"hits": 0, "misses": 1}
        assert list(empty_cache.iterdir())
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_the_cache_is_on_by_default_where_nothing_is_set(tmp_path, monkeypatch):
    before = {
        name: getattr(jax.config, name)
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_persistent_cache_min_entry_size_bytes",
        )
    }
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        use_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
        jax.config.update("jax_compilation_cache_dir", "elsewhere")
        use_compile_cache()  # what is set already stays
        assert jax.config.jax_compilation_cache_dir == "elsewhere"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
