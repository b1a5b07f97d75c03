"""A turn's stream over HTTP: handing the message over, and reading the events. Importing this imports `letta_client`.

The events are decoded by httpx-sse; their kinds are left to `core.turn`. Whatever breaks after the message may have
left this machine is `StreamLost`, because the turn may be running.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx
import httpx_sse
import letta_client
from pydantic_core import from_json

from letta_conversations_mcp.backends.api.translation import Asking, was_never_sent
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import NotFound, Unreachable
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Chunk, ConversationRef

if TYPE_CHECKING:
    from letta_client._response import AsyncAPIResponse

PERHAPS_TAKEN = frozenset({502, 503, 504})
"""What a proxy answers when the server behind it did not: the message may have reached it."""

END_OF_STREAM = "[DONE]"

DRAIN_SECONDS = 1.0
"""For the end of a response after its last event: it is there already, or the connection is not worth waiting for."""


@asynccontextmanager
async def post_message(
    request: AbstractAsyncContextManager[AsyncAPIResponse[Any]], asking: Asking, ref: ConversationRef
) -> AsyncGenerator[httpx.Response]:
    """Send the request once and give its streaming response.

    Raises:
        ConversationError: nothing was sent, or Letta refused the message.
        StreamLost: it is not sure whether Letta has it.
    """
    missing = NotFound.agent(ref.agent_id) if ref.conversation_id == DEFAULT_CONVERSATION else None
    try:
        response = await request.__aenter__()
    except letta_client.APIConnectionError as error:
        if was_never_sent(error):
            raise Unreachable.nothing_answers(asking.base_url) from error
        raise StreamLost(f"no answer to the request ({type(error.__cause__ or error).__name__})") from error
    except letta_client.APIStatusError as error:
        if error.status_code in PERHAPS_TAKEN:
            raise StreamLost(f"HTTP {error.status_code} instead of a stream") from error
        raise asking.translate_status(
            error,
            "take the message",
            f"The message may not have been taken: look with list_messages(conversation_id={ref.conversation_id!r}) "
            "before sending it again.",
            missing or NotFound.conversation(ref.conversation_id),
            ref.conversation_id,
        ) from error
    try:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise Unreachable.no_letta_server(asking.base_url)
        yield response.http_response
    finally:
        await request.__aexit__(None, None, None)


@asynccontextmanager
async def read_stream(response: httpx.Response) -> AsyncGenerator[AsyncIterator[Chunk]]:
    """The chunks of a response. What follows the last of them is read on leaving, when nobody waits for it any more."""
    events = httpx_sse.EventSource(response).aiter_sse()
    yield read_chunks(events)
    # Read to the end, or the connection could not serve the next request.
    with suppress(httpx.HTTPError, httpx.StreamError, httpx_sse.SSEError), anyio.move_on_after(DRAIN_SECONDS):
        async for _ in events:
            pass


async def read_chunks(events: AsyncIterator[httpx_sse.ServerSentEvent]) -> AsyncIterator[Chunk]:
    """The events of a stream as JSON objects, to the end mark or to the end of the stream.

    An event that is no JSON object is passed on as a chunk without a kind, to be counted. Raises StreamLost.
    """
    try:
        async for event in events:
            if event.data == END_OF_STREAM:
                return
            yield _read_event(event.data)
    except (httpx.HTTPError, httpx.StreamError, httpx_sse.SSEError) as error:
        raise StreamLost(type(error).__name__) from error


def _read_event(data: str) -> Chunk:
    try:
        chunk = from_json(data)
    except ValueError:
        return {}
    return cast("Chunk", chunk) if isinstance(chunk, dict) else {}
