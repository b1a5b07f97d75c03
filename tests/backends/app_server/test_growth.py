"""A server that has grown too large is ended while it is idle, and nobody loses a turn or notices more than a pause."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from letta_conversations_mcp.backends.app_server import connection, supervisor
from letta_conversations_mcp.backends.app_server.backend import LocalBackend, open_local_backend
from letta_conversations_mcp.backends.app_server.process import LocalOptions, app_server
from letta_conversations_mcp.core.model import (
    Approvals,
    ConversationRef,
    Decision,
    MessageQuery,
    NewAgent,
    NewConversation,
    OutgoingMessage,
)
from letta_conversations_mcp.settings import BackendSettings
from tests.backends.app_server.app_servers import address, servers
from tests.backends.app_server.conftest import MODEL
from tests.backends.app_server.test_local_approvals import touch
from tests.backends.app_server.test_local_deliveries import all_of
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import in_own_task
from tests.rig.waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who holds a lock is read from /proc/locks")

Opener = Callable[[], AbstractAsyncContextManager[LocalBackend]]


@pytest.fixture
def opened(folder: Path, model_url: str, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Opens a backend of a server that is too large from the beginning."""
    monkeypatch.setattr(connection, "KEEP_SECONDS", 0.5)
    options = LocalOptions(
        folder, growth_bytes=-(10**12), look_seconds=0.1, environment={"LMSTUDIO_BASE_URL": model_url}
    )
    settings = BackendSettings(local_tools="ask")
    return lambda: in_own_task(open_local_backend(lambda: app_server(options), settings))


@pytest.fixture
async def one(opened: Opener, model: ScriptedModel) -> AsyncGenerator[LocalBackend]:
    async with opened() as backend:
        yield backend


async def new_conversation(backend: LocalBackend) -> ConversationRef:
    agent = await backend.create_agent(NewAgent(name="one", model=MODEL))
    made = await backend.create_conversation(NewConversation(agent_id=agent.id))
    return ConversationRef(conversation_id=made.id, agent_id=agent.id)


def message(text: str) -> OutgoingMessage:
    return OutgoingMessage(text=text, otid=str(uuid.uuid4()))


async def texts(backend: LocalBackend, ref: ConversationRef) -> list[str]:
    return [each.text for each in (await backend.list_messages(ref, MessageQuery())).items if each.text]


def holders(folder: Path) -> set[int]:
    """The processes that keep the server from being ended."""
    inode = (folder / supervisor.ACTIVE).stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(words[4]) for words in held if words[3] == "READ" and words[5].endswith(f":{inode}")}


async def test_it_is_ended_after_a_turn_and_started_again_by_the_next_use(
    folder: Path, one: LocalBackend, opened: Opener, model: ScriptedModel
) -> None:
    held = Hold(Say("first reply"))
    model.enqueue(held, Say("second reply"))
    async with opened() as other:
        ref = await new_conversation(one)
        async with one.send(ref, message("first")) as chunks:
            await model.asked()
            during = await texts(other, ref)
            server = address(folder)["server_pid"]
            held.gate.set()
            await all_of(chunks)
            after = address(folder)["server_pid"]
        await until(lambda: not servers(folder))
        async with other.send(ref, message("second")) as chunks:
            await all_of(chunks)
            again = address(folder)["server_pid"]
        said = await texts(one, ref)

    assert during == ["first"]
    assert server == after != again
    assert said == ["first", "first reply", "second", "second reply"]


async def test_a_turn_whose_process_has_ended_keeps_it(
    folder: Path, one: LocalBackend, opened: Opener, model: ScriptedModel
) -> None:
    held = Hold(Say("a late reply"))
    model.enqueue(held)
    ref = await new_conversation(one)
    async with opened() as other, other.send(ref, message("think")):
        await model.asked()
        server = address(folder)["server_pid"]
    await until(lambda: os.getpid() not in holders(folder))
    keeping = holders(folder)
    held.gate.set()
    await until(lambda: not servers(folder))

    assert len(keeping) == 1
    assert await texts(one, ref) == ["think", "a late reply"]
    assert address(folder)["server_pid"] != server


async def test_a_tool_call_that_waits_for_a_decision_keeps_it(
    folder: Path, one: LocalBackend, model: ScriptedModel, tmp_path: Path
) -> None:
    model.enqueue(touch(tmp_path / "made"), Say("Made."))
    ref = await new_conversation(one)
    async with one.send(ref, message("make it")) as chunks:
        await all_of(chunks)
    await until(lambda: os.getpid() not in holders(folder))
    keeping = holders(folder)
    [call] = await one.list_approvals(ref)
    decision = Decision(tool_call_id=call.id, approve=True)
    decided = Approvals(decisions=(decision,), calls=(call,), otid=str(uuid.uuid4()))
    async with one.respond(ref, decided) as chunks:
        await all_of(chunks)
    await until(lambda: not servers(folder))

    assert len(keeping) == 1
    assert (tmp_path / "made").exists()
    assert (await texts(one, ref))[-1] == "Made."
