"""Without usable settings a server starts nevertheless, and each operation says how to configure it."""

from __future__ import annotations

import pytest

from letta_conversations_mcp.backends.open import UnconfiguredBackend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotConfigured
from letta_conversations_mcp.core.model import ConversationRef
from tests.backends.operations import call, operations

REF = ConversationRef(conversation_id="conv-1", agent_id="agent-1")


@pytest.mark.parametrize("operation", sorted(operations()))
async def test_every_operation_without_a_configuration_says_what_to_set(operation: str) -> None:
    backend: Backend = UnconfiguredBackend(NotConfigured("Nothing is configured.", "Set LETTA_API_KEY."))
    for _ in range(2):
        with pytest.raises(NotConfigured, match="Set LETTA_API_KEY") as raised:
            await call(backend, operation, REF)

        assert len(raised.traceback) < 10, "the traceback of the one error grows with each call"
