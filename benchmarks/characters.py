"""The characters that a model reads for a page of messages, beside those of the words alone: what was said, thought,
called and returned in the same page of the Letta SDK.

Some clients show the model the text of an answer, some its structured form.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from letta_client import AsyncLetta

from benchmarks.letta_server import PAGE, Place
from benchmarks.processes import StdioServer, letta_server, our_server
from benchmarks.table import Group, Row

GOAL = 1.15

ALL_KINDS = ("user", "assistant", "tool", "approval", "summary", "other", "reasoning", "system")


def measure(*, quick: bool) -> Group:
    """The newest page of two conversations: one as people have them, one of messages of a few words."""
    del quick  # nothing is timed
    with letta_server() as letta, our_server(letta.base_url) as ours:
        ours.initialize()
        ours.list_tools()
        talk, small_talk = (asyncio.run(_sdk_items(letta, each)) for each in (letta.talk, letta.small_talk))
        variants = {
            _Variant("as people talk", _page(ours, letta.talk), talk): GOAL,
            _Variant("as people talk, thoughts too", _page(ours, letta.talk, kinds=ALL_KINDS), talk): None,
            _Variant("messages of a few words", _page(ours, letta.small_talk), small_talk): None,
        }
    return Group(
        f"Characters of a page of {PAGE} messages",
        "the words of the Letta SDK's page. Without `kinds`, ours leaves out the thoughts",
        [row for variant, goal in variants.items() for row in variant.rows(goal)],
        [note for variant in variants for note in variant.notes()],
    )


class _Variant:
    """A page of ours and the SDK's items of the same messages."""

    def __init__(self, name: str, result: dict[str, Any], items: list[str]) -> None:
        self._name = name
        self._words = sum(map(_spoken, items))
        self._thoughts = sum(_spoken(item) for item in items if json.loads(item)["message_type"] == "reasoning_message")
        self._whole = sum(map(len, items))
        self._note = str(result["structuredContent"].get("note", ""))
        self._text: str = result["content"][0]["text"]
        self._data = json.dumps(result["structuredContent"], ensure_ascii=False, separators=(",", ":"))

    def rows(self, goal: float | None) -> list[Row]:
        forms = {"text": self._text, "JSON": self._data}
        return [
            Row(f"{self._name}: {form}", len(shown), self._words, len(shown) / self._words, "chars", goal)
            for form, shown in forms.items()
        ]

    def notes(self) -> list[str]:
        """What the numbers are made of, and what we say of a page that had to be cut."""
        share = max(len(self._text), len(self._data)) / self._whole
        made_of = (
            f"{self._name}: {self._thoughts:,} characters of the words are thoughts. The SDK's objects as JSON have "
            f"{self._whole:,}, of which ours are {share:.2f}."
        )
        return [made_of, self._note] if self._note else [made_of]


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
