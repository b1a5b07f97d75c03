"""The file format of an exported conversation, and how to resume an interrupted export.

The file itself says where to resume: every message begins with a line that has its id. The last message may be
incomplete, so it is always written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Literal

from letta_conversations_mcp.conversations.history import DEFAULT_KINDS
from letta_conversations_mcp.conversations.transcript import body, heading
from letta_conversations_mcp.core.model import MESSAGE_ID, ConversationRef, Message, MessageKind
from letta_conversations_mcp.core.untrusted import escaped_json, quoted

Format = Literal["md", "jsonl"]

KINDS: dict[Format, frozenset[MessageKind] | None] = {"md": DEFAULT_KINDS, "jsonl": None}
"""Which kinds of messages go into a file; None is all. A transcript to read leaves out the thinking and the system
prompt."""

_ID = MESSAGE_ID.pattern
_BEGINNING: dict[Format, re.Pattern[bytes]] = {
    "md": re.compile(rf"<!-- ({_ID}) -->\n".encode()),
    "jsonl": re.compile(rf'\{{"id":"({_ID})"'.encode()),
}


class NotAnExport(Exception):
    """The file is not an export of this conversation. The text says what it is, for a person."""


@dataclass(frozen=True)
class Resumption:
    """The complete part of a file: `size` bytes, which end with the message `after` ("" for none). The message
    `expected` follows and is written again."""

    size: int
    after: str = ""
    expected: str = ""


def head(form: Format, ref: ConversationRef) -> bytes:
    """How a file begins."""
    return f"<!-- conversation {ref} -->\n".encode() if form == "md" else b""


def entry(form: Format, message: Message) -> bytes:
    """A message in the format of the file."""
    if form == "jsonl":
        line = json.dumps(message.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
        return f"{escaped_json(line)}\n".encode()
    return f"\n<!-- {message.id} -->\n{heading(message)}\n\n{quoted(body(message))}\n".encode()


def find_end(file: BinaryIO, form: Format, ref: ConversationRef) -> Resumption:
    """Read through a file, line by line, and find where to go on. Raises NotAnExport."""
    beginning = head(form, ref)
    start = file.readline(len(beginning)) if beginning else b""
    if not beginning.startswith(start):
        raise NotAnExport(f"it does not begin as an export of this conversation ({ref}) does")
    if len(start) < len(beginning):
        return Resumption(0)
    return _last_message(file, form, len(start))


def _last_message(lines: Iterable[bytes], form: Format, offset: int) -> Resumption:
    """Where the last message begins, all of its parts together."""
    found = Resumption(offset)
    for line in lines:
        begins = _BEGINNING[form].match(line) if line.endswith(b"\n") else None
        if begins is None and form == "jsonl":
            if line.endswith(b"\n") or not _may_begin(line):
                raise NotAnExport("it has a line that is no exported message")
            break
        if begins is not None and (message_id := begins[1].decode()) != found.expected:
            # The empty line before it belongs to it.
            found = Resumption(offset - (form == "md"), found.expected, message_id)
        offset += len(line)
    return found


def _may_begin(line: bytes) -> bool:
    """True if an incomplete line can be one of ours."""
    return line.startswith(b'{"id":"') or b'{"id":"'.startswith(line)
