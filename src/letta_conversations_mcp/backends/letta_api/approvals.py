"""Tool calls that wait for a decision on a Letta REST server: finding them, and answering."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from letta_conversations_mcp.backends.letta_api.base import AFTER_READING
from letta_conversations_mcp.backends.letta_api.messages import ApiMessages
from letta_conversations_mcp.conversations.approvals import calls_chunk, check_pending, pending_calls
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.message_json import mappings, text_field
from letta_conversations_mcp.core.model import (
    Approvals,
    Chunk,
    ConversationRef,
    Message,
    MessageQuery,
    Page,
    ToolCall,
)

NEWEST = 6
"""Messages read: a pending request is the last one, apart from summaries of compactions."""


class ApiApprovals(ApiMessages):
    """Operations on pending tool calls."""

    @abstractmethod
    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]: ...

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        """A client's own tool is recognised by a name that the agent's tools do not have: otherwise requests to a
        client and to a person look the same (seen on 0.16.8)."""
        newest = await self.list_messages(ref, MessageQuery(limit=NEWEST))
        pending = pending_calls(newest.items)
        if not pending:
            return ()
        client = await self._open()
        with client.asking.to("look at the agent's tools", after=AFTER_READING, missing=NotFound.agent(ref.agent_id)):
            data = await client.json(
                client.retrying.agents.with_raw_response.retrieve(ref.agent_id, include=["agent.tools"])
            )
        names = {text_field(each, "name") for each in mappings(client.object(data).get("tools"))}
        return [call.model_copy(update={"client_side": call.name not in names}) for call in pending]

    @asynccontextmanager
    async def respond(self, ref: ConversationRef, approvals: Approvals) -> AsyncGenerator[AsyncIterator[Chunk]]:
        check_pending(ref.conversation_id, await self.list_approvals(ref), approvals)
        async with self._hand_over(ref, approvals) as chunks:
            yield _with_calls(approvals, chunks)


async def _with_calls(approvals: Approvals, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    yield calls_chunk(approvals.calls)
    async for chunk in chunks:
        yield chunk
