"""What a call to Letta leaves in memory."""

from __future__ import annotations

import gc

import httpx
import pytest

from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.core.model import ConversationRef, OutgoingMessage
from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta


def responses() -> int:
    return sum(isinstance(each, httpx.Response) for each in gc.get_objects())


@pytest.mark.parametrize("for_many", [False, True])
async def test_no_response_waits_for_the_garbage_collector(letta: Letta, *, for_many: bool) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    ref = ConversationRef(conversation_id=conversation_id, agent_id=agent_id)
    async with open_backend(Settings(base_url=letta.base_url), for_many=for_many) as backend:
        await backend.get_conversation(conversation_id)
        gc.collect()
        before = responses()
        gc.disable()
        try:
            for number in range(3):
                await backend.get_conversation(conversation_id)
                async with backend.send(ref, OutgoingMessage(text=f"message {number}")) as chunks:
                    assert [chunk async for chunk in chunks]
            # The newest may still be somebody's, such as the connection's.
            assert responses() <= before + 1
        finally:
            gc.enable()
