"""The strict session that every test runs in, and what tests share.

Eight simulated CPU devices; silent broadcasting between ranks is an error; so is any warning (see
pyproject.toml); the shapes in the signatures of `cnn` are checked by jaxtyping's pytest plugin, which
must come before the first import of `cnn`: so nothing of it is imported at the top of this file.
"""

import collections
import fnmatch
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"  # ignored by git, kept from one test session to the next
DEVICES = 8

# Node ids, beside those that carry the mark: what `make test-fast` leaves out, by the seconds that it takes.
SLOW = (
    "*test_report.py::test_the_parts*",
    "*test_repvgg.py::test_fused_equals*",
    "*test_resume.py::*",
    "*test_evaluate.py::*",
    "*test_plans.py::test_the_config_that*",
    "*test_files.py::test_every_flipped*",
    "*test_verb.py::test_the_command*",
    "*test_verb.py::test_any_spatial*",
    "*test_finetune.py::test_every_form*",
    "*test_series.py::test_a_tcn*",
    "*test_series.py::test_recurrent*",
    "*test_parity.py::*",
    "*test_convert.py::test_a_converted*",
    "*test_convert.py::test_equal_networks*",
    "*test_convert.py::test_options_of*",
    "*test_pretrained.py::*",
    "*test_predict.py::test_arrays*",
    "*test_predict_masks.py::*",
    "*test_step.py::test_below*",
    "*test_step.py::test_bfloat16*",
    "*test_step.py::test_recalibration*",
    "*test_timing.py::test_hits*",
    "*test_resnet.py::test_blocks*",
    "*test_resnet.py::test_drop_path*",
    "*test_dense.py::test_numbers*",
    "*test_receptive.py::test_the_field*",
    "*test_process.py::*",
    "*test_models.py::test_numbers*",
    "*test_models.py::test_published*",
    "*test_configs_smoke.py::*[[]*medical*",
    "*test_configs_smoke.py::*[[]*scenes*",
    "*test_configs_smoke.py::*[[]*imagenet*",
    "*test_configs_smoke.py::*[[]*cifar*",
    "*test_configs_smoke.py::*[[]*fashion*",
    "*test_configs_smoke.py::*[[]*folder*",
    "*test_configs_smoke.py::*[[]*cityscapes*",
    "*test_configs_smoke.py::*[[]*pet_*",
    "*test_configs_smoke.py::*[[]*nuclei2d*",
    "*test_configs_smoke.py::*[[]*mnist1d_[ml]*",
    "*test_configs_smoke.py::*[[]*copy_memory*",
    "*test_configs_smoke.py::test_your_own_folder_of_images",
    "*test_models.py::*[[]resnet50[]]",
    "*test_models.py::*[[]resnet1[05]*",
    "*test_models.py::*[[]wrn_*",
    "*test_nfnet.py::test_blocks_start*",
    "*test_convnext.py::test_a_dilated*",
    "*test_models.py::*[[]densenet*",
    "*test_models.py::*[[]inception*",
    "*test_dense.py::test_every_head*[[][a-qv]*",
    "*test_dense.py::test_every_head*resnet18-[dl]*",
    "*test_dense.py::test_options*[[][dlru]*",
    "*test_dense.py::test_the_real*101*",
    "*test_classic.py::test_auxiliary*",
    "*test_classic.py::test_the_dilated*",
    "*test_classic.py::test_a_recomputed*",
    "*test_offline.py::*",
    "*test_timing.py::test_a_run_writes*",
    "*test_bad_input.py::test_a_disk_that_is*",
    "*test_bad_input.py::test_in_a_process*",
    "*test_finetune.py::test_a_run_starts*",
    "*test_report.py::test_a_run_leaves*",
    "*test_convert.py::test_evaluate_and_fine_tune*",
    "*test_step.py::test_accumulation_equals*",
    "*test_datasets.py::test_tensorflow_is_never_imported",
    "*test_verbs.py::test_prepare_show_check",
    "*test_pipeline.py::test_a_program_ends*",
    "*test_resnet.py::test_remat*",
    "*test_statistics.py::test_coverage*[[]bca*",
    "*test_statistics.py::test_coverage*[[]mcnemar*",
    "*test_statistics.py::test_coverage*[[]paired bootstrap*",
    "*test_step.py::test_remat*",
    "*test_predict.py::test_series",
    "*test_verb.py::test_layers_are_chosen*",
    "*test_receptive.py::test_running_the_trace*",
)
# Further cases, beside those that carry the mark: what they run is also run by another case, or by a quicker test.
EXHAUSTIVE = (
    "*test_configs_smoke.py::test_the_smoke_form*cifar10_wrn*",
    "*test_configs_smoke.py::test_the_smoke_form*fashion_mnist_resnet*",
    "*test_configs_smoke.py::test_the_smoke_form*imagenet*",
    "*test_configs_smoke.py::test_the_smoke_form*msd*",
    "*test_configs_smoke.py::test_the_smoke_form*pet_*",
    "*test_configs_smoke.py::test_the_step_of_the_full_form*",
    "*test_compare_dense.py::test_the_report_is_whole",
    "*test_dense.py::test_every_head_runs*[[][cdemv]*",
    "*test_dense.py::test_numbers_on_other_backbones[[][em]*",
    "*test_dense.py::test_options_are_taken[[]deeplab*",
    "*test_dense.py::test_recomputing*residual*",
    "*test_devices.py::test_device_count*[[]8[]]",
    "*test_devices.py::test_device_count*[[]sharded on 8[]]",
    "*test_drills.py::test_kill_9_of_one_process[[]1[]]",
    "*test_drills.py::test_two_processes_use*[[]cut[]]",
    "*test_launch_tpu.py::test_the_stream_of_commands[[][bimotg]*",
    "*test_launch_tpu.py::test_the_stream_of_commands[[]c[ao][pn]*",
    "*test_nfnet.py::test_blocks_start*options1*",
    "*test_receptive.py::test_published*inception*",
    "*test_verb.py::test_layers_are_chosen*",
)
# Of the slow ones these count coverage, which takes half as long again, or twice: no other test runs what they do.
COUNTED = (
    "*inspect/test_verb.py::test_the_command_writes*",
    "*inspect/test_verb.py::test_any_spatial_rank*",
    "*inspect/test_verb.py::test_a_network_for_pixels*",
    "*test_models.py::test_contract_of_the_family*",
    "*test_predict.py::*",
    "*test_series.py::*",
    "*test_volume_masks.py::*",
    "*tests/transforms/test_transforms.py::*",
)

# Of these swept tables `make test-fast` keeps the first KEPT entries that are not slow.
SWEPT = (
    "tests/models/*",
    "tests/layers/*",
    "tests/tasks/*",
    "tests/inspect/*",
    "tests/convert/*",
    "tests/test_configs_smoke.py*",
    "tests/test_checkpoint.py*",
    "tests/test_optim.py*",
    "tests/test_step.py*",
    "tests/data/test_pipeline.py*",
)
KEPT = 2

# Before JAX is imported. XLA's optimizations are not what is tested here, and LLVM's take longer than the tests; the
# old emitters and whole modules compile two and a half times as fast. Child processes inherit all of it, so that tests
# never touch the user's caches.
os.environ["JAX_PLATFORMS"] = "cpu"
COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{COMPILE_FAST} --xla_force_host_platform_device_count={DEVICES}"
os.environ["CNN_CACHE_DIR"] = str(CACHE)
os.environ["CNN_DATA_DIR"] = str(CACHE / "data")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
flags.FLAGS.mark_as_parsed()  # Grain reads its flags


def pytest_sessionstart() -> None:
    """The process is set up as every verb does (see cnn/process.py); tracing makes so many objects that collecting
    garbage at Python's own pace takes a tenth to a fifth of the time."""
    from cnn.process import keep_freed_memory, quiet_orbax

    keep_freed_memory()
    quiet_orbax()
    gc.set_threshold(100_000, 20, 100)


def of(item: pytest.Item, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns names this test."""
    return any(fnmatch.fnmatch(item.nodeid, pattern) for pattern in patterns)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, and what counts coverage: the first KEPT quick cases of each test, and COUNTED."""
    kept: collections.Counter[str] = collections.Counter()
    for item in items:
        if of(item, EXHAUSTIVE):
            item.add_marker(pytest.mark.exhaustive)
        slow = any(map(item.get_closest_marker, ("slow", "exhaustive"))) or of(item, SLOW)
        first = False
        if not slow:
            function = item.nodeid.partition("[")[0]
            kept[function] += 1
            first = kept[function] <= KEPT
            slow = not first and of(item, SWEPT)
        if slow:
            item.add_marker(pytest.mark.slow)
        if first or of(item, COUNTED):
            item.add_marker(pytest.mark.counted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Counts coverage where the mark says so, and nowhere else: not in fixtures of others, not in their children."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    counter = plugin and plugin.cov_controller
    if not counter or item.get_closest_marker("counted"):
        return (yield)
    counter.pause()
    of_children = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    try:
        return (yield)
    finally:
        if of_children is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = of_children
        counter.resume()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where tests prepare data sets: once for all of them, also over several sessions and processes."""
    import fcntl

    folder = CACHE / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:  # test processes start together: one prepares
        fcntl.flock(lock, fcntl.LOCK_EX)
        from cnn import config
        from cnn.data import open_dataset

        digits = config.default().input
        digits.dataset, digits.data_dir = "digits", str(folder)
        open_dataset(digits)
    return folder


@pytest.fixture
def cnn_command() -> Callable[..., subprocess.CompletedProcess]:
    """`cnn_command('train', '--config=...', env={...}, devices=1)`: the command, in a child process.

    It returns the finished process with text outputs; `check=True` fails the test on a bad exit code.
    """

    def run(
        *arguments: object,
        env: dict[str, str] | None = None,
        devices: int = 1,
        timeout: float = 300,
        check: bool = False,
        cwd: Path | str = ROOT,
    ) -> subprocess.CompletedProcess:
        flag = f"{COMPILE_FAST} --xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, "-m", "cnn", *map(str, arguments)],
            env=os.environ | {"XLA_FLAGS": flag} | (env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            pytest.fail(f"cnn {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}")
        return done

    return run
