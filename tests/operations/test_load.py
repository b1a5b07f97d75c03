"""A whole team asks at the same moment: everybody gets the reply to the own message, and it arrived once."""

from __future__ import annotations

import anyio

from letta_conversations_mcp.settings import Settings
from tests.operations.service import service
from tests.rig.letta_server import Letta
from tests.rig.servers import ERAS, Era

CLIENTS = 24
"""A real server answers about three messages a second; a caller whose reply takes longer than its call waits on."""


async def test_everybody_of_a_team_that_asks_at_once_gets_the_reply_to_the_own_message(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversations = [await letta.new_conversation(agent_id) for _ in range(CLIENTS)]
    replies: dict[str, str] = {}

    async with service(Settings(base_url=letta.base_url, wait_seconds=15)) as running:

        async def ask(conversation_id: str, era: Era) -> None:
            place = {"conversation_id": conversation_id}
            async with running.client(era) as caller:
                answer = await caller.ok("send_message", **place, message=f"from {conversation_id}")
                while answer.data["status"] == "running":
                    answer = await caller.ok("wait_for_reply", **place)
            replies[conversation_id] = answer.data["reply"]

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                for number, conversation_id in enumerate(conversations):
                    tasks.start_soon(ask, conversation_id, ERAS[number % len(ERAS)])
            await running.shows("letta_mcp_turns_in_flight 0.0")

    assert replies == {each: f"echo: from {each}" for each in conversations}
    for each in conversations:
        assert await letta.stored_texts(agent_id, each) == [f"from {each}"]
    assert "Traceback" not in running.log
