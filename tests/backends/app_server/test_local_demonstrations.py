"""The demonstrations of Letta's conversation skill, with agents on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.demonstrations import DEMONSTRATIONS
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller


@pytest.mark.parametrize("demonstration", DEMONSTRATIONS, ids=lambda each: each.__name__)
async def test_a_demonstration_of_the_skill_works(
    mcp: Caller,
    agent: str,
    model: ScriptedModel,
    demonstration: Callable[[Caller, ScriptedModel, str], Awaitable[None]],
) -> None:
    await demonstration(mcp, model, agent)


async def test_memory_is_shared_by_all_conversations(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    for text in ("one", "two"):
        await mcp.ok("send_message", agent=agent, message=text)

        assert "Name: Ann" in str(model.calls[-1].messages)
