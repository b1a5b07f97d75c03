"""Opening a turn's stream with the real SDK, over connections that break in ways which its own errors do not cover."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import letta_client
import pytest

from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking
from letta_conversations_mcp.backends.letta_api.stream import open_response
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.model import ConversationRef

HERE = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000001", agent_id="agent-1")


class BreaksOff(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncGenerator[bytes]:
        yield b'{"det'
        raise httpx.ReadError("reset by peer")


async def test_an_error_whose_body_breaks_off_leaves_it_uncertain_whether_the_message_was_taken() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(500, stream=BreaksOff()))
    async with letta_client.AsyncLetta(
        base_url="http://letta.test", api_key="k", max_retries=0, http_client=httpx.AsyncClient(transport=transport)
    ) as client:
        request = client.conversations.messages.with_streaming_response.stream(HERE.conversation_id)
        with pytest.raises(StreamLost, match="the connection broke"):
            async with open_response(request, Asking("http://letta.test", key_given=True), HERE, 10):
                pass
