"""The real App Server with its local backend, and our server in front of it, with the scripted model behind both."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.app_servers import until_gone
from tests.rig.model import ScriptedModel
from tests.rig.openai_model import serve_model
from tests.rig.servers import ALL_WAYS, Caller, Way, connect, in_own_task

MODEL = "lmstudio/fake-1"


def unique(name: str) -> str:
    """A name that no other agent of a shared server has: one that is taken is refused."""
    return f"{name} {uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def local_model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture(scope="session")
async def model_url(local_model: ScriptedModel) -> AsyncGenerator[str]:
    async with serve_model(local_model) as url:
        yield url


@pytest.fixture(scope="session")
def local_settings(model_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Settings]:
    """Settings for agents in a folder of this run; the App Server finds the scripted model as LM Studio."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMSTUDIO_BASE_URL", model_url)
        yield Settings(backend="local", local_dir=Path(tmp_path_factory.mktemp("local")))


@pytest.fixture
def model(local_model: ScriptedModel) -> Generator[ScriptedModel]:
    local_model.reset()
    yield local_model
    local_model.check_used()


@pytest.fixture(scope="session", params=ALL_WAYS, ids=str)
async def local_caller(request: pytest.FixtureRequest, local_settings: Settings) -> AsyncGenerator[Caller]:
    way: Way = request.param
    async with in_own_task(connect(local_settings, way.transport, way.era)) as client:
        yield Caller(client)


@pytest.fixture
def mcp(local_caller: Caller, model: ScriptedModel) -> Caller:
    return local_caller


@pytest.fixture
async def lonely(
    tmp_path: Path, model_url: str, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Caller]:
    """Our server with a state folder of its own."""
    monkeypatch.setenv("LMSTUDIO_BASE_URL", model_url)
    async with in_own_task(Way("memory", "modern").to(Settings(backend="local", local_dir=tmp_path))) as connected:
        yield connected


@pytest.fixture
async def agent(mcp: Caller) -> str:
    """The id of a new agent."""
    return (await mcp.ok("create_agent", name=unique("newcomer"), model=MODEL, human="Name: Ann")).data["agent_id"]


@pytest.fixture
def state(local_settings: Settings) -> Path:
    """The state folder of the App Server that the tests share."""
    assert local_settings.local_dir
    return local_settings.local_dir


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncGenerator[Path]:
    """A state folder in which nothing may run in the end."""
    path = tmp_path / "state"
    yield path
    await until_gone(path)
