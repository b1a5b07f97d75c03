"""No answer is longer than the settings allow, and what is cut or left out says so."""

from __future__ import annotations

import json

import pytest

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import Say, ScriptedModel
from tests.rig.servers import Answer, Way

pytestmark = pytest.mark.fake_only

LEAST = 2_000


def fits(answer: Answer) -> bool:
    return max(len(answer.text), len(json.dumps(answer.data, ensure_ascii=False))) <= LEAST


async def test_a_list_that_does_not_fit_goes_on_with_a_cursor(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("prolific")
    made = [fake.add_conversation(agent_id, f"number {number} {'x' * 300}") for number in range(30)]
    async with fake.serve() as url, way.to(Settings(base_url=url, max_output_chars=LEAST)) as caller:
        seen: list[str] = []
        after = ""
        while True:
            page = await caller.ok("list_conversations", agent=agent_id, limit=100, order="asc", after=after)
            assert fits(page)
            seen += [row["id"] for row in page.data["conversations"]]
            if "next" not in page.data:
                break
            after = seen[-1]

    assert seen == made


@pytest.mark.all_ways
async def test_a_page_of_long_messages_shows_a_part_of_every_one(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    conversation_id = fake.add_conversation(fake.add_agent("verbose"))
    fake.add_messages(conversation_id, 12, text='{n} "' + "é" * 3_000)
    async with fake.serve() as url, way.to(Settings(base_url=url, max_output_chars=LEAST)) as caller:
        page = await caller.ok("list_messages", conversation_id=conversation_id)
        [transcript] = (
            await caller.client.read_resource(f"letta://conversations/{conversation_id}/transcript?limit=5")
        ).contents

    assert fits(page)
    assert [each["text"].split()[0] for each in page.data["messages"]] == [str(number) for number in range(12)]
    assert "Cut to fit: 12 of these messages" in page.data["note"]
    assert len(getattr(transcript, "text", "")) <= LEAST


async def test_a_long_summary_of_a_compaction_is_cut(way: Way) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    conversation_id = fake.add_conversation(fake.add_agent("summed up"))
    fake.add_messages(conversation_id, 8)
    model.enqueue(Say("word " * 2_000))
    async with fake.serve() as url, way.to(Settings(base_url=url, max_output_chars=LEAST)) as caller:
        done = await caller.ok("compact", conversation_id=conversation_id, mode="all")

    assert fits(done)
    assert "list_messages" in done.data["note"]


async def test_conversations_that_never_had_a_message_are_not_listed_in_circles(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("quiet")
    for _ in range(3):
        fake.add_conversation(agent_id)
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        page = await caller.ok("list_conversations", agent=agent_id, order_by="last_message_at", limit=2)

    assert "next" not in page.data
    assert "without a message are left out" in page.data["note"]


async def test_ten_thousand_messages_are_paged_to_the_first_one(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    conversation_id = fake.add_conversation(fake.add_agent("old friend"))
    fake.add_messages(conversation_id, 10_000)
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        first = await caller.ok("list_messages", conversation_id=conversation_id, order="asc", limit=2)
        middle = await caller.ok("list_messages", conversation_id=conversation_id, limit=100)
        for _ in range(3):
            middle = await caller.ok(
                "list_messages", conversation_id=conversation_id, limit=100, before=middle.data["older"]
            )

    assert first.data["messages"][0]["text"] == "message 0"
    assert middle.data["messages"][-1]["text"] == "message 9699"


async def test_many_and_long_findings_are_shortened(way: Way) -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    fake.add_messages(fake.add_conversation(fake.add_agent("verbose")), 60, text='{n} tea "' + '\\"😀' * 5_000)
    async with fake.serve() as url, way.to(Settings(base_url=url, max_output_chars=LEAST)) as caller:
        found = await caller.ok("search_messages", query="tea", limit=50)

    assert fits(found)
    assert found.data["messages"]
    assert all("tea" in each["text"] for each in found.data["messages"])


async def test_a_long_description_is_shortened(way: Way) -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    settings: dict[str, object] = {"provider_type": "openai", "stop": "x" * 5_000}
    conversation_id = fake.add_conversation(
        fake.add_agent("verbose"),
        "s" * 5_000,
        description="d" * 5_000,
        model="openai-proxy/fake-1",
        model_settings=settings,
    )
    async with fake.serve() as url, way.to(Settings(base_url=url, max_output_chars=LEAST)) as caller:
        told = await caller.ok("describe", conversation_id=conversation_id)

    assert fits(told)
    assert told.data["description"].startswith("ddd")
    assert "model settings are too long" in told.data["note"]
