"""What every test can have: a Letta server with a scripted model, and our server in front of it.

One Letta server, and one of ours for every transport and era, serve all tests of a worker; a test keeps to agents of
its own. A test that takes `mcp` or `way` runs in one way, unless it is marked `all_ways` or the run is called with
`--ways`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import hypothesis
import pytest
from mcp import Client

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel
from tests.rig.openai_model import serve_model
from tests.rig.real_letta import real_letta
from tests.rig.servers import ALL_WAYS, DEFAULT_WAY, Caller, Way, connect, in_own_task

# Properties are checked without a deadline: a slow machine is no counterexample.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile("full", deadline=None, max_examples=150)

WORKERS_PER_CORE = 3
"""Tests mostly wait for processes and timers, so more of them than cores run at a time."""

SLOW_SECONDS = 10
"""A test that takes longer needs the mark `slow`, with a reason."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write the tool schemas and the table of options again")
    parser.addoption("--live", action="store_true", help="run the tests against a real Letta server, which is started")
    parser.addoption(
        "--ways",
        choices=("default", "others", "all"),
        default="default",
        help="transports and eras: one, and all where they matter; the others; or all for every test",
    )
    parser.addoption("--seconds", type=float, help="begin no test after so many, and say how many were left out")


def pytest_configure(config: pytest.Config) -> None:
    # The developer's own settings, before any fixture or process of the tests can read them.
    for name in [each for each in os.environ if each.startswith("LETTA_") and each != "LETTA_TEST_HOME"]:
        del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a background job of a shell. Processes that a test interrupts would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.cache:
        # Each App Server has a folder of its own, and would compile Letta Code for itself.
        os.environ.setdefault("NODE_COMPILE_CACHE", str(config.cache.mkdir("node")))
    hypothesis.settings.load_profile("default" if config.getoption("--ways") == "default" else "full")
    if (seconds := config.getoption("--seconds")) is not None:
        config.pluginmanager.register(LimitedTime(config, seconds))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SlowTests(workers=config.getoption("numprocesses", None) or 1))


def pytest_xdist_auto_num_workers() -> int:
    return WORKERS_PER_CORE * cores()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ways = config.getoption("--ways")
    chosen = [each for each in items if ways == "all" or is_in_default_run(each) == (ways == "default")]
    if config.getoption("--live"):
        chosen = [each for each in chosen if not each.get_closest_marker("fake_only") and "letta" in _fixtures(each)]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[each for each in items if each not in kept])
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = slow_first(chosen, workers)


def slow_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Order tests so that each worker begins with its share of the slow ones: one that begins last delays the end.

    pytest-xdist gives every worker an equal run of neighbours (`--dist=worksteal`).
    """
    slow = [each for each in items if each.get_closest_marker("slow")]
    others = [each for each in items if not each.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        size = len(items) * (worker + 1) // workers - len(items) * worker // workers
        share = slow[worker::workers]
        taken = size - len(share)
        ordered += share + others[:taken]
        others = others[taken:]
    return ordered + others


def is_in_default_run(item: pytest.Item) -> bool:
    """False for a test in another way than the default one, unless it is marked `all_ways`."""
    params: dict[str, object] = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    ways = [value for value in params.values() if isinstance(value, Way)]
    return ways in ([], [DEFAULT_WAY]) or item.get_closest_marker("all_ways") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note in the report whether the test may be slow: reports are all that the main process of a parallel run sees."""
    report = yield
    if mark := item.get_closest_marker("slow"):
        report.user_properties.append(("slow", mark.kwargs["reason"]))
    return report


class LimitedTime:
    """Begins no test after so many seconds, and says how many were left out."""

    def __init__(self, config: pytest.Config, seconds: float) -> None:
        self._config = config
        self._deadline = time.monotonic() + seconds
        self._left_out = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> bool | None:
        if time.monotonic() < self._deadline:
            return None
        self._left_out += 1
        return True

    def pytest_sessionfinish(self) -> None:
        if output := getattr(self._config, "workeroutput", None):
            output["left_out"] = self._left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._left_out += getattr(node, "workeroutput", {}).get("left_out", 0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left_out:
            terminalreporter.section(f"{self._left_out} tests were left out, because the time was over")


class SlowTests:
    """Fails a run in which a test without the mark `slow` takes longer than ten seconds.

    The limit grows with the load: with three workers for each core, a test may take three times as long as alone. In CI
    the tests are named and the run does not fail.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        limit = SLOW_SECONDS * max(1, self._workers / cores(), os.getloadavg()[0] / cores())
        if report.when == "call" and report.duration > limit and "slow" not in dict(report.user_properties):
            self._found.append(f"{report.duration:.0f} s (limit now: {limit:.0f} s) {report.nodeid}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._found and session.exitstatus == pytest.ExitCode.OK and "CI" not in os.environ:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._found:
            terminalreporter.section("too slow for a test without the mark slow(reason=...)")
            for each in self._found:
                terminalreporter.write_line(each)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def scripted_model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture(scope="session")
async def letta_server(request: pytest.FixtureRequest, scripted_model: ScriptedModel) -> AsyncGenerator[Letta]:
    if request.config.getoption("--live"):
        async with serve_model(scripted_model) as model_url, in_own_task(real_letta(model_url)) as real:
            server = Letta(real.base_url, scripted_model)
            yield server
            await server.close()
    else:
        fake = FakeLetta(scripted_model)
        async with fake.serve() as base_url:
            server = Letta(base_url, scripted_model, fake)
            yield server
            await server.close()


@pytest.fixture
def letta(letta_server: Letta) -> Generator[Letta]:
    """The Letta server, with nothing queued for its model; afterwards every queued answer must have been asked for."""
    letta_server.model.reset()
    if letta_server.is_fake:
        letta_server.fake.forget_faults()
    yield letta_server
    letta_server.model.check_used()
    if letta_server.is_fake:
        letta_server.fake.check_used()


@pytest.fixture
def model(letta: Letta) -> ScriptedModel:
    return letta.model


@pytest.fixture(scope="session", params=ALL_WAYS, ids=str)
async def connected_client(request: pytest.FixtureRequest, letta_server: Letta) -> AsyncGenerator[Client]:
    way: Way = request.param
    settings = Settings(base_url=letta_server.base_url)
    async with in_own_task(connect(settings, way.transport, way.era)) as client:
        yield client


@pytest.fixture
def mcp(connected_client: Client, letta: Letta) -> Caller:
    """A client of our server; a test that takes it runs over every transport and in both eras."""
    return Caller(connected_client)


@pytest.fixture(params=ALL_WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """A transport and an era, for a test that needs a server with settings of its own."""
    return request.param
