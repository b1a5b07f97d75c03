"""Opening a turn's stream with the real SDK, over connections that break in ways which its own errors do not cover."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import httpx_sse
import letta_client
import pytest

from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking
from letta_conversations_mcp.backends.letta_api.stream import open_response, read_chunks, read_stream
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


async def events(*data: str, error: Exception | None = None) -> AsyncIterator[httpx_sse.ServerSentEvent]:
    for each in data:
        yield httpx_sse.ServerSentEvent(data=each)
    if error:
        raise error


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        # A whole step without a number that comes twice in a row is a repetition.
        (['{"id": "a"}', '{"id": "a"}'], ["a"]),
        (['{"id": "a"}', '{"id": "b"}', '{"id": "a"}'], ["a", "b", "a"]),
        # Fragments with numbers may well be equal; what is repeated of them is told by the number.
        (['{"id": "a", "seq_id": 1}', '{"id": "a", "seq_id": 1}'], ["a", "a"]),
        (['{"id": "a", "seq_id":2}', '{"id": "a", "seq_id":2}'], ["a", "a"]),
        (['{"id": "a", "seq_id": null}', '{"id": "a", "seq_id": null}'], ["a"]),
        (['{"id": "a"}', "[DONE]", '{"id": "b"}'], ["a"]),
        (["no JSON", "[1]", '{"id": "a"}'], [None, None, "a"]),
    ],
)
async def test_a_step_that_is_sent_twice_is_read_once_and_an_equal_fragment_is_not_lost(
    sent: list[str], read: list[str | None]
) -> None:
    assert [chunk.get("id") async for chunk in read_chunks(events(*sent), 5)] == read


@pytest.mark.parametrize(
    ("error", "silent"),
    [(httpx.ReadTimeout("x"), True), (httpx.ReadError("x"), False), (httpx_sse.SSEError("x"), False)],
)
async def test_a_stream_that_breaks_gives_what_came_before(error: Exception, silent: bool) -> None:
    chunks = read_chunks(events('{"id": "a"}', error=error), 5)

    assert await anext(chunks) == {"id": "a"}
    with pytest.raises(StreamLost) as raised:
        await anext(chunks)
    assert raised.value.silent == silent
    assert not silent or "5 s" in str(raised.value)


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=latin-1"])
async def test_a_stream_is_utf_8_whatever_its_headers_say(charset: str) -> None:
    response = httpx.Response(
        200, headers={"content-type": f"text/event-stream{charset}"}, content='data: {"id": "Grüße 🎈"}\n\n'.encode()
    )

    async with read_stream(response, 5) as chunks:
        assert [chunk async for chunk in chunks] == [{"id": "Grüße 🎈"}]
