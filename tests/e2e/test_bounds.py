"""Nothing hangs: what is told when Letta is silent, and that the reply is found all the same."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import Caller, Way, connect

pytestmark = pytest.mark.fake_only

SEND = "/v1/conversations/*/messages"


async def test_a_send_without_any_answer_is_taken_up_again(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    gate = anyio.Event()
    letta.fake.stall("POST", SEND, gate, after_request_is_handled=True)
    settings = Settings(base_url=letta.base_url, first_byte_timeout=1.2)

    async with connect(settings, "memory", "modern") as client:
        answer = await Caller(client).ok("send_message", conversation_id=conversation_id, message="hello")
    gate.set()

    assert answer.data["reply"] == "echo: hello"
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello"]


async def test_a_silent_stream_is_taken_up_again_until_the_reply_is_there(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("at last"))
    letta.model.enqueue(held)
    settings = Settings(base_url=letta.base_url, silence_timeout=0.4)

    async with connect(settings, "memory", "modern") as client:
        caller = Caller(client)
        sending = asyncio.create_task(caller.ok("send_message", agent=agent_id, message="think"))
        await caller.until_reported("for 0.4 s; asking Letta")
        was_running = not sending.done()
        held.gate.set()
        sent = await sending

    assert was_running
    assert sent.data["reply"] == "at last"
    assert len(letta.model.calls) == 1


async def test_a_turn_is_followed_no_longer_than_the_settings_say(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("much later"))
    letta.model.enqueue(held)
    async with way.to(Settings(base_url=letta.base_url, turn_timeout=0.8)) as caller:
        refusal = await caller.refused("send_message", conversation_id=conversation_id, message="think for ever")
        held.gate.set()
        reply = await caller.ok("wait_for_reply", conversation_id=conversation_id)

    assert "within 0.8 s" in refusal
    assert "Do not send the message again" in refusal
    assert reply.data["reply"] == "much later"
