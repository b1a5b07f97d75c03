"""A turn's stream over HTTP: sending the request and reading the events. Importing this imports `letta_client`.

httpx-sse decodes the events; `turns/aggregate.py` interprets them. Any failure after the message may have left this
machine is `StreamLost`, because the turn may be running.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx
import httpx_sse
import letta_client
from pydantic_core import from_json

from letta_conversations_mcp.backends.letta_api.http_client import release
from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking, waited_seconds, was_never_sent
from letta_conversations_mcp.backends.letta_api.summaries import streamed
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import NotFound, Unreachable
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Chunk, ConversationRef

if TYPE_CHECKING:
    from letta_client._response import AsyncAPIResponse

END_OF_STREAM = "[DONE]"

DRAIN_SECONDS = 1.0
"""Timeout for the end of a response after its last event. A connection that takes longer is closed."""

_NUMBERED = re.compile(r'"seq_id": ?[0-9]')

_FOREGROUND = "not created in background mode"
"""Letta's refusal to resume a run that has no stored stream."""


class KeepsNoStreams(Exception):
    """The server has no Redis, or no stored stream of this run. Nothing was sent."""


def means_no_streams(error: letta_client.APIStatusError) -> bool:
    words = str(error.body)
    return (error.status_code == 503 and "Redis" in words) or (error.status_code == 400 and _FOREGROUND in words)


async def post(request: Awaitable[object]) -> letta_client.APIStatusError | None:
    """Make a request that Letta is expected to refuse, and return the refusal; None if Letta could not be reached."""
    try:
        await request
    except letta_client.APIStatusError as error:
        return error
    except letta_client.APIConnectionError:
        return None
    return None


@asynccontextmanager
async def open_response(
    request: AbstractAsyncContextManager[AsyncAPIResponse[Any]],
    asking: Asking,
    ref: ConversationRef,
    first_byte_seconds: float,
) -> AsyncGenerator[httpx.Response]:
    """Make a request for a turn's stream, without retries, and return its response.

    Raises:
        ConversationError: nothing was sent, or Letta refused the message.
        StreamLost: it is uncertain whether Letta has the message.
        KeepsNoStreams: nothing was sent; this server cannot run in the background, or resume.
    """
    missing = NotFound.agent(ref.agent_id) if ref.conversation_id == DEFAULT_CONVERSATION else None
    try:
        with anyio.fail_after(first_byte_seconds):
            response = await request.__aenter__()
    except TimeoutError as error:
        raise StreamLost(f"no answer for {first_byte_seconds:g} s") from error
    except letta_client.APIConnectionError as error:
        if was_never_sent(error):
            raise Unreachable.nothing_answers(asking.base_url) from error
        timed_out = isinstance(error, letta_client.APITimeoutError)
        words = (
            f"no answer for {waited_seconds(error):g} s" if timed_out else "the connection broke before an answer came"
        )
        raise StreamLost(words) from error
    except httpx.TransportError as error:
        # The SDK passes it on while it reads the body of an error.
        raise StreamLost("the connection broke in the middle of an error") from error
    except letta_client.APIStatusError as error:
        if means_no_streams(error):
            raise KeepsNoStreams from error
        if error.status_code >= 500:
            # From a proxy or from Letta itself: the message may have been accepted nevertheless.
            raise StreamLost(f"HTTP {error.status_code}", error.status_code) from error
        raise asking.translate_status(
            error,
            "take the message",
            f"The message may not have been taken: look with list_messages({ref.in_call}) before sending it again.",
            missing or NotFound.conversation(ref.conversation_id),
            ref.conversation_id,
        ) from error
    try:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise Unreachable.no_letta_server(asking.base_url)
        yield response.http_response
    finally:
        await request.__aexit__(None, None, None)
        release(response.http_response)


@asynccontextmanager
async def read_stream(response: httpx.Response, silence_seconds: float) -> AsyncGenerator[AsyncIterator[Chunk]]:
    """The chunks of a response. The rest of the response is read on leaving, after the caller has its answer."""
    # Of every event stream, whatever its headers say.
    response.encoding = "utf-8"
    events = httpx_sse.EventSource(response).aiter_sse()
    yield read_chunks(events, silence_seconds)
    # Read to the end; otherwise the connection could not be reused.
    with suppress(httpx.HTTPError, httpx.StreamError, httpx_sse.SSEError), anyio.move_on_after(DRAIN_SECONDS):
        async for _ in events:
            pass


async def read_chunks(events: AsyncIterator[httpx_sse.ServerSentEvent], silence_seconds: float) -> AsyncIterator[Chunk]:
    """The events of a stream as JSON objects, up to the end mark or the end of the stream.

    Any other event becomes a chunk without a kind, which is counted. Raises StreamLost.
    """
    before: str | None = None
    try:
        async for event in events:
            if event.data == END_OF_STREAM:
                return
            # Numbered events are deduplicated by number. Without Redis events are whole steps without numbers: two
            # equal ones are a repetition.
            if event.data != before or _NUMBERED.search(event.data):
                yield _read_event(event.data)
            before = event.data
    except httpx.ReadTimeout as error:
        raise StreamLost(f"no sign of life for {silence_seconds:g} s", silent=True) from error
    except (httpx.HTTPError, httpx.StreamError, httpx_sse.SSEError) as error:
        raise StreamLost(f"the connection broke ({type(error).__name__})") from error


def _read_event(data: str) -> Chunk:
    try:
        chunk = from_json(data, cache_strings="keys")
    except ValueError:
        return {}
    return streamed(cast("Chunk", chunk)) if isinstance(chunk, dict) else {}
