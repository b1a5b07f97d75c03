"""The copy of an agent's memory in a conversation's system prompt: its age, and what refreshing it changes.

Pure, except for `recompile`. Letta compiles the prompt when a conversation is opened. It does not follow the memory
after that, until it is recompiled on request (0.16.8).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Refused
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Block, ConversationRef

_COMPILED_AT = re.compile(
    r"- System prompt last recompiled: ([0-9-]{10} [0-9]{2}:[0-9]{2}:[0-9]{2} [AP]M) [A-Z]{1,5}([+-][0-9]{4})"
)
_BLOCKS = ("<memory_blocks>\n", "\n</memory_blocks>")
_LABEL = re.compile(r"<(\w[\w./-]*)>")
# Lines that differ in every prompt and do not concern the memory.
_VOLATILE = re.compile(
    r"- (?:System prompt last recompiled|CONVERSATION_ID|AGENT_ID):|- \d+ previous messages between|- chars_current="
)


@dataclass(frozen=True)
class Recompilation:
    """`changes` is the difference to the old prompt, "" if there is none, None if the old prompt is unknown."""

    prompt: str
    changes: str | None


async def recompile(backend: Backend, ref: ConversationRef, *, dry_run: bool) -> Recompilation:
    """Refresh the copy, or with `dry_run` only return what that would change.

    Raises:
        NotFound: there is no such conversation.
        Refused: the new copy would have the agent's value in place of an isolated one, as on 0.16.8.
    """
    if ref.conversation_id != DEFAULT_CONVERSATION:
        isolated = await backend.list_isolated_blocks(await backend.get_conversation(ref.conversation_id))
        if isolated:
            _check_isolated(isolated, await backend.recompile(ref, dry_run=True))
    before = await backend.get_prompt(ref)
    prompt = await backend.recompile(ref, dry_run=dry_run)
    return Recompilation(prompt=prompt, changes=memory_changes(before, prompt) if before else None)


def _check_isolated(isolated: Sequence[Block], prompt: str) -> None:
    sections = _sections(prompt)
    for block in isolated:
        lines = sections.get(block.label, [])
        value = lines[lines.index("<value>") + 1 : -1] if "<value>" in lines else lines
        if value != _lines(block.value):
            raise Refused(
                "refresh the copy of the memory",
                f"this server would put the agent's own value of the block {block.label!r} into it, in place of this "
                "conversation's isolated one",
                "Nothing was changed, and trying again will not help.",
            )


def compiled_at(prompt: str) -> str:
    """When a prompt was compiled, in ISO 8601; "" if it does not say. Blocks may hold such a line too, and come
    before."""
    found = _COMPILED_AT.findall(prompt)
    if not found:
        return ""
    try:
        return datetime.strptime(" ".join(found[-1]), "%Y-%m-%d %I:%M:%S %p %z").isoformat()
    except ValueError:
        return ""


def memory_changes(before: str, after: str) -> str:
    """A line diff (`-` removed, `+` added) under the label of each block. Blocks are compared one by one, because their
    order changes with every edit (0.16.8)."""
    old, new = _sections(before), _sections(after)
    parts: list[str] = []
    for label in sorted(old | new):
        if different := _differences(old.get(label, []), new.get(label, [])):
            parts += [f"<{label}>"] if label else []
            parts += different
    return "\n".join(parts)


def _sections(prompt: str) -> dict[str, list[str]]:
    """The lines of every block by its label, and those outside of blocks under ""."""
    opening, closing = _BLOCKS
    start, end = prompt.find(opening), prompt.rfind(closing)
    if start < 0 or end < start + len(opening):
        return {"": _lines(prompt)}
    rest = prompt[:start] + prompt[end + len(closing) :]
    return {"": _lines(rest)} | dict(_blocks(prompt[start + len(opening) : end].split("\n")))


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The blocks, each from `<label>` to the next `</label>`. Agents write the content, so this takes linear time for
    any text."""
    ends: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if line.startswith("</"):
            ends.setdefault(line, []).append(number)
    number = 0
    while number < len(lines):
        label = _LABEL.fullmatch(lines[number])
        closing = ends.get(f"</{label[1]}>", []) if label else []
        place = bisect_right(closing, number)
        if label and place < len(closing):
            yield label[1], _lines("\n".join(lines[number + 1 : closing[place]]))
            number = closing[place]
        number += 1


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not _VOLATILE.match(line)]


def _differences(old: Sequence[str], new: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for kind, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            lines += [f"- {line}" for line in old[old_from:old_to]] + [f"+ {line}" for line in new[new_from:new_to]]
    return lines
