"""A backend that forwards every operation to another one: the base class for wrappers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import (
    Agent,
    Approvals,
    Block,
    Chunk,
    Compaction,
    CompactionSettings,
    ContextUse,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    Deletion,
    FoundMessage,
    Health,
    Message,
    MessageQuery,
    MessageSearch,
    NewAgent,
    NewConversation,
    Outgoing,
    OutgoingMessage,
    Page,
    Run,
    ToolCall,
)

TurnStream = AbstractAsyncContextManager[AsyncIterator[Chunk]]


class ForwardingBackend:
    """Each method is that of `inner`; `core.backend.Backend` says what it does."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name = inner.name
        self.deletion: Deletion = inner.deletion
        self.keeps_tags = inner.keeps_tags
        self.isolates_blocks = inner.isolates_blocks
        self.no_models_advice = inner.no_models_advice
        self.image_note = inner.image_note
        self.new_agent_note = inner.new_agent_note

    @property
    def inner(self) -> Backend:
        return self._inner

    async def check(self) -> Health:
        return await self.inner.check()

    async def list_agents(
        self, *, name: str = "", search: str = "", tag: str = "", after: str = "", limit: int = 20
    ) -> Page[Agent]:
        return await self.inner.list_agents(name=name, search=search, tag=tag, after=after, limit=limit)

    async def get_agent(self, agent_id: str) -> Agent:
        return await self.inner.get_agent(agent_id)

    async def create_agent(self, new: NewAgent) -> Agent:
        return await self.inner.create_agent(new)

    async def delete_agent(self, agent_id: str) -> None:
        await self.inner.delete_agent(agent_id)

    async def list_models(self) -> Sequence[str]:
        return await self.inner.list_models()

    async def create_conversation(self, new: NewConversation) -> Conversation:
        return await self.inner.create_conversation(new)

    async def get_conversation(self, conversation_id: str) -> Conversation:
        return await self.inner.get_conversation(conversation_id)

    async def owner_of(self, conversation_id: str) -> str:
        return await self.inner.owner_of(conversation_id)

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        return await self.inner.list_conversations(query)

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        return await self.inner.update_conversation(conversation_id, changes)

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        return await self.inner.fork(ref, at_message=at_message, hidden=hidden)

    async def delete_conversation(self, conversation_id: str) -> None:
        await self.inner.delete_conversation(conversation_id)

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        return await self.inner.list_messages(ref, query)

    async def list_with_owner(self, conversation_id: str, query: MessageQuery) -> tuple[str, Page[Message]]:
        return await self.inner.list_with_owner(conversation_id, query)

    async def search_messages(self, search: MessageSearch) -> Sequence[FoundMessage]:
        return await self.inner.search_messages(search)

    async def check_message(self, message: OutgoingMessage) -> None:
        await self.inner.check_message(message)

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> TurnStream:
        return self.inner.send(ref, message)

    def resume(self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int) -> TurnStream:
        return self.inner.resume(ref, message, run_id=run_id, after=after)

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        return await self.inner.run_of_otid(ref, otid)

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        return await self.inner.list_approvals(ref)

    def respond(self, ref: ConversationRef, approvals: Approvals) -> TurnStream:
        return self.inner.respond(ref, approvals)

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        return await self.inner.cancel(ref, run_id)

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        return await self.inner.compact(ref, settings)

    async def recompile(self, ref: ConversationRef, *, dry_run: bool = False) -> str:
        return await self.inner.recompile(ref, dry_run=dry_run)

    async def get_prompt(self, ref: ConversationRef) -> str:
        return await self.inner.get_prompt(ref)

    async def list_isolated_blocks(self, conversation: Conversation) -> Sequence[Block]:
        return await self.inner.list_isolated_blocks(conversation)

    async def get_context_use(self, ref: ConversationRef) -> ContextUse | None:
        return await self.inner.get_context_use(ref)

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        return await self.inner.list_runs(ref, limit=limit)

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        return await self.inner.get_run(ref, run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        return await self.inner.list_run_chunks(ref, run_id)
