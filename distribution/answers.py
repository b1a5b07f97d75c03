"""True answers of every tool, and the stories of the README: recorded with a Letta server and a scripted model.

`python -m distribution --record` runs them again and writes `answers.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import MODEL, Letta
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.rig.servers import Answer, Caller, connect

RECORDED = Path(__file__).parent / "answers.json"

ID = re.compile(r"((?:conv|agent|run|message)-[0-9a-f]{4})[0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Ids are shortened, for people to read."""

DUE = "Invoice 4711 is due on Friday."


@dataclass(frozen=True)
class Recorder:
    """Calls tools and keeps what was called and answered: `tools` by tool, `stories` by title, in order."""

    mcp: Caller
    letta: Letta
    tools: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    stories: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    async def tool(self, name: str, /, **arguments: Any) -> Answer:
        """Keep this as the answer of the tool."""
        answer = await self.mcp.ok(name, **arguments)
        self.tools[name] = {"arguments": arguments, "text": answer.text}
        return answer

    async def step(self, story: str, name: str, /, **arguments: Any) -> Answer:
        """Keep this as the next step of the story."""
        answer = await self.mcp.ok(name, **arguments)
        self.stories.setdefault(story, []).append({"tool": name, "arguments": arguments, "text": answer.text})
        return answer


async def record() -> None:
    """Write `answers.json`. Raises AssertionError if a tool refuses, RuntimeError if a story does not hold."""
    async with _letta() as letta:
        settings = Settings(base_url=letta.base_url, create_agents=True)
        async with connect(settings, "memory", "modern") as client:
            recorder = Recorder(Caller(client), letta)
            await _tools(recorder)
            await _remembers(recorder)
            await _never_doubles(recorder)
            await _ask_five(recorder)
    found = {"tools": recorder.tools, "stories": recorder.stories}
    text = json.dumps(found, indent=2, ensure_ascii=False)
    RECORDED.write_text(ID.sub(r"\1…", text) + "\n")


@asynccontextmanager
async def _letta() -> AsyncGenerator[Letta]:
    model = ScriptedModel()
    fake = FakeLetta(model)
    async with fake.serve() as base_url:
        letta = Letta(base_url, model, fake)
        yield letta
        await letta.close()


async def _tools(recorder: Recorder) -> None:
    model = recorder.letta.model
    agent_id, agent = await recorder.letta.new_agent("bookkeeper")
    created = await recorder.tool("create_conversation", agent=agent, summary="invoice 4711", key="ticket:4711")
    place = {"conversation_id": created.data["conversation_id"]}
    model.enqueue(Say("Noted: invoice 4711 is due on Friday."), Say("On Friday."))
    await recorder.tool("send_message", **place, message=DUE)
    asked = await recorder.mcp.ok("send_message", **place, message="When is it due?")
    await recorder.tool("wait_for_reply", **place, run_id=asked.data["run_id"])
    await recorder.tool("list_conversations", agent=agent)
    await recorder.tool("list_messages", **place)
    await recorder.tool("search_messages", query="Friday", agent=agent)
    await recorder.tool("describe", **place)
    branch = await recorder.tool("fork", **place, summary="what if")
    await recorder.tool("update", conversation_id=branch.data["conversation_id"], summary="what if it is late")
    await recorder.letta.request(
        "PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": "Name: Ann. Likes short answers."}
    )
    await recorder.tool("recompile", **place)
    model.enqueue(Say("Invoice 4711 is due on Friday."))
    await recorder.tool("compact", **place, mode="all")
    await recorder.tool("show_conversation", **place)
    await recorder.tool("delete", conversation_id=branch.data["conversation_id"], confirm=True)
    await recorder.tool("list_agents")
    await recorder.tool("list_models")
    await recorder.tool("create_agent", name="archivist", model=MODEL, human="Name: Ann")
    model.enqueue(Say("On Friday."), Say("On Friday."))
    await recorder.tool("ask_many", message="When is invoice 4711 due?", agents=["bookkeeper", "archivist"])
    await recorder.tool("delete_agent", agent="archivist", confirm=True)
    await _approval(recorder)
    await _cancel(recorder)


async def _approval(recorder: Recorder) -> None:
    agent_id, _ = await recorder.letta.new_agent("assistant", needs_approval="memory_insert")
    use = Use("memory_insert", {"label": "human", "new_string": "Likes tea"})
    recorder.letta.model.enqueue(CallTools((use,), text="I will note it."), Say("Noted."))
    stopped = await recorder.mcp.ok("send_message", agent=agent_id, message="I like tea.")
    await recorder.tool("respond_to_approval", conversation_id=stopped.data["conversation_id"], approve=True)


async def _cancel(recorder: Recorder) -> None:
    agent_id, _ = await recorder.letta.new_agent("writer")
    held = Hold(Say("A very long report."))
    recorder.letta.model.enqueue(held)
    running = await recorder.mcp.ok("send_message", agent=agent_id, message="Write the report.", wait_seconds=0)
    await recorder.tool("cancel", conversation_id=running.data["conversation_id"])
    held.gate.set()


async def _remembers(recorder: Recorder) -> None:
    """A customer comes back, and the key finds the conversation."""
    story = "It remembers"
    _, agent = await recorder.letta.new_agent("support")
    first = await recorder.mcp.ok("create_conversation", agent=agent, key="customer:ann", summary="Ann")
    recorder.letta.model.enqueue(Say("I have noted it."), Say("To 12 Elm Street."))
    await recorder.mcp.ok(
        "send_message", conversation_id=first.data["conversation_id"], message="From May on, I live at 12 Elm Street."
    )
    found = await recorder.step(story, "create_conversation", agent=agent, key="customer:ann")
    place = {"conversation_id": found.data["conversation_id"]}
    await recorder.step(story, "send_message", **place, message="Where will you send my order?")


async def _never_doubles(recorder: Recorder) -> None:
    """A program is killed and calls again; the model is asked once."""
    story = "It never doubles"
    await recorder.letta.new_agent("cashier")
    recorder.letta.model.enqueue(Say("Paid 20 euros to Bob."))
    call = {"agent": "cashier", "message": "Pay Bob 20 euros.", "message_key": "payment-17"}
    await recorder.step(story, "send_message", **call)
    asked = len(recorder.letta.model.calls)
    async with connect(Settings(base_url=recorder.letta.base_url), "memory", "modern") as another:
        restarted = Recorder(Caller(another), recorder.letta, stories=recorder.stories)
        await restarted.step(story, "send_message", **call)
    if len(recorder.letta.model.calls) != asked:
        raise RuntimeError("the model was asked again")


async def _ask_five(recorder: Recorder) -> None:
    """Five agents answer at the same time."""
    replies = {
        "tax": "Yes: keep the receipts.",
        "legal": "Your contract does not forbid it.",
        "travel": "Yes, up to 40 euros a day.",
        "payroll": "It goes into next month's pay.",
        "insurance": "Meals are not covered.",
    }
    for name, reply in replies.items():
        await recorder.mcp.ok("create_agent", name=name, model=MODEL, persona=f"I know {name} matters.")
        recorder.letta.model.enqueue(Say(reply), after=f"I know {name} matters.")
    await recorder.step(
        "Ask five agents at once", "ask_many", message="Can I deduct meals on a business trip?", agents=list(replies)
    )


def main() -> None:
    anyio.run(record)
