"""What each test costs: measured, recorded in tests/durations.csv, and held to a ceiling.

A cost is the CPU seconds of the test's process and of the children it has waited for, which a busy machine changes
little; what a fixture of the module or session costs is recorded beside, not added to the test that happens to need
it first. `make test-durations` renews the file. From it tests/conftest.py takes what `make test-fast` leaves out.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "durations.csv"
RECORDED_S = 0.1  # a test or fixture that costs less has no line, like one that is new
CEILING, CEILING_S = 6, 60.0  # times what is recorded, and at least: coverage, a slower machine, a cold cache

_charged = 0.0


def charge(seconds: float) -> None:
    """Adds what the clock of this process cannot see: a server's children, a run found in the cache."""
    global _charged
    _charged += seconds


def spent() -> float:
    """CPU seconds so far, of this process, its children that have ended, and what was charged."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + _charged


def fixture_id(file: str, name: str) -> str:
    """The name of a module's fixture in the record: 'tests/test_report.py::runs (fixture)'."""
    return f"{file}::{name} (fixture)"


def read(path: Path = FILE) -> dict[str, float]:
    """{node id of a test, or `fixture_id`: CPU seconds}; {} without the file."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {row["test"]: float(row["seconds"]) for row in csv.DictReader(file)}


def write(found: dict[str, float], seen: set[str], path: Path = FILE) -> None:
    """Records `found`. Lines of tests that did not run stay where nothing in their file ran, or they were skipped.

    Args:
      found: {name: seconds} of what ran to its end.
      seen: node ids of all tests that were begun.
    """
    files = {name.partition("::")[0] for name in seen}
    root = path.parent.parent
    kept = {
        name: seconds
        for name, seconds in read(path).items()
        if (name in seen or name.partition("::")[0] not in files) and (root / name.partition("::")[0]).exists()
    }
    lines = sorted((kept | found).items())
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("test", "seconds"))
        writer.writerows((name, f"{seconds:.1f}") for name, seconds in lines if seconds >= RECORDED_S)


def ceiling(recorded: float) -> float:
    """CPU seconds above which a test fails."""
    return max(CEILING_S, CEILING * recorded)


class Meter:
    """The pytest plugin: measures each test up to its end without teardown, and fails it above its ceiling.

    Args:
      recorded: from `read`.
      out: where the session's costs are written at its end; None for nowhere.
    """

    def __init__(self, recorded: dict[str, float], out: Path | None):
        self.recorded, self._out = recorded, out
        self._began, self._wide, self._inner = 0.0, 0.0, 0.0
        self._fixtures: dict[str, float] = {}
        self._found: dict[str, float] = {}
        self._seen: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        self._began, self._wide, self._fixtures = spent(), 0.0, {}
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        outside, self._inner, began = self._inner, 0.0, spent()
        try:
            return (yield)
        finally:
            whole = spent() - began
            mine = whole - self._inner  # without the wide fixtures that this one needs
            self._wide += mine
            self._inner = outside + whole
            self._fixtures[fixture_id(fixturedef.baseid, fixturedef.argname)] = mine

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
        report = yield
        if report.when == "call":
            cost, limit = spent() - self._began - self._wide, ceiling(self.recorded.get(item.nodeid, 0.0))
            report.user_properties += [(item.nodeid, cost), *self._fixtures.items()]
            if report.passed and cost > limit:
                report.outcome = "failed"
                report.longrepr = (
                    f"took {cost:.0f} s of CPU time, more than its ceiling of {limit:.0f} s; make it cheaper, mark it "
                    "exhaustive, or, if it must cost that, record it: make test-durations"
                )
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seen.add(report.nodeid)
        if report.when == "call" and report.passed:
            self._found |= {name: cost for name, cost in report.user_properties if isinstance(cost, float)}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._out and not hasattr(session.config, "workerinput"):  # with several processes, the one that hears all
            write(self._found, self._seen, self._out)
