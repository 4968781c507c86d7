"""The strict session that every test runs in, and what tests share.

Eight simulated CPU devices; silent broadcasting between ranks is an error; so is any warning (see
pyproject.toml); the shapes in the signatures of `cnn` are checked by jaxtyping's pytest plugin, which
must come before the first import of `cnn`: so nothing of it is imported at the top of this file.
"""

import collections
import contextlib
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import durations, quick, shapes

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"  # ignored by git, kept from one test session to the next
DEVICES = 8

# From tests/durations.csv, in CPU seconds: `make test-fast` leaves out tests that cost more, tests that need a fixture
# of their module that costs more, and the cases of a test beyond those that together cost so much.
FAST_S, FAST_FIXTURE_S, FAST_CASES_S = 0.5, 3.0, 1.0
# The first KEPT quick cases of a test count coverage, which takes half as long again, or twice.
KEPT, COUNTED_S = 2, 20.0
# Shapes in signatures are checked in the first case of a test, and in all that cost less: it makes tracing slower.
CHECKED_S = 0.5

# Before JAX is imported. Child processes inherit all of it, so that tests never touch the user's caches.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = quick.flags(DEVICES)
os.environ["CNN_CACHE_DIR"] = str(CACHE)
os.environ["CNN_DATA_DIR"] = str(CACHE / "data")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

shapes.check_lazily()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
flags.FLAGS.mark_as_parsed()  # Grain reads its flags


CHECKED, PAUSED = pytest.StashKey[bool](), pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write what the tests cost to {durations.FILE}")


def pytest_configure(config: pytest.Config) -> None:
    out = durations.FILE if config.getoption("record_durations") else None
    config.pluginmanager.register(durations.Meter(durations.read(), out), "durations")


def pytest_sessionstart() -> None:
    """The process is set up as every verb does (see cnn/process.py); tracing makes so many objects that collecting
    garbage at Python's own pace takes a tenth to a fifth of the time."""
    from cnn.process import keep_freed_memory, quiet_orbax

    keep_freed_memory()
    quiet_orbax()
    gc.set_threshold(100_000, 20, 100)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is slow, what counts coverage, and what checks shapes; the dearest files come first, so that at the
    end of a session no process waits long for the others."""
    recorded = config.pluginmanager.getplugin("durations").recorded
    cases: collections.Counter[str] = collections.Counter()
    of_function: collections.Counter[str] = collections.Counter()
    of_file: collections.Counter[str] = collections.Counter()
    for item in items:
        file, function = item.nodeid.partition("::")[0], item.nodeid.partition("[")[0]
        cost = recorded.get(item.nodeid, 0.0)
        fixtures = (recorded.get(durations.fixture_id(file, name), 0.0) for name in item.fixturenames)
        slow = (
            any(map(item.get_closest_marker, ("slow", "exhaustive")))
            or cost > FAST_S
            or max(fixtures, default=0.0) > FAST_FIXTURE_S
            or of_function[function] + cost > FAST_CASES_S
        )
        if slow:
            item.add_marker(pytest.mark.slow)
        if cost <= COUNTED_S and cases[function] < KEPT:
            item.add_marker(pytest.mark.counted)
        item.stash[CHECKED] = cost <= CHECKED_S or not cases[function] or bool(item.get_closest_marker("checked"))
        cases[function] += 1
        of_function[function] += cost
        of_file[file] += cost
    items.sort(key=lambda item: -of_file[item.nodeid.partition("::")[0]])


PIXEL = bytes.fromhex(  # a PNG
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63f80f0001010100b138f6140000000049454e44ae426082"
)


def _save_pixel(self: object, where: object, **_: object) -> None:
    """Stands for `Figure.savefig`: a PNG of one pixel."""
    if hasattr(where, "write"):
        where.write(PIXEL)
    else:
        Path(where).write_bytes(PIXEL)


@contextlib.contextmanager
def _cheap(checked: bool, drawn: bool) -> Iterator[None]:
    """Without the checks of shapes, and without the drawing of pictures, unless they are wanted."""
    from matplotlib.figure import Figure

    drawing = Figure.savefig
    Figure.savefig = drawing if drawn else _save_pixel
    try:
        with shapes.checks(checked):
            yield
    finally:
        Figure.savefig = drawing


@contextlib.contextmanager
def _uncounted(config: pytest.Config) -> Iterator[None]:
    """Without coverage, also in child processes."""
    plugin = config.pluginmanager.getplugin("_cov")
    counter = plugin and plugin.cov_controller
    if not counter or config.stash.get(PAUSED, False):
        yield
        return
    config.stash[PAUSED] = True
    counter.pause()
    of_children = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    try:
        yield
    finally:
        if of_children is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = of_children
        counter.resume()
        config.stash[PAUSED] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Counts coverage, checks shapes and draws pictures where the marks say so, and nowhere else: not in fixtures of
    others, not in their children."""
    counted = item.get_closest_marker("counted")
    with contextlib.nullcontext() if counted else _uncounted(item.config):
        with _cheap(item.stash[CHECKED], drawn=bool(item.get_closest_marker("drawn"))):
            return (yield)


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


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`trained('digits')`: a copy of the folder that this entry of tests/support/recipes.py made, to read and write.

    It is made once for all tests, also over several sessions and processes, until a source changes.
    """
    from tests.support import recipes, shared

    def copy(name: str) -> Path:
        with _uncounted(request.config), _cheap(checked=False, drawn=False):
            made = shared.made(CACHE / "made", name, recipes.RECIPES[name])
        return shutil.copytree(made, tmp_path_factory.mktemp(name) / name)

    return copy


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
        done = subprocess.run(
            [sys.executable, "-m", "cnn", *map(str, arguments)],
            env=os.environ | {"XLA_FLAGS": quick.flags(devices)} | (env or {}),
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
