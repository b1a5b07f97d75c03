"""Handing a message to a Letta REST server, and taking its stream up again.

A server with Redis keeps the stream of a turn that it was asked to run in the background, numbered, for three hours,
and knows a message by its otid: it never takes the same one twice. One without Redis does neither, and a message goes
to it in the foreground (seen on 0.16.8).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from letta_conversations_mcp.backends.letta_api.base import ApiBase
from letta_conversations_mcp.backends.letta_api.client import Client
from letta_conversations_mcp.backends.letta_api.letta_json import Json, message_body
from letta_conversations_mcp.core.backend import NotResumable
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Chunk, ConversationRef, Outgoing, OutgoingMessage

if TYPE_CHECKING:
    from letta_client._response import AsyncAPIResponse


class ApiMessages(ApiBase):
    """The verbs that begin a turn, or take one up."""

    _keeps_streams: bool | None = None
    """None until the server was asked."""

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
                async with self._post(client, ref, message, background=True) as chunks:
                    yield chunks
                return
            except KeepsNoStreams:
                self._keeps_streams = False
        async with self._post(client, ref, message, background=False) as chunks:
            yield chunks

    @asynccontextmanager
    async def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        from letta_conversations_mcp.backends.letta_api.stream import KeepsNoStreams

        if self._keeps_streams is False:
            raise NotResumable
        client = await self._open()
        try:
            if run_id:
                async with self._take_up(client, ref, run_id, after) as chunks:
                    yield chunks
            else:
                async with self._post(client, ref, message, background=True) as chunks:
                    yield chunks
        except KeepsNoStreams as error:
            raise NotResumable from error

    @asynccontextmanager
    async def _post(
        self, client: Client, ref: ConversationRef, message: Outgoing, *, background: bool
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        body: Json = {
            "messages": [message_body(message)],
            "streaming": True,
            # Whole steps, not tokens: only these tell an answer that was cut off or empty, and a cancelled one stays in
            # the history (seen on 0.16.8).
            "stream_tokens": False,
            "include_pings": True,
        }
        if background:
            body["background"] = True
        if ref.conversation_id == DEFAULT_CONVERSATION:
            body["agent_id"] = ref.agent_id
        if isinstance(message, OutgoingMessage):
            if message.model:
                body["override_model"] = message.model
            if message.max_steps is not None:
                body["max_steps"] = message.max_steps
        request = client.once.conversations.messages.with_streaming_response.create(
            ref.conversation_id, extra_body=body, timeout=client.timeout(self._settings.silence_timeout)
        )
        async with self._read(client, ref, request) as chunks:
            yield chunks

    @asynccontextmanager
    async def _take_up(
        self, client: Client, ref: ConversationRef, run_id: str, after: int
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        body: Json = {"run_id": run_id, "starting_after": after, "include_pings": True}
        if ref.conversation_id == DEFAULT_CONVERSATION:
            body["agent_id"] = ref.agent_id
        request = client.once.conversations.messages.with_streaming_response.stream(
            ref.conversation_id, extra_body=body, timeout=client.timeout(self._settings.silence_timeout)
        )
        async with self._read(client, ref, request) as chunks:
            yield chunks

    @asynccontextmanager
    async def _read(
        self, client: Client, ref: ConversationRef, request: AbstractAsyncContextManager[AsyncAPIResponse[Any]]
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        from letta_conversations_mcp.backends.letta_api.stream import open_response, read_stream

        async with (
            open_response(request, client.asking, ref, self._settings.first_byte_timeout) as response,
            read_stream(response, self._settings.silence_timeout) as chunks,
        ):
            yield chunks

    async def _ask_whether_it_keeps_streams(self, client: Client, ref: ConversationRef) -> None:
        """Ask for the stream of a message that nobody sent. To find out by sending one would leave a failed run behind
        at a server without Redis. What cannot be found out shows when the message is sent."""
        from letta_conversations_mcp.backends.letta_api.stream import means_no_streams, post

        body: Json = {"otid": str(uuid.uuid4())}
        if ref.conversation_id == DEFAULT_CONVERSATION:
            body["agent_id"] = ref.agent_id
        asked = client.once.conversations.messages.with_raw_response.stream(ref.conversation_id, extra_body=body)
        answer = await post(asked)
        if answer is not None:
            self._keeps_streams = not means_no_streams(answer)
