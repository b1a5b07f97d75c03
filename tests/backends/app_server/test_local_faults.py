"""Agents on this machine when something breaks: each time a sentence, and a server that goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve

from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import loopback_socket
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller, Way
from tests.rig.waiting import until

ONE_WAY = Way("memory", "modern")


def app_servers(state: Path) -> list[psutil.Process]:
    """The processes that listen as the App Server of a state folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            of_ours = process.environ().get("LETTA_LOCAL_BACKEND_DIR", "").startswith(str(state))
            if of_ours and any(each.status == psutil.CONN_LISTEN for each in process.net_connections()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@asynccontextmanager
async def attached(url: str, **options: Any) -> AsyncGenerator[Caller]:
    async with ONE_WAY.to(Settings(backend="local", app_server_url=url, **options)) as connected:
        yield connected


async def new_agent(lonely: Caller) -> str:
    return (await lonely.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]


async def test_a_server_that_is_killed_between_turns_is_started_again(
    lonely: Caller, model: ScriptedModel, tmp_path: Path
) -> None:
    model.enqueue(Say("before"), Say("after"))
    agent = await new_agent(lonely)
    sent = await lonely.ok("send_message", agent=agent, message="one")
    place = {"conversation_id": sent.data["conversation_id"]}
    for process in app_servers(tmp_path):
        process.kill()
    await until(lambda: not app_servers(tmp_path))

    again = await lonely.ok("send_message", **place, message="two")
    page = await lonely.ok("list_messages", **place)

    assert again.data["reply"] == "after"
    assert [each["text"] for each in page.data["messages"]] == ["one", "before", "two", "after"]


async def test_a_server_that_is_killed_in_a_turn_leaves_a_conversation_that_works(
    lonely: Caller, model: ScriptedModel, tmp_path: Path
) -> None:
    held = Hold(Say("never heard"))
    model.enqueue(held, to="doomed")
    agent = await new_agent(lonely)
    running = await lonely.ok("send_message", agent=agent, message="doomed", wait_seconds=1)
    place = {"conversation_id": running.data["conversation_id"]}
    await model.asked()
    for process in app_servers(tmp_path):
        process.kill()

    interrupted = await lonely.ok("wait_for_reply", **place, wait_seconds=30)
    held.gate.set()
    model.enqueue(Say("I am back."), to="are you there")
    again = await lonely.ok("send_message", **place, message="are you there?")
    page = await lonely.ok("list_messages", **place, kinds=["user"])

    assert running.data["status"] == "running"
    # A server that is started again takes the turn up by itself, unless it was killed too early for that.
    assert interrupted.data["status"] in ("completed", "failed", "unknown")
    assert again.data["reply"] == "I am back."
    assert [each["text"] for each in page.data["messages"]] == ["doomed", "are you there?"]


@pytest.mark.parametrize("part", ["", "backend"])
async def test_a_state_folder_that_is_moved_while_it_is_used_is_noticed(
    lonely: Caller, tmp_path: Path, part: str
) -> None:
    await lonely.ok("list_agents")
    moved, elsewhere = tmp_path / part, tmp_path.with_name("elsewhere")
    moved.rename(elsewhere)

    refusals = [await lonely.refused("list_agents"), await lonely.refused("create_agent", name="x", model=MODEL)]
    nothing_was_made = not moved.exists()
    moved.mkdir()
    refusals.append(await lonely.refused("list_agents"))
    moved.rmdir()
    elsewhere.rename(moved)
    agents = await lonely.ok("list_agents")

    assert all(f"its folder {moved} was moved, replaced or deleted while it was in use." in each for each in refusals)
    assert nothing_was_made
    assert "no agents yet" in agents.text


async def test_two_of_our_servers_share_one_app_server(lonely: Caller, model: ScriptedModel, tmp_path: Path) -> None:
    model.enqueue(Say("heard"))
    agent = await new_agent(lonely)
    async with Way("stdio", "legacy").to(Settings(backend="local", local_dir=tmp_path)) as other:
        sent = await other.ok("send_message", agent=agent, message="from the other")
        count = len(app_servers(tmp_path))
    page = await lonely.ok("list_messages", conversation_id=sent.data["conversation_id"])

    assert count == 1
    assert [each["text"] for each in page.data["messages"]] == ["from the other", "heard"]


async def test_without_a_model_the_ways_to_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMSTUDIO_BASE_URL", raising=False)
    with loopback_socket() as unused:
        # An address where nothing answers, or a model that runs on the developer's machine would be found.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        for variable in ("LMSTUDIO_BASE_URL", "OLLAMA_BASE_URL", "LLAMA_CPP_BASE_URL"):
            monkeypatch.setenv(variable, url)
        async with ONE_WAY.to(Settings(backend="local", local_dir=tmp_path)) as lonely:
            listed = await lonely.ok("list_models")
            refused = await lonely.refused("create_agent", name="nobody")

    for text in (listed.text, refused):
        assert "Ollama" in text
        assert "OPENAI_API_KEY" in text


async def test_an_address_where_nothing_answers_is_named_by_its_setting_alone() -> None:
    with loopback_socket() as unused:
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/ws"
        async with attached(url) as lonely:
            refusal = await lonely.refused("list_agents")

    assert "App Server cannot be reached" in refusal
    assert "LETTA_MCP_APP_SERVER_URL" in refusal
    assert url not in refusal


async def test_another_server_is_said_to_be_no_app_server() -> None:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, attached(url.replace("http", "ws") + "/ws") as lonely:
        refusal = await lonely.refused("list_agents")

    assert "no App Server" in refusal


@asynccontextmanager
async def websocket(
    answer: Callable[[dict[str, Any]], dict[str, Any] | None],
    news: Callable[[dict[str, Any]], Sequence[dict[str, Any]]] = lambda _: (),
) -> AsyncGenerator[str]:
    """A server that answers each command with what `answer` gives, or not at all; before, it sends `news`."""

    async def talk(connection: ServerConnection) -> None:
        async for data in connection:
            command = json.loads(data)
            for frame in news(command):
                await connection.send(json.dumps(frame))
            if (reply := answer(command)) is not None:
                await connection.send(json.dumps({"request_id": command["request_id"], **reply}))

    async with serve(talk, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"


CAPABLE = {"agent_management": True, "conversation_management": True, "runtime_start": True}


async def test_another_version_of_the_protocol_is_refused_with_the_tested_one() -> None:
    info = {"success": True, "protocol_version": 2, "letta_code_version": "9.9"}
    async with websocket(lambda _: info) as url, attached(url) as lonely:
        refusal = await lonely.refused("list_agents")

    assert "protocol version 2" in refusal
    assert "0.34.12" in refusal


async def test_a_missing_capability_is_named() -> None:
    info = {"success": True, "protocol_version": 1, "capabilities": {**CAPABLE, "runtime_start": False}}
    async with websocket(lambda _: info) as url, attached(url) as lonely:
        assert "runtime_start" in await lonely.refused("list_agents")


async def test_a_command_that_is_never_answered_ends_within_the_bound() -> None:
    def answer(command: dict[str, Any]) -> dict[str, Any] | None:
        match command["type"]:
            case "app_server_info":
                return {"success": True, "protocol_version": 1, "capabilities": CAPABLE}
            case "agent_list":
                return {"success": True, "agents": []}
            case "list_models":
                return {"success": True, "entries": [{"handle": MODEL}]}
            case _:
                return None

    async with websocket(answer) as url, attached(url, request_timeout=1) as lonely:
        question = await lonely.refused("list_conversations", agent=f"agent-local-{uuid.uuid4()}")
        change = await lonely.refused("create_agent", name="new", model=MODEL)

    assert "did not answer within 1 s" in question
    assert "the same call may succeed in a moment" in question
    assert "look before repeating it" in change


async def test_a_branch_that_is_there_is_named_when_its_summary_cannot_be_cleared() -> None:
    source = {"id": "local-conv-1", "agent_id": f"agent-local-{uuid.uuid4()}", "summary": "tea"}
    answers: dict[str, dict[str, Any]] = {
        "app_server_info": {"success": True, "protocol_version": 1, "capabilities": CAPABLE},
        "conversation_retrieve": {"success": True, "conversation": source},
        "conversation_fork": {"success": True, "conversation": {"id": "local-conv-2"}},
        "conversation_update": {"success": False, "error": "ENOSPC: no space left on device"},
    }
    async with websocket(lambda command: answers[command["type"]]) as url, attached(url) as lonely:
        refusal = await lonely.refused("fork", conversation_id="local-conv-1")

    assert "make room" in refusal
    assert "The branch local-conv-2 is there, with the summary of its source." in refusal


async def test_a_wrong_token_is_named_and_not_shown(lonely: Caller, tmp_path: Path) -> None:
    await lonely.ok("list_agents")
    url = json.loads(next(tmp_path.rglob(ADDRESS)).read_text())["url"]
    async with attached(url, app_server_token=SecretStr("wrong-token")) as other:
        refusal = await other.refused("list_agents")

    assert "LETTA_MCP_APP_SERVER_TOKEN" in refusal
    assert "wrong-token" not in refusal
