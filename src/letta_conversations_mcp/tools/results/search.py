"""What search_messages answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from letta_conversations_mcp.conversations.search import SNIPPET_CHARS, SearchResult, snippet
from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, SPEAKER, body, cut, minute
from letta_conversations_mcp.core.model import FoundMessage, MessageKind, MessageSearch
from letta_conversations_mcp.core.untrusted import quoted
from letta_conversations_mcp.tools.results.result import Result, counted

NAME_CHARS = 60
"""Characters shown of a name beside its id."""

ROW_CHARS = 470
"""Characters that a found message needs beside its snippet, in either form: its ids and names, most of all."""


NAMED = 5
"""How many conversations a note names."""


class SearchRow(Result):
    conversation_id: str
    message_id: str
    kind: MessageKind
    text: str = ""
    at: str = ""
    agent_id: str = ""
    agent_name: str = ""
    summary: str = ""

    @classmethod
    def of(cls, found: FoundMessage, query: str, size: int, names: Mapping[str, str]) -> SearchRow:
        return cls(
            conversation_id=found.conversation_id,
            message_id=found.message.id,
            kind=found.message.kind,
            text=cut(snippet(body(found.message), query, size), 2 * size),
            at=minute(found.message.at),
            agent_id=found.agent_id,
            agent_name=cut(names.get(found.agent_id, ""), NAME_CHARS),
            summary=cut(names.get(found.conversation_id, ""), NAME_CHARS),
        )

    def to_text(self) -> str:
        conversation = " ".join(filter(None, [self.conversation_id, repr(self.summary) if self.summary else ""]))
        agent = " ".join(filter(None, [self.agent_id, repr(self.agent_name) if self.agent_name else ""]))
        place = " · ".join(filter(None, [conversation, agent, self.message_id]))
        return f"**{SPEAKER[self.kind]}** · {self.at} · {place}\n{quoted(self.text)}"


class SearchResults(Result):
    messages: tuple[SearchRow, ...] = ()
    note: str = ""
    cursor: str = ""
    next: str = ""

    @classmethod
    def of(cls, result: SearchResult, wanted: MessageSearch, budget: int, names: Mapping[str, str]) -> SearchResults:
        """What was found, within `budget` characters; `names` are those of its agents and conversations, by id."""
        room = budget - RESERVED_CHARS
        fitting = result.found[: max(room // (ROW_CHARS + SNIPPET_CHARS // 2), 1)]
        size = min(SNIPPET_CHARS, (room // max(len(fitting), 1) - ROW_CHARS) // 2)
        first = result.found[0] if result.found else None
        return cls(
            messages=tuple(SearchRow.of(each, wanted.query, size, names) for each in fitting),
            note=_note(result, wanted),
            cursor=result.cursor,
            next=" ".join(
                [
                    *([f"More: the same call with after={result.cursor!r}."] if result.cursor else []),
                    *([_around(first)] if first else []),
                ]
            ),
        )

    def to_text(self) -> str:
        ours = "\n".join(filter(None, [self.note, self.next]))
        return "\n\n".join(filter(None, [ours, *(row.to_text() for row in self.messages)]))


def _around(found: FoundMessage) -> str:
    place, message_id = found.ref.in_call, found.message.id
    return f"Around the first: list_messages({place}, before={message_id!r}), and the same with after."


def _note(result: SearchResult, wanted: MessageSearch) -> str:
    """What was searched, and what was not."""
    if result.scanned is None:
        return "" if result.found else "Nothing was found."
    where = "" if wanted.conversation_id else f" in {counted(result.conversations, 'conversation')}"
    end = "older ones were not looked at" if result.cursor or result.cut_short else "that is all there are"
    sentences = [] if result.found else ["Nothing was found."]
    sentences.append(
        f"This server has no search of its own{', and none by meaning' if wanted.mode == 'meaning' else ''}: the words "
        f"were looked for in {counted(result.scanned, 'message')}{where}, the newest first; {end}."
    )
    if unreadable := result.unreadable:
        first = next(iter(unreadable.values()))
        sentences.append(f"{len(unreadable)} could not be read, and were left out: {_named(unreadable)}. {first}")
    if result.cut_short:
        named = _named(result.cut_short)
        sentences.append(f"Only the newest messages of {named}: a search with its conversation_id goes deeper.")
    if result.left_out:
        sentences.append("Conversations that never had a message of their own were left out.")
    if not wanted.conversation_id and not wanted.agent_id:
        sentences.append("Default conversations were left out: they need the agent.")
    return " ".join(sentences)


def _named(conversation_ids: Collection[str]) -> str:
    return ", ".join(list(conversation_ids)[:NAMED]) + (", …" if len(conversation_ids) > NAMED else "")
