"""That a conversation has changed: said by whoever changes it, heard by those who tell others.

A change says only where to look again, never what is new there, so that one more or one too many does no harm. What is
said here reaches this process; what carries it to others has the same protocol.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

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

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A conversation is not what it was. `relisted`: lists of conversations show it, too, for it was made, renamed,
    archived or deleted."""

    conversation_id: str
    relisted: bool = False


Listener = Callable[[Change], None]


class Changes(Protocol):
    """Carries changes from those who make them to those who tell of them."""

    def publish(self, change: Change) -> None:
        """Hand a change over. Neither waits nor raises: the change itself has happened already."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with every change until what comes back is called. It must not wait."""
        ...


class LocalChanges:
    """Within this process."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    def publish(self, change: Change) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener(change)
            except Exception:
                logger.exception("a listener failed at a change of conversation %s", change.conversation_id)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        key = object()
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None


def announcing(backend: Backend, changes: Changes) -> Backend:
    """The backend, with a word about every change that is made through it."""
    return cast("Backend", _Announcing(backend, changes))


class _Announcing:
    """Has the verbs that change a conversation; all others are the backend's own."""

    def __init__(self, backend: Backend, changes: Changes) -> None:
        self._backend = backend
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def create_conversation(self, new: NewConversation) -> Conversation:
        return self._listed_anew(await self._backend.create_conversation(new))

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        return self._listed_anew(await self._backend.fork(ref, at_message=at_message, hidden=hidden))

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        return self._listed_anew(await self._backend.update_conversation(conversation_id, changes))

    async def delete_conversation(self, conversation_id: str) -> None:
        await self._backend.delete_conversation(conversation_id)
        self._changes.publish(Change(conversation_id, relisted=True))

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        try:
            return await self._backend.compact(ref, settings)
        finally:
            # Letta may go on compacting for somebody who has stopped waiting.
            self._changed(ref)

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        return self._turn(ref, self._backend.send(ref, message))

    def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        return self._turn(ref, self._backend.resume(ref, message, run_id=run_id, after=after))

    def respond(self, ref: ConversationRef, approvals: Approvals) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        return self._turn(ref, self._backend.respond(ref, approvals))

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        try:
            return await self._backend.cancel(ref, run_id)
        finally:
            self._changed(ref)

    @asynccontextmanager
    async def _turn(
        self, ref: ConversationRef, stream: AbstractAsyncContextManager[AsyncIterator[Chunk]]
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        """A turn changes its conversation by its end; what is new before that shows when somebody looks."""
        async with stream as chunks:
            try:
                yield chunks
            finally:
                self._changed(ref)

    def _changed(self, ref: ConversationRef) -> None:
        if ref.conversation_id != DEFAULT_CONVERSATION:
            self._changes.publish(Change(ref.conversation_id))

    def _listed_anew(self, conversation: Conversation) -> Conversation:
        self._changes.publish(Change(conversation.id, relisted=True))
        return conversation
