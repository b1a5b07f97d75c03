"""The parts of a turn in the fake Letta server: a message as it is stored, as the model sees it, and as deltas."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.rig.fake_failures import refused_input
from tests.rig.fake_run import Json, new_id
from tests.rig.fake_store import Row
from tests.rig.model import ModelCall


def stored_part(part: Json) -> Json:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"], "signature": None}
    source = part["source"]
    if source["type"] == "url":
        # The server fetches it itself; nothing outside can be reached from here.
        problem = (
            f"INVALID_ARGUMENT: Failed to fetch image from {source['url']}: "
            "Unexpected error: All connection attempts failed"
        )
        raise refused_input(400, problem, problem)
    kept = {"type": "letta", "file_id": new_id("file"), "media_type": source["media_type"], "data": source["data"]}
    return {"type": "image", "source": {**kept, "detail": None}}


def model_call(context: Sequence[Row], handle: str, system: str | None = None) -> ModelCall:
    messages = tuple((row.role, row.model_text) for row in context if row.role != "approval")
    if system is not None:
        messages = (("system", system), *messages[1:])
    # A summary is stored under a role of its own; the model sees it as the user's.
    messages = tuple(("user" if role == "summary" else role, text) for role, text in messages)
    asked = [text for role, text in messages if role == "user"]
    return ModelCall(text=asked[-1] if asked else "", messages=messages, model=handle.split("/")[-1])


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def call_deltas(call: Json, arguments: str, *, nulls: bool) -> list[Json]:
    """The name first, then the arguments in two pieces; an approval request has explicit nulls."""
    call_id, middle = call["tool_call_id"], len(arguments) // 2
    pieces = [piece for piece in (arguments[:middle], arguments[middle:]) if piece]
    if nulls:
        start: Json = {"name": call["name"], "arguments": None, "tool_call_id": call_id}
        return [start, *({"name": None, "arguments": piece, "tool_call_id": call_id} for piece in pieces)]
    start = {"name": call["name"], "tool_call_id": call_id}
    return [start, *({"arguments": piece, "tool_call_id": call_id} for piece in pieces)]
