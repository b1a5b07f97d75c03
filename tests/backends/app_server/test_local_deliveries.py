"""What the local backend tells of a delivery: which run took a message, and whether its turn still runs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from letta_conversations_mcp.backends.app_server.backend import LocalBackend, open_local_backend
from letta_conversations_mcp.backends.app_server.base import ServerContext
from letta_conversations_mcp.backends.app_server.process import AppServer, LocalOptions, app_server
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.model import (
    Chunk,
    ConversationRef,
    MessageQuery,
    NewAgent,
    NewConversation,
    OutgoingMessage,
)
from letta_conversations_mcp.settings import BackendSettings, Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.backends.app_server.test_local_approvals import ONE_WAY, stopped_at, touch
from tests.backends.app_server.test_local_faults import CAPABLE, websocket
from tests.faults.plan import At, Break, Plan
from tests.faults.proxy import Proxy
from tests.faults.relay_websocket import relay_websocket
from tests.rig.bounds import HANG_SECONDS
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import in_own_task

OFTEN = 0.2
"""Seconds of silence after which the server is asked whether the turn still runs."""


@pytest.fixture
def server(model_url: str, model: ScriptedModel, state: Path) -> ServerContext:
    return lambda: app_server(LocalOptions(state, environment={"LMSTUDIO_BASE_URL": model_url}))


@pytest.fixture
async def backend(server: ServerContext) -> AsyncGenerator[LocalBackend]:
    async with in_own_task(open_local_backend(server, BackendSettings(), OFTEN)) as opened:
        yield opened


@pytest.fixture
async def ref(backend: LocalBackend) -> ConversationRef:
    agent = await backend.create_agent(NewAgent(name=unique("sturdy"), model=MODEL))
    opened = await backend.create_conversation(NewConversation(agent_id=agent.id))
    return ConversationRef(conversation_id=opened.id, agent_id=agent.id)


def message(text: str) -> OutgoingMessage:
    return OutgoingMessage(text=text, otid=str(uuid.uuid4()))


async def all_of(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    with anyio.fail_after(HANG_SECONDS):
        return [chunk async for chunk in chunks]


async def test_every_message_of_a_turn_names_the_run_that_took_it(
    backend: LocalBackend, ref: ConversationRef, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"), Say("two"))
    runs: list[object] = []
    for text in ("first", "second"):
        async with backend.send(ref, message(text)) as chunks:
            runs.append((await all_of(chunks))[0]["run_id"])

    page = await backend.list_messages(ref, MessageQuery(limit=10))

    assert [each.run_id for each in page.items] == [runs[0], runs[0], runs[1], runs[1]]


async def test_a_message_that_the_server_drops_because_it_had_it_is_not_waited_for(
    backend: LocalBackend, ref: ConversationRef, model: ScriptedModel
) -> None:
    model.enqueue(Say("only once"))
    sent = message("hello")
    async with backend.send(ref, sent) as chunks:
        await all_of(chunks)

    with pytest.raises(StreamLost, match="no turn"):
        async with backend.send(ref, sent):
            raise AssertionError("the server has it already")

    assert len(model.calls) == 1


async def test_a_turn_that_is_silent_for_long_is_followed_while_the_server_says_that_it_runs(
    backend: LocalBackend, ref: ConversationRef, model: ScriptedModel
) -> None:
    held = Hold(Say("Thought about it."))
    model.enqueue(held)
    kinds: list[object] = []
    async with backend.send(ref, message("think")) as chunks:
        with anyio.fail_after(HANG_SECONDS):
            async for chunk in chunks:
                kinds.append(chunk["message_type"])
                if kinds.count("ping") == 4:
                    held.gate.set()

    assert kinds.count("ping") >= 4
    assert kinds[-1] == "stop_reason"
    assert "assistant_message" in kinds


async def test_a_turn_that_ends_between_its_listing_and_its_state_has_not_failed() -> None:
    asked = {"message_type": "user_message", "id": "m1", "otid": "ours", "content": "hello"}
    answered = {"message_type": "assistant_message", "id": "m2", "content": "done"}
    later = {"message_type": "user_message", "id": "m3", "otid": "another's", "content": "begun since"}
    listings = [[asked], [later, answered, asked]]

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if command["type"] == "conversation_messages_list":
            return {"success": True, "messages": listings.pop(0)}
        kind = f"{command['type']}_response"
        return {"type": kind, "success": True, "protocol_version": 1, "capabilities": CAPABLE}

    @asynccontextmanager
    async def scripted() -> AsyncGenerator[AppServer]:
        async with websocket(answer) as url:
            yield AppServer(url, "")

    here = ConversationRef(conversation_id="local-conv-1", agent_id="agent-local-1")
    async with in_own_task(open_local_backend(scripted, BackendSettings(), OFTEN)) as backend:
        runs = await backend.list_runs(here, limit=10)

    assert [(each.id, each.status) for each in runs] == [("local-run-ours", "completed")]


class TurnInMemory:
    """A server whose turn takes a message and then says nothing until it is asked for its state. It may have ended by
    then: its last frames come before the answer."""

    def __init__(self, *, ended: bool) -> None:
        self._ended = ended
        self._taken: list[str] = []

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["type"] == "input":
            return {"type": "input_accepted", "accepted": True, "success": True, "disposition": "started"}
        kind = f"{command['type']}_response"
        return {"type": kind, "success": True, "protocol_version": 1, "capabilities": CAPABLE}

    def news(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        runtime = {"runtime": command.get("runtime")}
        match command["type"]:
            case "input":
                self._taken = [command["payload"]["messages"][0]["client_message_id"]]
                return [runtime | self._status("PROCESSING_API_RESPONSE", ["local-run-1"])]
            case "sync" if self._taken and self._ended:
                said = {"message_type": "assistant_message", "id": "1", "content": "Done.", "run_id": "local-run-1"}
                return [
                    runtime | {"type": "stream_delta", "delta": said},
                    runtime | {"type": "turn_finished", "stop_reason": "end_turn"},
                    runtime | self._status("WAITING_ON_INPUT", []),
                ]
            case "sync":
                return [runtime | self._status("WAITING_ON_INPUT", [])]
            case _:
                return []

    def _status(self, status: str, active: list[str]) -> dict[str, Any]:
        taken = {"client_message_ids_by_run_id": {"local-run-1": self._taken}} if self._taken else {}
        return {"type": "update_loop_status", "loop_status": {"status": status, "active_run_ids": active, **taken}}


async def follow_silent_turn(*, ended: bool) -> list[Chunk]:
    turn = TurnInMemory(ended=ended)

    @asynccontextmanager
    async def scripted() -> AsyncGenerator[AppServer]:
        async with websocket(turn.answer, turn.news) as url:
            yield AppServer(url, "")

    here = ConversationRef(conversation_id="local-conv-1", agent_id="agent-local-1")
    async with (
        in_own_task(open_local_backend(scripted, BackendSettings(), OFTEN)) as backend,
        backend.send(here, message("think")) as chunks,
    ):
        return await all_of(chunks)


async def test_a_turn_that_ended_while_it_was_asked_about_is_read_to_its_end() -> None:
    chunks = await follow_silent_turn(ended=True)

    assert [each["content"] for each in chunks if each["message_type"] == "assistant_message"] == ["Done."]
    assert chunks[-1] == {"message_type": "stop_reason", "stop_reason": "end_turn"}


async def test_a_turn_that_is_gone_without_an_end_is_lost() -> None:
    with pytest.raises(StreamLost, match="runs no turn"):
        await follow_silent_turn(ended=False)


@pytest.mark.parametrize("at", [At("request"), At("forwarded"), At("answer"), At("head")], ids=str)
async def test_a_decision_whose_answer_is_lost_is_found_and_handed_over_once(
    server: ServerContext, model: ScriptedModel, tmp_path: Path, at: At
) -> None:
    async with (
        server() as running,
        broken_way_to(running) as (proxy, settings),
        ONE_WAY.to(settings) as caller,
    ):
        stopped = await stopped_at(caller, model, touch(tmp_path / "made"), Say("Made."))
        place = {"conversation_id": stopped.data["conversation_id"]}
        proxy.arm(Plan(Break("reset", at)))
        done = await caller.ok("respond_to_approval", **place, approve=True)

    assert proxy.struck.is_set()
    assert (done.data["status"], done.data["reply"]) == ("completed", "Made.")
    assert (tmp_path / "made").exists()


@asynccontextmanager
async def broken_way_to(server: AppServer) -> AsyncGenerator[tuple[Proxy, Settings]]:
    """A proxy before a server, and the settings of one of ours that reaches it so, and lets agents use tools."""
    host, port = server.url.removeprefix("ws://").removesuffix("/ws").split(":")
    proxy = Proxy(host, int(port), relay_websocket)
    async with proxy.serve() as address:
        yield (
            proxy,
            Settings(
                backend="local",
                app_server_url=f"ws://{address}/ws",
                app_server_token=SecretStr(server.token),
                local_tools="ask",
            ),
        )
