"""Reading Letta's message JSON, which is the same in streams and in lists, on every server.

Nothing here raises on odd input: a field of a wrong type reads as absent, an unknown kind as "other". A server newer
than this code may send anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast

from letta_conversations_mcp.core.model import Chunk, Message, MessageKind, ToolCall, TurnFailure

KIND_OF_TYPE: dict[str, MessageKind] = {
    "user_message": "user",
    "assistant_message": "assistant",
    "reasoning_message": "reasoning",
    "hidden_reasoning_message": "reasoning",
    "tool_call_message": "tool",
    "tool_return_message": "tool",
    "approval_request_message": "approval",
    "approval_response_message": "approval",
    "system_message": "system",
    "summary_message": "summary",
    "event_message": "other",
}


def text_field(data: Mapping[str, object], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def mapping_field(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = data.get(name)
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, object]]:
    """The objects in a list; empty for anything else."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Mapping[str, object]", item) for item in items if isinstance(item, Mapping)]


def int_field(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of parts of which images are named, not shown."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join([_part_text(part) for part in cast("list[object]", content)])


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    fields = cast("Mapping[str, object]", part)
    return " [image]" if fields.get("type") == "image" else text_field(fields, "text")


def calls_of(chunk: Chunk) -> Iterator[Mapping[str, object]]:
    """The tool calls, or fragments of calls, in a chunk.

    `tool_calls` is a list in step mode and one object in token mode; older servers have `tool_call` only (seen on
    0.16.8).
    """
    several = chunk.get("tool_calls")
    if isinstance(several, Mapping):
        yield cast("Mapping[str, object]", several)
    elif calls := mappings(several):
        yield from calls
    elif isinstance(chunk.get("tool_call"), Mapping):
        yield mapping_field(chunk, "tool_call")


def returns_of(chunk: Chunk) -> Iterator[ToolCall]:
    """The results in a tool return: one, or several of parallel calls."""
    for entry in mappings(chunk.get("tool_returns")) or [chunk]:
        yield ToolCall(
            id=text_field(entry, "tool_call_id"),
            name=text_field(entry, "name") or text_field(chunk, "name"),
            status=_return_status(entry),
            result=text_of(entry.get("tool_return")),
        )


DENIED = "Error: request to call tool denied."
"""Prefix of the result of a denied call (0.16.8, Letta Code 0.34.12)."""


def _return_status(entry: Mapping[str, object]) -> Literal["success", "error", "denied"]:
    if entry.get("status") != "error":
        return "success"
    return "denied" if text_of(entry.get("tool_return")).startswith(DENIED) else "error"


def read_failure(data: Mapping[str, object]) -> TurnFailure:
    """The error of a stream's error event, or of a failed run's metadata."""
    return TurnFailure(
        type=text_field(data, "error_type"),
        message=text_field(data, "message"),
        detail=text_field(data, "detail"),
        stored=data.get("stored") is True,
    )


def read_message(chunk: Chunk) -> Message:
    """A listed message as our own type."""
    message_type = text_field(chunk, "message_type")
    kind = KIND_OF_TYPE.get(message_type, "other")
    text, calls = "", tuple[ToolCall, ...]()
    if kind == "summary":
        text = text_field(chunk, "summary") or text_of(chunk.get("content"))
    elif kind == "reasoning":
        text = text_field(chunk, "reasoning") or text_field(chunk, "hidden_reasoning") or "(hidden)"
    elif message_type == "tool_return_message":
        calls = tuple(returns_of(chunk))
    elif message_type == "approval_response_message":
        text = _decision(chunk)
    elif kind in ("tool", "approval"):
        calls = tuple(
            ToolCall(id=text_field(c, "tool_call_id"), name=text_field(c, "name"), arguments=text_field(c, "arguments"))
            for c in calls_of(chunk)
        )
    else:
        text = text_of(chunk.get("content"))
    return Message(
        id=text_field(chunk, "id"),
        kind=kind,
        type=message_type,
        at=text_field(chunk, "date"),
        text=text,
        calls=calls,
        otid=text_field(chunk, "otid"),
        run_id=text_field(chunk, "run_id"),
    )


def _decision(chunk: Chunk) -> str:
    answers = mappings(chunk.get("approvals")) or [chunk]
    words = ["approved" if answer["approve"] is True else "denied" for answer in answers if "approve" in answer]
    return ": ".join(filter(None, [", ".join(words), text_field(chunk, "reason")]))
