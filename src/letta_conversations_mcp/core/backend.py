"""The verbs of a conversation: what the product asks of a place where conversations live.

Implemented once for each kind of server. Every verb raises `ConversationError`s only, ends within the bounds that the
implementation was given, and may be called from many tasks at once. Cancelling a verb abandons the wait; whether the
server had begun is told by asking it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from letta_conversations_mcp.core.model import (
    Agent,
    Chunk,
    Compaction,
    CompactionMode,
    Conversation,
    ConversationQuery,
    ConversationRef,
    Deletion,
    Message,
    MessageQuery,
    NewAgent,
    NewConversation,
    OutgoingMessage,
    Page,
    Run,
)


class StreamLost(Exception):
    """The connection of a turn broke after the message was handed over; the turn itself may well go on.

    No error for the reader but a signal to whoever follows the turn: ask the server what became of it.
    """


class Backend(Protocol):
    """A place where conversations live."""

    name: str
    deletion: Deletion
    """What delete_conversation does here."""
    without_models: str
    """What a person can do when there are no models, in a sentence or two."""

    async def list_agents(self, *, name: str = "", search: str = "", after: str = "", limit: int = 20) -> Page[Agent]:
        """Agents, newest first: of exactly this `name`, or with `search` in their name, or all."""
        ...

    async def get_agent(self, agent_id: str) -> Agent:
        """Raises NotFound."""
        ...

    async def create_agent(self, new: NewAgent) -> Agent:
        """Not idempotent: names are not unique."""
        ...

    async def list_models(self) -> Sequence[str]:
        """The handles of the models that an agent can have here, `provider/model`."""
        ...

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """Not idempotent and never repeated. What the server ignored is missing in what comes back."""
        ...

    async def get_conversation(self, conversation_id: str) -> Conversation:
        """Raises NotFound, for a deleted one too."""
        ...

    async def owner_of(self, conversation_id: str) -> str:
        """The id of the conversation's agent, which never changes and may therefore be remembered. Raises NotFound when
        it is not known yet and there is no such conversation."""
        ...

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]: ...

    async def delete_conversation(self, conversation_id: str) -> None:
        """Delete it, or hide it where a server cannot delete. Raises NotFound when it is gone already."""
        ...

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """One page, oldest first, in the true order of time. `limit` counts what the server stores as one message,
        which may be several of ours. Raises NotFound for a conversation that is gone and for an unknown cursor."""
        ...

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Hand the message over and stream the turn. Never repeated by the implementation.

        Entering raises Busy, AwaitingApproval, NotFound, Refused … when nothing was sent, and StreamLost when that is
        not sure. Iterating raises StreamLost when the connection breaks. Leaving closes the connection, not the turn.
        """
        ...

    async def compact(
        self,
        ref: ConversationRef,
        *,
        mode: CompactionMode | None = None,
        model: str = "",
        model_settings: dict[str, object] | None = None,
        prompt: str = "",
        clip_chars: int | None = None,
        sliding_window_percentage: float | None = None,
    ) -> Compaction:
        """Summarise the history in context. Raises Refused when there is too little to summarise."""
        ...

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        """The newest runs of a conversation, newest first."""
        ...

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        """A run of this conversation. Raises NotFound."""
        ...

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        """What a run has stored so far, oldest first: its messages and, at the end, its usage."""
        ...
