"""The characters that a model reads for a page of messages, beside those of the Letta SDK's objects as JSON.

Some clients show the model the text of an answer, some its structured form: the larger one is judged.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from letta_client import AsyncLetta

from benchmarks.letta_server import PAGE, Place
from benchmarks.processes import StdioServer, letta_server, our_server
from benchmarks.table import Group, Row

GOAL = 0.2

ALL_KINDS = ("user", "assistant", "tool", "approval", "summary", "other", "reasoning", "system")


def measure(*, quick: bool) -> Group:
    """The newest page of two conversations: one as people have them, one of messages of a few words.

    By default we leave out the agent's thoughts, which the SDK's page has: so the page with all kinds is shown too.
    """
    del quick  # nothing is timed
    with letta_server() as letta, our_server(letta.base_url) as ours:
        ours.initialize()
        ours.list_tools()
        talk, small_talk = (asyncio.run(_sdk_items(letta, each)) for each in (letta.talk, letta.small_talk))
        variants = [
            _Variant("as people talk", _page(ours, letta.talk), talk),
            _Variant("as people talk, thoughts too", _page(ours, letta.talk, kinds=ALL_KINDS), talk),
            _Variant("messages of a few words", _page(ours, letta.small_talk), small_talk),
        ]
    return Group(
        f"Characters of a page of {PAGE} messages",
        "model_dump_json() of the Letta SDK's objects",
        [row for variant in variants for row in variant.rows()],
        [
            f"As people talk, {_share(talk)}; messages of a few words, {_share(small_talk)}.",
            *(note for variant in variants for note in variant.notes()),
        ],
    )


class _Variant:
    """A page of ours and the SDK's items of the same messages."""

    def __init__(self, name: str, result: dict[str, Any], items: list[str]) -> None:
        self._name = name
        self._items = items
        self._note = str(result["structuredContent"].get("note", ""))
        self._text: str = result["content"][0]["text"]
        self._data = json.dumps(result["structuredContent"], ensure_ascii=False, separators=(",", ":"))

    def rows(self) -> list[Row]:
        other = sum(map(len, self._items))
        forms = {"text": len(self._text), "JSON": len(self._data)}
        larger = max(forms.values())
        return [
            Row(f"{self._name}: {form}", size, other, size / other, "chars", GOAL if size == larger else None)
            for form, size in forms.items()
        ]

    def notes(self) -> list[str]:
        """What we say of a page that had to be cut."""
        return [f"{self._name}: {self._note}"] if self._note else []


def _share(items: list[str]) -> str:
    """How much of the SDK's page is not fields and ids: no page that leaves nothing out can be smaller."""
    spoken, whole = sum(map(_spoken, items)), sum(map(len, items))
    return f"{spoken:,} characters of the SDK's {len(items)} objects are words ({spoken / whole:.3f})"


def _spoken(item: str) -> int:
    """The characters of what was said, thought, called or returned in a message."""
    message: dict[str, Any] = json.loads(item)
    call: dict[str, Any] = message.get("tool_call") or {}
    texts = [message.get(name) for name in ("content", "reasoning", "tool_return")]
    return sum(len(text) for text in (*texts, call.get("name"), call.get("arguments")) if isinstance(text, str))


def _page(ours: StdioServer, conversation_id: str, **more: object) -> dict[str, Any]:
    return ours.call("list_messages", conversation_id=conversation_id, limit=PAGE, **more)


async def _sdk_items(letta: Place, conversation_id: str) -> list[str]:
    async with AsyncLetta(base_url=letta.base_url, api_key="none") as client:
        page = await client.agents.messages.list(
            letta.agent_id, conversation_id=conversation_id, limit=PAGE, order="desc"
        )
        return [item.model_dump_json() for item in page.items]
