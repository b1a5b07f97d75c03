"""The tool that finds messages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations.lookup import find_agent, locate
from letta_conversations_mcp.conversations.search import (
    SNIPPET_CHARS,
    Findings,
    check_search_cursor,
    read_bound,
    search,
    snippet,
)
from letta_conversations_mcp.conversations.transcript import SPEAKER, body, cut
from letta_conversations_mcp.core.model import (
    ConversationRef,
    FoundMessage,
    MessageKind,
    MessageSearch,
    SearchMode,
)
from letta_conversations_mcp.tools.progress import heartbeat
from letta_conversations_mcp.tools.tool import (
    RESERVED_CHARS,
    Result,
    ToolContext,
    ToolSpec,
    services_of,
)

ROW_CHARS = 280
"""What a found message costs beside its snippet, in either form of the answer: its ids, most of all."""

NAMED = 5
"""Conversations that a note names."""


class FoundRow(Result):
    conversation_id: str
    message_id: str
    kind: MessageKind
    text: str = ""
    at: str = ""
    agent_id: str = ""

    @classmethod
    def of(cls, found: FoundMessage, query: str, size: int, *, with_agent: bool) -> FoundRow:
        return cls(
            conversation_id=found.conversation_id,
            message_id=found.message.id,
            kind=found.message.kind,
            text=cut(snippet(body(found.message), query, size), 2 * size),
            at=found.message.at[:16],
            agent_id=found.agent_id if with_agent else "",
        )

    def to_text(self) -> str:
        place = " · ".join(filter(None, [self.conversation_id, self.agent_id, self.message_id]))
        return f"**{SPEAKER[self.kind]}** · {self.at.replace('T', ' ')} · {place}\n{self.text}"


class FoundList(Result):
    messages: tuple[FoundRow, ...] = ()
    note: str = ""
    cursor: str = ""
    next: str = ""

    def to_text(self) -> str:
        more = f"On from there: the same call with after={self.cursor!r}." if self.cursor else ""
        return "\n\n".join(filter(None, [*(row.to_text() for row in self.messages), self.note, more, self.next]))


async def search_messages(
    ctx: ToolContext,
    query: Annotated[str, Field(description="words, or what it is about", max_length=1_000)],
    conversation_id: Annotated[str, Field(description="only in it; 'default' with agent")] = "",
    agent: Annotated[str, Field(description="only of it: id or exact name")] = "",
    kinds: Annotated[list[MessageKind], Field(description="as in list_messages")] = [],
    start_date: Annotated[str, Field(description="e.g. 2026-11-21 or 2026-11-21T06:12:00Z")] = "",
    end_date: str = "",
    mode: SearchMode = "both",
    limit: Annotated[int, Field(ge=1, le=50)] = 10,
    after: Annotated[str, Field(description="cursor that an answer gave")] = "",
) -> FoundList:
    """Find messages by words or meaning, everywhere, of an agent or in a conversation. Returns snippets with ids, for
    list_messages and fork. A server without search is looked through for the words; the answer says how far."""
    services = services_of(ctx)
    ref = await _scope(ctx, conversation_id, agent)
    wanted = MessageSearch(
        query=query,
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        mode=mode,
        since=read_bound("start_date", start_date),
        until=read_bound("end_date", end_date, end=True),
        limit=limit,
    )
    async with heartbeat(ctx, "searching"):
        findings = await search(
            services.backend, wanted, frozenset(kinds), check_search_cursor(after, ref.conversation_id)
        )
    room = services.settings.max_output_chars - RESERVED_CHARS
    fitting = findings.found[: max(room // (ROW_CHARS + SNIPPET_CHARS // 2), 1)]
    size = min(SNIPPET_CHARS, (room // max(len(fitting), 1) - ROW_CHARS) // 2)
    rows = [FoundRow.of(each, query, size, with_agent=not ref.agent_id) for each in fitting]
    first = findings.found[0] if findings.found else None
    return FoundList(
        messages=tuple(rows),
        note=_note(findings, wanted),
        cursor=findings.cursor,
        next=f"Around the first: list_messages({_place(first)}, before=… or after={first.message.id!r})."
        if first
        else "",
    )


async def _scope(ctx: ToolContext, conversation_id: str, agent: str) -> ConversationRef:
    """Where to look; an empty id stands for everywhere."""
    backend = services_of(ctx).backend
    if conversation_id.strip():
        return await locate(backend, conversation_id, agent)
    owner = (await find_agent(backend, agent)).id if agent.strip() else ""
    return ConversationRef(conversation_id="", agent_id=owner)


def _place(found: FoundMessage) -> str:
    agent = f", agent={found.agent_id!r}" if found.conversation_id == "default" else ""
    return f"conversation_id={found.conversation_id!r}{agent}"


def _note(findings: Findings, wanted: MessageSearch) -> str:
    """What was looked through, and what was not."""
    if findings.scanned is None:
        return "" if findings.found else "Nothing was found."
    where = "" if wanted.conversation_id else f" in {findings.conversations} conversations"
    end = "older ones were not looked at" if findings.cursor else "that is all there are"
    sentences = [] if findings.found else ["Nothing was found."]
    sentences.append(
        f"This server has no search of its own{', and none by meaning' if wanted.mode == 'meaning' else ''}: the words "
        f"were looked for in {findings.scanned} messages{where}, the newest first; {end}."
    )
    if findings.cut_short:
        named = ", ".join(findings.cut_short[:NAMED]) + (", …" if len(findings.cut_short) > NAMED else "")
        sentences.append(f"Only the newest messages of {named}: a search with its conversation_id goes deeper.")
    if findings.left_out:
        sentences.append("Conversations that never had a message of their own were left out.")
    if not wanted.conversation_id and not wanted.agent_id:
        sentences.append("Default conversations were left out: they need the agent.")
    return " ".join(sentences)


SEARCHING_TOOLS = (ToolSpec(search_messages, title="Search messages", read_only=True),)
