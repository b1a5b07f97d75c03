"""Sending a message to a Letta REST server, and resuming its stream.

A server with Redis can run a turn in the background: it numbers the stream's chunks, keeps them for three hours, and
finds the stream by the otid of its message. Without Redis it cannot, and messages are sent in the foreground (seen on
0.16.8).

A background stream is requested token by token if somebody watches the reply grow, and otherwise in whole messages.
Every token is an event, which costs as much as a whole message. In a token stream 0.16.8 does not report that a reply
was cut off or empty, and it drops the message of a turn that is cancelled.

Foreground streams are always requested in whole messages: without numbers, a repeated fragment would look like two
equal fragments. So are the streams after decisions: 0.16.8 omits the results of the decided calls from a token stream.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from letta_conversations_mcp.backends.letta_api.base import ApiBase
from letta_conversations_mcp.backends.letta_api.client import Client
from letta_conversations_mcp.backends.letta_api.letta_json import Json, agent_of_default, message_body
from letta_conversations_mcp.core.backend import NotResumable
from letta_conversations_mcp.core.errors import NotFound, Refused
from letta_conversations_mcp.core.message_json import text_field
from letta_conversations_mcp.core.model import Chunk, ConversationRef, Outgoing, OutgoingMessage

if TYPE_CHECKING:
    from letta_client._response import AsyncAPIResponse

    StreamRequest = AbstractAsyncContextManager[AsyncAPIResponse[Any]]

ASK_AGAIN_SECONDS = 60.0
"""How long "keeps no streams" is remembered: a 503 may come from a proxy, or from a Redis that is restarting."""


class ApiMessages(ApiBase):
    """The operations that begin or resume a turn."""

    _kept_streams: bool | None = None
    """None until it is known."""
    _asked_at = 0.0

    @property
    def _keeps_streams(self) -> bool | None:
        """None if the server has not been asked recently."""
        if self._kept_streams is False and anyio.current_time() - self._asked_at > ASK_AGAIN_SECONDS:
            self._kept_streams = None
        return self._kept_streams

    @_keeps_streams.setter
    def _keeps_streams(self, keeps: bool) -> None:
        self._kept_streams, self._asked_at = keeps, anyio.current_time()

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        return self._hand_over(ref, message)

    @asynccontextmanager
    async def _hand_over(self, ref: ConversationRef, message: Outgoing) -> AsyncGenerator[AsyncIterator[Chunk]]:
        from letta_conversations_mcp.backends.letta_api.stream import KeepsNoStreams

        client = await self._open()
        if self._keeps_streams is None:
            await self._ask_whether_it_keeps_streams(client, ref)
        if self._keeps_streams is not False:
            try:
                async with self._read(client, ref, self._post(client, ref, message, background=True)) as chunks:
                    yield chunks
                return
            except KeepsNoStreams:
                self._keeps_streams = False
        async with self._read(client, ref, self._post(client, ref, message, background=False)) as chunks:
            yield chunks

    @asynccontextmanager
    async def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        from letta_conversations_mcp.backends.letta_api.stream import KeepsNoStreams

        if self._keeps_streams is False or not run_id:
            raise NotResumable
        client = await self._open()
        try:
            async with self._read(client, ref, self._resumption(client, ref, {"run_id": run_id}, after)) as chunks:
                yield chunks
        except KeepsNoStreams as error:
            raise NotResumable from error

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        """Redis maps an otid to its run for three hours from the arrival of the message (0.16.8)."""
        from letta_conversations_mcp.backends.letta_api.stream import KeepsNoStreams

        if self._keeps_streams is False:
            return ""
        client = await self._open()
        try:
            async with self._read(client, ref, self._resumption(client, ref, {"otid": otid}, 0)) as chunks:
                async for chunk in chunks:
                    if run_id := text_field(chunk, "run_id"):
                        return run_id
        except (KeepsNoStreams, NotFound, Refused):
            # 404 for an unknown or expired otid, 400 for a conversation in which nothing ever ran.
            return ""
        return ""

    def _post(self, client: Client, ref: ConversationRef, message: Outgoing, *, background: bool) -> StreamRequest:
        """The request that hands a message over, not yet made."""
        body: Json = {
            **agent_of_default(ref),
            "messages": [message_body(message)],
            "streaming": True,
            "stream_tokens": background and isinstance(message, OutgoingMessage) and message.is_watched,
            "include_pings": True,
        }
        if background:
            body["background"] = True
        if isinstance(message, OutgoingMessage):
            if message.model:
                body["override_model"] = message.model
            if message.max_steps is not None:
                body["max_steps"] = message.max_steps
        return client.once.conversations.messages.with_streaming_response.create(
            ref.conversation_id, extra_body=body, timeout=client.timeout(self._settings.silence_timeout)
        )

    def _resumption(self, client: Client, ref: ConversationRef, which: Json, after: int) -> StreamRequest:
        """The request that resumes a stream, not yet made."""
        body: Json = {**agent_of_default(ref), **which, "starting_after": after, "include_pings": True}
        return client.once.conversations.messages.with_streaming_response.stream(
            ref.conversation_id, extra_body=body, timeout=client.timeout(self._settings.silence_timeout)
        )

    @asynccontextmanager
    async def _read(
        self, client: Client, ref: ConversationRef, request: StreamRequest
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        from letta_conversations_mcp.backends.letta_api.stream import open_response, read_stream

        async with (
            open_response(request, client.asking, ref, self._settings.first_byte_timeout) as response,
            read_stream(response, self._settings.silence_timeout) as chunks,
        ):
            yield chunks

    async def _ask_whether_it_keeps_streams(self, client: Client, ref: ConversationRef) -> None:
        """Request the stream of a run that never was: at once refused, where one of an unknown otid takes 1.8 s
        (0.16.8). Sending a message to find out would leave a failed run at a server without Redis. If this is
        inconclusive, sending the message will show it."""
        from letta_conversations_mcp.backends.letta_api.stream import means_no_streams, post

        body: Json = {**agent_of_default(ref), "run_id": f"run-{uuid.uuid4()}"}
        asked = client.once.conversations.messages.with_raw_response.stream(ref.conversation_id, extra_body=body)
        answer = await post(asked)
        if answer is not None:
            self._keeps_streams = not means_no_streams(answer)
