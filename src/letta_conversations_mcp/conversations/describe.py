"""Everything about one conversation, gathered from several requests.

What the server does not report is left out. If a request fails, only its own part of the answer is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from letta_conversations_mcp.conversations.memory import compiled_at
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Agent,
    Block,
    ContextUse,
    Conversation,
    ConversationRef,
    Message,
    MessageQuery,
    Page,
    Run,
    ToolCall,
)

COUNTED = 500
"""Messages to count, in one request. If there are more, the count is a lower bound."""

TOOL_PART = ":tool:"
"""In the id of a listed message that is a part of the one before it (Letta Code 0.34.12)."""

T = TypeVar("T")


@dataclass
class Description:
    """`conversation` is None for an agent's default one. `unknown` names what could not be read."""

    ref: ConversationRef
    agent: Agent | None = None
    conversation: Conversation | None = None
    isolated: Sequence[Block] = ()
    context: ContextUse | None = None
    messages: int | None = None
    by_kind: dict[str, int] = field(default_factory=dict[str, int])
    """How many of these messages are of each kind; see `kinds_of`."""
    more_messages: bool = False
    run: Run | None = None
    approvals: Sequence[ToolCall] = ()
    memory_as_of: str = ""
    unknown: list[str] = field(default_factory=list[str])

    @property
    def context_ids(self) -> tuple[str, ...] | None:
        """The ids of the messages that the agent sees, oldest first; None if the server did not report them."""
        place = self.conversation if self.conversation is not None else self.agent
        return None if place is None else place.in_context

    @property
    def model(self) -> str:
        """The model that answers: the conversation's own, or the agent's."""
        own = self.conversation.model if self.conversation else ""
        return own or (self.agent.model if self.agent else "")

    @property
    def context_limit(self) -> int | None:
        """In tokens: the conversation's own, otherwise that of its latest turn, otherwise the agent's."""
        own = self.conversation.context_window_limit if self.conversation else None
        used = self.context.limit if self.context else None
        return own or used or (self.agent.context_window if self.agent else None)


def kinds_of(messages: Sequence[Message]) -> dict[str, str]:
    """Every message as the server stores it, by id, with its kind: `user` (what was sent to the agent), `agent` (a step
    of it: what it thought, said and called), `tool` (results), `summary` or `other`. Not the system prompt."""
    kinds: dict[str, str] = {}
    for each in messages:
        if each.kind == "system":
            continue
        if each.type == "tool_return_message":
            kind = "tool"
        elif each.type == "approval_response_message":
            kind = "user"
        else:
            kind = each.kind if each.kind in ("user", "summary", "other") else "agent"
        kinds.setdefault(each.id.partition(TOOL_PART)[0], kind)
    return kinds


async def describe(backend: Backend, ref: ConversationRef) -> Description:
    """Raises what the backend's get_conversation raises (get_agent's, for a default conversation)."""
    facts = Description(ref)
    if ref.conversation_id == DEFAULT_CONVERSATION:
        facts.agent = await backend.get_agent(ref.agent_id)
    else:
        facts.conversation = await backend.get_conversation(ref.conversation_id)

    async def ask(what: str, question: Callable[[], Awaitable[T]], take: Callable[[T], None]) -> None:
        try:
            take(await question())
        except ConversationError:
            facts.unknown.append(what)

    def take_agent(agent: Agent) -> None:
        facts.agent = agent

    def take_blocks(blocks: Sequence[Block]) -> None:
        facts.isolated = blocks

    def take_context(use: ContextUse | None) -> None:
        facts.context = use

    def take_messages(page: Page[Message]) -> None:
        kinds = kinds_of(page.items)
        if not page.more:
            # A fork may have messages in context that its list lacks (0.16.8).
            kinds |= {each: "other" for each in facts.context_ids or () if each not in kinds}
        facts.messages = len(kinds)
        facts.by_kind = dict(Counter(kinds.values()))
        facts.more_messages = page.more

    def take_approvals(calls: Sequence[ToolCall]) -> None:
        facts.approvals = calls

    def take_runs(runs: Sequence[Run]) -> None:
        facts.run = next((run for run in runs if run.active), None)

    def take_prompt(prompt: str) -> None:
        facts.memory_as_of = compiled_at(prompt)

    async with anyio.create_task_group() as tasks:
        if facts.agent is None:
            tasks.start_soon(ask, "its agent", lambda: backend.get_agent(ref.agent_id), take_agent)
        if (conversation := facts.conversation) and conversation.isolated_block_ids:
            tasks.start_soon(
                ask, "its isolated blocks", lambda: backend.list_isolated_blocks(conversation), take_blocks
            )
        tasks.start_soon(ask, "how full its context is", lambda: backend.get_context_use(ref), take_context)
        newest = MessageQuery(limit=COUNTED)
        tasks.start_soon(ask, "its messages", lambda: backend.list_messages(ref, newest), take_messages)
        tasks.start_soon(ask, "whether a tool call waits", lambda: backend.list_approvals(ref), take_approvals)
        tasks.start_soon(ask, "whether a turn runs", lambda: backend.list_runs(ref, limit=2), take_runs)
        tasks.start_soon(ask, "the age of its copy of the memory", lambda: backend.get_prompt(ref), take_prompt)
    facts.unknown.sort()
    return facts
