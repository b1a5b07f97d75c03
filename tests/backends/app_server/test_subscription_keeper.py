"""What our processes ask the App Server for when they look at conversations, and when they leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from letta_conversations_mcp.backends.app_server.backend import open_local_backend
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.subscription_keeper import SubscriptionKeeper
from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.settings import BackendSettings
from tests.backends.app_server.test_local_faults import CAPABLE, websocket
from tests.rig.bounds import HANG_SECONDS
from tests.rig.servers import in_own_task

REFS = [ConversationRef(conversation_id=f"local-conv-{number}", agent_id="agent-local-1") for number in range(3)]


class Asked:
    """The commands that came, by their number."""

    def __init__(self) -> None:
        self.commands: Counter[str] = Counter()
        self.left = anyio.Event()

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        kind = command["type"]
        self.commands[kind] += 1
        if kind == "app_server_info":
            self.left.set()
        runtime = {name: command.get(name) for name in ("agent_id", "conversation_id")}
        return {
            "type": f"{kind}_response",
            "success": True,
            "protocol_version": 1,
            "capabilities": CAPABLE,
            "runtime": runtime,
        }


async def test_who_leaves_does_not_ask_for_the_state_of_every_conversation() -> None:
    asked = Asked()
    async with websocket(asked.answer) as url:
        keeper = SubscriptionKeeper(url, "", None)
        for ref in REFS:
            await keeper.watch(ref, "strict")
        keeper.close(goodbye=True)
        with anyio.fail_after(HANG_SECONDS):
            await asked.left.wait()

    assert asked.commands == {"runtime_start": 3, "app_server_info": 1}


async def test_who_only_looks_subscribes_to_nothing() -> None:
    asked = Asked()

    @asynccontextmanager
    async def scripted() -> AsyncGenerator[AppServer]:
        async with websocket(asked.answer) as url:
            yield AppServer(url, "")

    async with in_own_task(open_local_backend(scripted, BackendSettings())) as backend:
        for ref in REFS:
            await backend.list_approvals(ref)
            await backend.list_runs(ref, limit=2)

    assert asked.commands["sync"] == 6
    assert "runtime_start" not in asked.commands
