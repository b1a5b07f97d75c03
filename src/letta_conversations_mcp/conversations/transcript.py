"""Messages as text for a reader: Markdown, oldest first, within a budget of characters.

Pure. If the texts do not fit, short messages stay whole and the longest are cut, all to the same length, so that a page
shows something of every message.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC
from functools import lru_cache

from pydantic_core import to_json

from letta_conversations_mcp.core.model import Message, MessageKind, ToolCall
from letta_conversations_mcp.core.times import parse_time
from letta_conversations_mcp.core.untrusted import MARK, entry, quoted

CUT = "…"
"""Marks the end of a text that was cut."""

SPEAKER: dict[MessageKind, str] = {
    "user": "user",
    "assistant": "agent",
    "reasoning": "agent, thinking",
    "tool": "tool",
    "approval": "approval",
    "system": "system",
    "summary": "summary of older messages",
    "other": "other",
}


RESERVED_CHARS = 1_000
"""Characters of every answer reserved for ids, cursors, notes and the JSON around them."""

MESSAGE_CHARS = 60
"""Characters that a message needs beside its text, in either form of an answer."""


def length(text: str, *, as_entry: bool = False) -> int:
    """How much of a budget a text uses: its characters in JSON. An answer contains it once as it is and once with every
    line marked, twice in an entry; the longer one counts, without the mark of the first line."""
    if text.isprintable():
        # One line without escapes, the usual case, is as long when it is marked.
        return _in_json(text)
    return max(_in_json(text), _in_json(quoted(entry(text) if as_entry else text)) - len(MARK))


def _in_json(text: str) -> int:
    # A lone surrogate in a broken text cannot be sent and becomes one replacement character.
    return len(to_json(text.encode("utf-8", "replace").decode()).decode()) - 2


def fair_share(lengths: Sequence[int], budget: int) -> int:
    """The largest length for each text with which all together fit the budget; at least 1.

    Texts shorter than an equal share leave their rest to the longer ones.
    """
    remaining = max(budget, len(lengths), 1)
    for index, size in enumerate(sorted(lengths)):
        share = remaining // (len(lengths) - index)
        if size > share:
            return max(share, 1)
        remaining -= size
    return max(lengths, default=1)


def cut(text: str, limit: int, *, as_entry: bool = False) -> str:
    """The text if its `length` is at most `limit`, else its beginning followed by CUT, together at most `limit`."""

    def used(size: int) -> int:
        return length(text[:size], as_entry=as_entry)

    if used(len(text)) <= limit:
        return text
    limit -= len(CUT)
    if limit < 0:
        return ""
    fitting = bisect_right(range(min(len(text), limit) + 1), limit, key=used) - 1
    return text[:fitting] + CUT


def shorten(texts: Sequence[str], budget: int) -> list[str]:
    """The texts, the longest cut so that all together fit the budget."""
    lengths = [length(text) for text in texts]
    share = fair_share(lengths, budget)
    return [text if size <= share else cut(text, share) for text, size in zip(texts, lengths, strict=True)]


def fit(bodies: Sequence[str], budget: int, *, beside: int = MESSAGE_CHARS) -> list[str]:
    """The bodies of messages, cut to fit into an answer of `budget` characters; `beside` is what each message needs
    beside its body."""
    return shorten(bodies, budget - RESERVED_CHARS - beside * len(bodies))


# A page states each of its times twice, and is often read again.
@lru_cache(1_000)
def minute(at: str) -> str:
    """A time in the form that all answers use: ISO 8601 in UTC, to the minute, such as `2026-11-21T06:12Z`. Any other
    text is returned as it is."""
    read = parse_time(at)
    return read.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ") if read else at


def call_line(call: ToolCall) -> str:
    """A call and its result as an entry of a text: `name(arguments) → result`."""
    arguments = "" if call.arguments in ("", "{}") else call.arguments
    head = f"{call.name or 'call'}({arguments})" if call.arguments else (call.name or "call")
    if call.status == "pending":
        return entry(head)
    outcome = {"success": "", "error": "error: ", "denied": "denied: "}[call.status]
    return entry(f"{head} → {outcome}{call.result}")


def body(message: Message) -> str:
    """The content of a message, without its author and time. In a message about tool calls every line that is not
    marked is a call, or the decision about one."""
    text = entry(message.text) if message.kind in ("tool", "approval") else message.text
    return "\n".join(filter(None, [text, *map(call_line, message.calls)])) if message.calls else text


def rest_of_body(message: Message, start: int) -> str:
    """The body from its character `start` on. A rest that begins inside a line about a tool call is marked like a
    further line of it, so it does not look like a call of its own."""
    whole = body(message)
    rest = whole[start:]
    if not rest or start == 0 or message.kind not in ("tool", "approval"):
        return rest
    return rest if whole[start - 1] == "\n" else MARK + rest


def heading(message: Message, *, with_id: bool = False) -> str:
    at = f" · {minute(message.at)}" if message.at else ""
    speaker = SPEAKER[message.kind] if message.kind != "other" else message.type.removesuffix("_message") or "other"
    return f"**{speaker}**{at}{f' · {message.id}' if with_id else ''}"


def to_markdown(messages: Sequence[Message], texts: Sequence[str], *, with_ids: bool = False) -> str:
    """A transcript: for every message its author, time and text, with every line of the text marked as quoted. The
    caller has cut the texts to fit."""
    parts = zip(messages, texts, strict=True)
    return "\n\n".join(f"{heading(message, with_id=with_ids)}\n{quoted(text)}" for message, text in parts)
