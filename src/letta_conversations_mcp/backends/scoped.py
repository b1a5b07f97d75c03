"""A backend restricted to an allow-list of agents.

Agents outside the list, their conversations and their runs do not exist for the caller: the errors are the same as for
something that Letta does not have. Every operation is written out with its own check and nothing is forwarded by
default, so a new operation of the protocol is missing here until its check has been decided.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import TypeVar

import anyio

from letta_conversations_mcp.conversations.images import check_public
from letta_conversations_mcp.conversations.lookup import in_order
from letta_conversations_mcp.core.backend import Backend, NoSearch
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, NotFound, Refused
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
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

AGENTS_PAGE = 100
"""Agents per request while a list is filtered."""

AT_A_TIME = 8
"""Agents whose conversations are requested concurrently."""

T = TypeVar("T")


class ScopedBackend:
    """Only these agents of a backend, with their conversations."""

    def __init__(self, backend: Backend, agents: frozenset[str]) -> None:
        self._backend = backend
        self._agents = agents
        self._seen: set[tuple[ConversationRef, str]] = set()
        """Messages that were listed for this caller, so they are known to be in their conversation."""
        self.name = backend.name
        self.deletion: Deletion = backend.deletion
        self.keeps_tags = backend.keeps_tags
        self.isolates_blocks = backend.isolates_blocks
        self.no_models_advice = backend.no_models_advice
        self.image_note = backend.image_note
        self.new_agent_note = backend.new_agent_note

    async def check(self) -> Health:
        return await self._backend.check()

    # Agents

    async def list_agents(
        self, *, name: str = "", search: str = "", tag: str = "", after: str = "", limit: int = 20
    ) -> Page[Agent]:
        if after:
            self._check_agent(after)
        found: list[Agent] = []
        while True:
            page = await self._backend.list_agents(name=name, search=search, tag=tag, after=after, limit=AGENTS_PAGE)
            found += [each for each in page.items if each.id in self._agents]
            if len(found) > limit or len(found) == len(self._agents) or not page.more:
                return Page(items=tuple(found[:limit]), more=len(found) > limit)
            after = page.items[-1].id

    async def get_agent(self, agent_id: str) -> Agent:
        self._check_agent(agent_id)
        return await self._backend.get_agent(agent_id)

    async def create_agent(self, new: NewAgent) -> Agent:
        raise Refused("create an agent", "your token is for certain agents only", "A person has to make it.")

    async def delete_agent(self, agent_id: str) -> None:
        self._check_agent(agent_id)
        await self._backend.delete_agent(agent_id)

    async def list_models(self) -> Sequence[str]:
        return await self._backend.list_models()

    # Conversations

    async def create_conversation(self, new: NewConversation) -> Conversation:
        self._check_agent(new.agent_id)
        return await self._backend.create_conversation(new)

    async def get_conversation(self, conversation_id: str) -> Conversation:
        conversation = await self._backend.get_conversation(conversation_id)
        if conversation.agent_id not in self._agents:
            raise NotFound.conversation(conversation_id)
        return conversation

    async def owner_of(self, conversation_id: str) -> str:
        owner = await self._backend.owner_of(conversation_id)
        if owner not in self._agents:
            # Owners are remembered, and those of unknown conversations cannot be: without this request the time of the
            # answer would tell one from the other.
            await self._backend.get_conversation(conversation_id)
            raise NotFound.conversation(conversation_id)
        return owner

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        """Without an agent: a page per agent, merged, because a list of all conversations may have none of these
        agents' on a thousand pages. A cursor is a position in the order, so it may be another agent's conversation."""
        if query.after:
            await self.owner_of(query.after)
        if query.agent_id:
            return await self._backend.list_conversations(query) if query.agent_id in self._agents else Page(items=())
        if len(self._agents) == 1:
            return await self._backend.list_conversations(query.model_copy(update={"agent_id": min(self._agents)}))
        if query.order_by == "last_run_completion" and self._agents:
            raise InvalidArgument("order_by", "your token is for several agents; give one of them as agent for this.")
        pages = await self._of_each(
            lambda agent_id: self._backend.list_conversations(query.model_copy(update={"agent_id": agent_id}))
        )
        return _merged(pages, query)

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        await self.owner_of(conversation_id)
        return await self._backend.update_conversation(conversation_id, changes)

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        await self._check(ref)
        if at_message:
            await self._check_message(ref, at_message)
        return await self._backend.fork(ref, at_message=at_message, hidden=hidden)

    async def delete_conversation(self, conversation_id: str) -> None:
        await self.owner_of(conversation_id)
        await self._backend.delete_conversation(conversation_id)

    # Messages and runs

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        await self._check(ref)
        for cursor in filter(None, (query.before, query.after)):
            await self._check_message(ref, cursor)
        page = await self._backend.list_messages(ref, query)
        self._seen |= {(ref, each.id) for each in page.items}
        return page

    async def list_with_owner(self, conversation_id: str, query: MessageQuery) -> tuple[str, Page[Message]]:
        owner = await self.owner_of(conversation_id)
        return owner, await self.list_messages(ConversationRef(conversation_id=conversation_id, agent_id=owner), query)

    async def search_messages(self, search: MessageSearch) -> Sequence[FoundMessage]:
        """Without an agent: search each agent and interleave the results, best of each first."""
        if search.conversation_id:
            await self._check(ConversationRef(conversation_id=search.conversation_id, agent_id=search.agent_id))
        elif search.agent_id:
            self._check_agent(search.agent_id)
        if search.agent_id:
            found = await self._backend.search_messages(search)
        else:
            lists = await self._of_each(
                lambda agent_id: self._backend.search_messages(search.model_copy(update={"agent_id": agent_id}))
            )
            found = [each for row in zip_longest(*lists) for each in row if each is not None]
        return [each for each in found if each.agent_id in self._agents][: search.limit]

    async def check_message(self, message: OutgoingMessage) -> None:
        await check_public(message.images)
        await self._backend.check_message(message)

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        await self._check(ref)
        await check_public(message.images)
        async with self._backend.send(ref, message) as chunks:
            yield chunks

    @asynccontextmanager
    async def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        await self._check(ref)
        async with self._backend.resume(ref, message, run_id=run_id, after=after) as chunks:
            yield chunks

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        await self._check(ref)
        return await self._backend.run_of_otid(ref, otid)

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        await self._check(ref)
        return await self._backend.list_approvals(ref)

    @asynccontextmanager
    async def respond(self, ref: ConversationRef, approvals: Approvals) -> AsyncGenerator[AsyncIterator[Chunk]]:
        await self._check(ref)
        async with self._backend.respond(ref, approvals) as chunks:
            yield chunks

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        await self._check(ref)
        return await self._backend.cancel(ref, run_id)

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        await self._check(ref)
        return await self._backend.compact(ref, settings)

    async def recompile(self, ref: ConversationRef, *, dry_run: bool = False) -> str:
        await self._check(ref)
        return await self._backend.recompile(ref, dry_run=dry_run)

    async def get_prompt(self, ref: ConversationRef) -> str:
        await self._check(ref)
        return await self._backend.get_prompt(ref)

    async def list_isolated_blocks(self, conversation: Conversation) -> Sequence[Block]:
        await self.owner_of(conversation.id)
        return await self._backend.list_isolated_blocks(conversation)

    async def get_context_use(self, ref: ConversationRef) -> ContextUse | None:
        await self._check(ref)
        return await self._backend.get_context_use(ref)

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        await self._check(ref)
        return await self._backend.list_runs(ref, limit=limit)

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        await self._check(ref)
        return await self._backend.get_run(ref, run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        await self._check(ref)
        # Chunks are requested by the id of the run alone, so first make sure that it belongs to this conversation.
        await self._backend.get_run(ref, run_id)
        return await self._backend.list_run_chunks(ref, run_id)

    async def _of_each(self, asking: Callable[[str], Awaitable[T]]) -> list[T]:
        """The results of `asking` for all agents. Raises the first error."""
        answers: dict[str, T] = {}
        errors: list[Exception] = []
        places = anyio.CapacityLimiter(AT_A_TIME)

        async def ask(agent_id: str) -> None:
            async with places:
                if errors:
                    return
                try:
                    answers[agent_id] = await asking(agent_id)
                except (ConversationError, NoSearch) as error:
                    errors.append(error)

        async with anyio.create_task_group() as tasks:
            for agent_id in self._agents:
                tasks.start_soon(ask, agent_id)
        if errors:
            raise errors[0]
        return [answers[agent_id] for agent_id in sorted(answers)]

    def _check_agent(self, agent_id: str) -> None:
        if agent_id not in self._agents:
            raise NotFound.agent(agent_id)

    async def _check(self, ref: ConversationRef) -> None:
        """Raises NotFound unless the conversation belongs to one of the agents."""
        if ref.conversation_id == DEFAULT_CONVERSATION:
            self._check_agent(ref.agent_id)
        elif await self.owner_of(ref.conversation_id) != ref.agent_id:
            raise NotFound.conversation(ref.conversation_id)

    async def _check_message(self, ref: ConversationRef, message_id: str) -> None:
        """Raises NotFound unless the message is in this conversation. A server may accept any message as a cursor and
        continue from its time (seen on 0.16.8), which would reveal that it exists, and when. It is in this conversation
        if it follows the message before it."""
        if (ref, message_id) in self._seen:
            return
        before = await self._backend.list_messages(ref, MessageQuery(before=message_id, limit=1))
        last = before.items[-1].id if before.items else ""
        following = await self._backend.list_messages(ref, MessageQuery(after=last, order="asc", limit=1))
        if message_id not in {each.id for each in following.items}:
            raise NotFound.message(message_id)


def _merged(pages: Sequence[Page[Conversation]], query: ConversationQuery) -> Page[Conversation]:
    """One page in the server's order."""
    every = [each for page in pages for each in page.items]
    more = len(every) > query.limit or any(page.more for page in pages)
    return Page(items=tuple(in_order(every, query)[: query.limit]), more=more)
