"""Pages of a conversation's messages: whose they are said to be, and what that costs the App Server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.supervisor import TOKEN
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.app_servers import address, ask
from tests.rig.servers import Caller, Way


def server_of(state: Path) -> AppServer:
    return AppServer(address(state)["url"], (state / TOKEN).read_text())


@asynccontextmanager
async def overheard(state: Path) -> AsyncGenerator[tuple[Caller, list[str]]]:
    """A caller of the shared App Server, and the commands that it has been sent for them."""
    server = server_of(state)
    commands: list[str] = []

    async def relay(ours: ServerConnection) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        async with connect(server.url, additional_headers=headers, proxy=None) as theirs:

            async def answer() -> None:
                async for data in theirs:
                    await ours.send(data)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                async for data in ours:
                    commands.append(json.loads(data)["type"])
                    await theirs.send(data)
                tasks.cancel_scope.cancel()

    async with serve(relay, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        settings = Settings(backend="local", app_server_url=f"ws://127.0.0.1:{port}/ws")
        async with Way("memory", "modern").to(settings) as caller:
            yield caller, commands


async def test_the_messages_and_their_agent_are_asked_for_in_one_request(mcp: Caller, agent: str, state: Path) -> None:
    sent = await mcp.ok("send_message", agent=agent, message="hello")
    place = {"conversation_id": sent.data["conversation_id"]}
    async with overheard(state) as (caller, commands):
        # The first call asks for the agent's name too.
        await caller.ok("list_messages", **place)
        commands.clear()
        page = await caller.ok("list_messages", **place)
        asked = commands.copy()

    assert asked == ["conversation_messages_list"]
    assert page.data["agent_id"] == agent
    assert [each["text"] for each in page.data["messages"]] == ["hello", sent.data["reply"]]


async def test_a_conversation_without_messages_is_known_to_be_its_agents(mcp: Caller, agent: str) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}

    page = await mcp.ok("list_messages", **place)

    assert page.data["agent_id"] == agent
    assert page.data["note"] == "No messages."


async def test_a_conversation_that_another_client_deletes_with_its_agent_is_gone_at_once(
    mcp: Caller, agent: str, state: Path
) -> None:
    sent = await mcp.ok("send_message", agent=agent, message="hello")
    place = {"conversation_id": sent.data["conversation_id"]}
    await mcp.ok("list_messages", **place)
    await ask(server_of(state), "agent_delete", agent_id=agent)

    assert "no conversation" in await mcp.refused("list_messages", **place)
