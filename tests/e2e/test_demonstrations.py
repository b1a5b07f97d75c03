"""The demonstrations of Letta's conversation skill, on a Letta REST server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.demonstrations import DEMONSTRATIONS
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use
from tests.rig.servers import Caller


@pytest.mark.parametrize("demonstration", DEMONSTRATIONS, ids=lambda each: each.__name__)
async def test_a_demonstration_of_the_skill_works(
    mcp: Caller, letta: Letta, demonstration: Callable[[Caller, ScriptedModel, str], Awaitable[None]]
) -> None:
    agent_id, _ = await letta.new_agent()

    await demonstration(mcp, letta.model, agent_id)


async def test_memory_is_shared_by_conversations_that_begin_afterwards_and_by_others_when_recompiled(
    mcp: Caller, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    earlier = (await mcp.ok("create_conversation", agent=agent_id)).data["conversation_id"]
    remember = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea."}),))
    letta.model.enqueue(remember, Say("I shall remember."))

    await mcp.ok("send_message", agent=agent_id, message="I like tea.")
    await mcp.ok("send_message", agent=agent_id, message="What do I like?")
    in_a_new_one = str(letta.model.calls[-1].messages)
    await mcp.ok("send_message", conversation_id=earlier, message="What do I like?")
    in_an_earlier_one = str(letta.model.calls[-1].messages)
    await mcp.ok("recompile", conversation_id=earlier)
    await mcp.ok("send_message", conversation_id=earlier, message="And now?")

    assert "Likes tea." in in_a_new_one
    assert "Likes tea." not in in_an_earlier_one
    assert "Likes tea." in str(letta.model.calls[-1].messages)
