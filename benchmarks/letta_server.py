"""The fake Letta server, in a process of its own: `python -m benchmarks.letta_server`, with more messages in one
conversation or more conversations of the agent for the measurements of scale.

It shares no event loop with what is measured. Its model takes no time unless a message asks for it, so nothing hides
what we cost. It tells its address and its conversations in one line on stdout, and ends when its stdin does: it cannot
outlive who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from datetime import timedelta

import anyio
import anyio.to_thread
import httpx
from pydantic import BaseModel

from benchmarks.dialogue import EXCHANGES, SHORT_EXCHANGES, Exchange, repeated
from tests.rig.fake_letta import FakeLetta
from tests.rig.fake_store import Conversation, Row
from tests.rig.model import Answer, Hold, ModelCall, Say, ScriptedModel

PAGE = 100
"""Messages of a page: the most that can be asked for."""

CONVERSATIONS = 50

SPOKEN = PAGE
"""Exchanges of a conversation, each of two messages or more: a page is full and does not reach the system prompt."""

BETWEEN_EXCHANGES = timedelta(minutes=4)


class Place(BaseModel):
    """Where the server is, and what it has."""

    base_url: str
    agent_id: str
    talk: str
    """A conversation of more than a page, with tool calls and thoughts."""
    small_talk: str
    """A conversation of more than a page, all of it short messages."""
    long: str
    """A conversation of as many messages as were asked for."""
    others: list[str]
    """Conversations without a message, to send some to."""


class TimedModel(ScriptedModel):
    """Takes as long for an answer as the message says: "after 60 s: …"; no time for any other."""

    def take(self, call: ModelCall) -> Answer:
        self.calls.clear()
        wait = re.match(r"after ([0-9.]+) s:", call.text)
        answer = super().take(call)
        if wait is None:
            return answer
        held = Hold(Say("It took its time."))
        asyncio.get_running_loop().call_later(float(wait[1]), held.gate.set)
        return held


async def serve(messages: int, conversations: int) -> None:
    model = TimedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("Assistant")
    names = [f"project {number}: what is left to do" for number in range(CONVERSATIONS)]
    ids = [fake.add_conversation(agent_id, name) for name in names]
    async with fake.serve() as base_url:
        await talk(model, base_url, ids[0], EXCHANGES)
        await talk(model, base_url, ids[1], SHORT_EXCHANGES)
        for each in ids[:2]:
            spread(fake.conversations[each])
        fill(fake.conversations[ids[2]], messages)
        for number in range(conversations - CONVERSATIONS):
            fake.add_conversation(agent_id, f"archive {number}")
        fake.requests.clear()
        place = Place(base_url=base_url, agent_id=agent_id, talk=ids[0], small_talk=ids[1], long=ids[2], others=ids[3:])
        print(place.model_dump_json(), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


async def talk(model: ScriptedModel, base_url: str, conversation_id: str, exchanges: Sequence[Exchange]) -> None:
    """Have a conversation of more than a page, over HTTP as a client would."""
    async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
        for exchange in repeated(exchanges, SPOKEN):
            model.enqueue(*exchange.answers)
            body: dict[str, Sequence[dict[str, str]]] = {"messages": [{"role": "user", "content": exchange.said}]}
            response = await client.post(f"/v1/conversations/{conversation_id}/messages", json=body)
            response.raise_for_status()
    model.check_used()


def spread(conversation: Conversation) -> None:
    """Date a conversation as people have it: some minutes between the exchanges, the last one now."""
    rows = [link.row for link in conversation.links.values()]
    exchange = sum(row.role == "user" for row in rows)
    for row in rows:
        exchange -= row.role == "user"
        row.created -= exchange * BETWEEN_EXCHANGES
        for item in row.items:
            item["date"] = row.created.isoformat(timespec="seconds")


def fill(conversation: Conversation, count: int) -> None:
    """So many short messages, a second apart, as if they had been sent."""
    rows: list[Row] = []
    for number in range(count):
        created = conversation.created + timedelta(microseconds=number + 1)
        row = Row(conversation.agent.id, conversation.id, "user", created, "", sequence=10_000 + number)
        row.show("user_message", None, content=f"message {number} of many, about nothing")
        rows.append(row)
    conversation.agent.rows.extend(rows)
    conversation.append(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
    options = parser.parse_args()
    anyio.run(serve, options.messages, options.conversations)
