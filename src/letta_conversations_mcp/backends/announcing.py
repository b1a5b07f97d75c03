"""A backend that publishes an event for every change that is made through it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from mcp.server.subscriptions import ServerEvent, SubscriptionBus

from letta_conversations_mcp.backends.forwarding import ForwardingBackend, TurnStream
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Approvals,
    Chunk,
    Compaction,
    CompactionSettings,
    Conversation,
    ConversationChanges,
    ConversationRef,
    NewConversation,
    Outgoing,
    OutgoingMessage,
)
from letta_conversations_mcp.notifications.events import AgentListChanged, conversation_changed


class AnnouncingBackend(ForwardingBackend):
    """Overrides the operations that change a conversation.

    Turns, `compact` and `cancel` announce a change even if they fail or are cancelled: Letta may have made it.
    """

    def __init__(self, inner: Backend, bus: SubscriptionBus, account: str = "") -> None:
        super().__init__(inner)
        self._bus = bus
        self._account = account

    async def delete_agent(self, agent_id: str) -> None:
        await super().delete_agent(agent_id)
        await self._publish(AgentListChanged(agent_id, self._account))

    async def create_conversation(self, new: NewConversation) -> Conversation:
        return await self._listed(await super().create_conversation(new))

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        return await self._listed(await super().fork(ref, at_message=at_message, hidden=hidden))

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        return await self._listed(await super().update_conversation(conversation_id, changes))

    async def delete_conversation(self, conversation_id: str) -> None:
        owner = await super().owner_of(conversation_id)
        await super().delete_conversation(conversation_id)
        await self._publish(conversation_changed(conversation_id), AgentListChanged(owner, self._account))

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        try:
            return await super().compact(ref, settings)
        finally:
            await self._changed(ref)

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> TurnStream:
        return self._turn(ref, super().send(ref, message))

    def resume(self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int) -> TurnStream:
        return self._turn(ref, super().resume(ref, message, run_id=run_id, after=after))

    def respond(self, ref: ConversationRef, approvals: Approvals) -> TurnStream:
        return self._turn(ref, super().respond(ref, approvals))

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        try:
            return await super().cancel(ref, run_id)
        finally:
            await self._changed(ref)

    @asynccontextmanager
    async def _turn(self, ref: ConversationRef, stream: TurnStream) -> AsyncGenerator[AsyncIterator[Chunk]]:
        """The stream of a turn. Its change is announced at the end; the poller finds what is new before that."""
        async with stream as chunks:
            try:
                yield chunks
            finally:
                await self._changed(ref)

    async def _changed(self, ref: ConversationRef) -> None:
        if ref.conversation_id != DEFAULT_CONVERSATION:
            await self._publish(conversation_changed(ref.conversation_id))

    async def _listed(self, conversation: Conversation) -> Conversation:
        await self._publish(
            conversation_changed(conversation.id), AgentListChanged(conversation.agent_id, self._account)
        )
        return conversation

    async def _publish(self, *events: ServerEvent) -> None:
        # Shielded: the change has been made, and a caller that gives up now must neither lose its id nor the event.
        with anyio.CancelScope(shield=True):
            for event in events:
                await self._bus.publish(event)
