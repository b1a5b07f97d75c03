"""What every test can have: a Letta server with a scripted model, and our server in front of it.

One Letta server, and one of ours for every transport and era, serve all tests of a run; a test keeps to agents of its
own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import hypothesis
import pytest
from mcp import Client

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel
from tests.rig.openai_model import serve_model
from tests.rig.real_letta import real_letta
from tests.rig.servers import ALL_WAYS, Caller, Way, connect, in_own_task

# Properties are checked without a deadline: a slow machine is no counterexample.
hypothesis.settings.register_profile("default-run", deadline=None, max_examples=150)
hypothesis.settings.load_profile("default-run")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write the tool schemas and the README anew")
    parser.addoption("--live", action="store_true", help="run the tests against a real Letta server, which is started")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--live"):
        items[:] = [each for each in items if not each.get_closest_marker("fake_only") and "letta" in _fixtures(each)]


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own settings reaches a test."""
    for name in ("LETTA_API_KEY", "LETTA_BASE_URL", "LETTA_PROJECT"):
        monkeypatch.delenv(name, raising=False)


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
