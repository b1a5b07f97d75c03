"""Messages of a conversation as entries: grouped by speaker, reasoning and tool calls folded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from letta_conversations_mcp.cli.chat.entries import AgentText, Break, Fold, Folds, Heading, Note, Said
from letta_conversations_mcp.cli.chat.formatting import clock, one_line
from letta_conversations_mcp.cli.chat.turn_display import fold_call
from letta_conversations_mcp.core.model import ToolCall
from letta_conversations_mcp.tools.results.viewer import ViewedCall, ViewedMessage


def call_of(call: ViewedCall) -> ToolCall:
    return ToolCall(
        id=call.tool_call_id, name=call.name, arguments=call.arguments, status=call.status, result=call.result
    )


def folds_of(message: ViewedMessage) -> list[Fold]:
    """What is folded of a message."""
    if message.kind == "reasoning":
        return [Fold("reasoning", message.text)]
    # A call that waits is shown as a card where the conversation ends.
    return [fold_call(call_of(call)) for call in message.calls if call.status != "pending"]


def entries_of(messages: Sequence[ViewedMessage], agent: str) -> list[RenderableType]:
    """The messages, oldest first, as they are shown."""
    entries: list[RenderableType] = []
    folds: list[Fold] = []
    has_heading = False

    def flush() -> None:
        if folds:
            entries.append(Folds(tuple(folds)))
            folds.clear()

    for message in messages:
        at = clock(message.at)
        if message.kind in ("user", "summary"):
            flush()
            has_heading = False
            entries.append(
                Said(message.text, at) if message.kind == "user" else Break(f"compacted, {at}", message.text)
            )
            continue
        new = folds_of(message)
        if not new and message.kind != "assistant":
            if message.text.strip():
                entries.append(Note(f"{message.kind}: {one_line(message.text)}"))
            continue
        if not has_heading:
            entries.append(Heading(agent, at))
            has_heading = True
        folds += new
        if message.kind == "assistant":
            flush()
            is_text = bool(entries) and isinstance(entries[-1], AgentText)
            entries.append(AgentText(message.text, spaced=is_text))
            if message.cut:
                entries.append(Note("The message is longer; /export writes all of it to a file."))
    flush()
    return entries
