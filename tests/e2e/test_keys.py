"""One conversation per key, whoever asks for it, at the same time and later."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import anyio
import pytest
from mcp import Client

from letta_conversations_mcp.conversations.keys import mark
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta, RecordedRequest
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Answer, Caller, Way, stdio_server

TASKS = 20


async def opened_at_once(callers: list[Caller], agent_id: str, **arguments: object) -> list[Answer]:
    """What each of many calls at the same moment gives, shared out among the callers."""
    answers: list[Answer] = []

    async def call(caller: Caller) -> None:
        answers.append(await caller.ok("create_conversation", agent=agent_id, **arguments))

    async with anyio.create_task_group() as tasks:
        for number in range(TASKS):
            tasks.start_soon(call, callers[number % len(callers)])
    return answers


async def listed(caller: Caller, agent_id: str) -> list[str]:
    page = await caller.ok("list_conversations", agent=agent_id)
    return [row["id"] for row in page.data.get("conversations", [])]


async def test_a_key_opens_one_conversation_and_finds_it_again(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"agent": agent_id, "key": "user:ann_1@example.org"}

    first = await mcp.ok("create_conversation", **place, summary="Ann")
    other = await mcp.ok("create_conversation", agent=agent_id, key="user:annX1@example.org")
    again = await mcp.ok("create_conversation", **place)

    assert re.fullmatch(r"Ann \[key: user:ann_1@example\.org #[0-9a-f]{8}\]", first.data["summary"])
    assert "reused" not in first.data
    assert (again.data["conversation_id"], again.data["reused"]) == (first.data["conversation_id"], True)
    assert other.data["conversation_id"] != first.data["conversation_id"]


async def test_a_key_is_one_of_its_agent(mcp: Caller, letta: Letta) -> None:
    made = [
        (await mcp.ok("create_conversation", agent=(await letta.new_agent())[0], key="k")).data["conversation_id"]
        for _ in range(2)
    ]

    assert made[0] != made[1]


async def test_renaming_keeps_the_key(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    first = await mcp.ok("create_conversation", agent=agent_id, key="k", summary="old")
    place = {"conversation_id": first.data["conversation_id"]}

    renamed = await mcp.ok("update", **place, summary="new")
    emptied = await mcp.ok("update", **place, summary="")
    again = await mcp.ok("create_conversation", agent=agent_id, key="k")

    assert renamed.data["summary"].startswith("new [key: k #")
    assert emptied.data["summary"].startswith("[key: k #")
    assert again.data["conversation_id"] == first.data["conversation_id"]


async def test_a_fork_does_not_take_the_key_along(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    first = await mcp.ok("create_conversation", agent=agent_id, key="k")

    await mcp.ok("fork", conversation_id=first.data["conversation_id"], summary="what if")
    again = await mcp.ok("create_conversation", agent=agent_id, key="k")

    assert again.data["conversation_id"] == first.data["conversation_id"]


@pytest.mark.parametrize("wrong", ["", " ", "two words", "a]b", "%", "x" * 101, "שלום", "😀"])
async def test_a_key_that_could_not_be_found_again_is_refused(mcp: Caller, letta: Letta, wrong: str) -> None:
    agent_id, _ = await letta.new_agent()

    assert "key" in await mcp.refused("create_conversation", agent=agent_id, key=wrong)
    assert await listed(mcp, agent_id) == []


async def test_no_summary_or_description_passes_for_one_with_a_key(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    forged = "printer broken [key: user:4711]"
    signed = mark("printer broken", agent_id, "user:4711")
    older = await mcp.ok("create_conversation", agent=agent_id)
    thieves = [
        older,
        await mcp.ok("create_conversation", agent=agent_id, summary=forged, description=forged),
        await mcp.ok("create_conversation", agent=agent_id, summary=signed, description=signed),
        await mcp.ok("create_conversation", agent=agent_id, summary=signed, reuse=True),
        await mcp.ok("fork", conversation_id=older.data["conversation_id"], summary=signed),
    ]
    renamed = await mcp.ok("update", conversation_id=older.data["conversation_id"], summary=forged)

    first = await mcp.ok("create_conversation", agent=agent_id, key="user:4711")
    await mcp.ok("update", conversation_id=older.data["conversation_id"], summary=signed)
    again = await mcp.ok("create_conversation", agent=agent_id, key="user:4711")

    assert renamed.data["summary"] == "printer broken (key: user:4711)"
    assert "reused" not in first.data
    assert first.data["conversation_id"] not in [each.data["conversation_id"] for each in thieves]
    assert again.data["conversation_id"] == first.data["conversation_id"]


async def test_a_mark_that_another_program_wrote_does_not_take_over_a_key(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.new_conversation(agent_id, "older [key: k #00000000]")
    older = await letta.new_conversation(agent_id, "older")
    first = await mcp.ok("create_conversation", agent=agent_id, key="k")
    await letta.request("PATCH", f"/v1/conversations/{older}", json={"summary": "printer broken [key: k]"})

    again = await mcp.ok("create_conversation", agent=agent_id, key="k")

    assert "reused" not in first.data
    assert again.data["conversation_id"] == first.data["conversation_id"]


@pytest.mark.fake_only
@pytest.mark.parametrize(("year", "counts"), [(2026, True), (2027, False)])
async def test_a_key_of_version_0_1_0_is_found_and_renewed_by_an_update(
    mcp: Caller, letta: Letta, year: int, counts: bool
) -> None:
    agent_id, _ = await letta.new_agent()
    old = letta.fake.add_conversation(agent_id, "Ann [key: k]")
    letta.fake.conversations[old].created = datetime(year, 1, 1, tzinfo=UTC)
    other = await mcp.ok("create_conversation", agent=agent_id, key="kk")

    found = await mcp.ok("create_conversation", agent=agent_id, key="k")
    renamed = await mcp.ok("update", conversation_id=old, summary="Bob")

    assert (found.data["conversation_id"] == old) is counts
    assert other.data["conversation_id"] != old
    assert renamed.data["summary"] == (mark("Bob", agent_id, "k") if counts else "Bob")


async def test_of_several_with_one_summary_the_oldest_is_reused(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    twins = [await letta.new_conversation(agent_id, "twin") for _ in range(3)]

    reused = await mcp.ok("create_conversation", agent=agent_id, summary="twin", reuse=True)

    assert reused.data["conversation_id"] == twins[0]
    assert "this is the oldest" in reused.data["note"]


async def test_tags_are_refused_where_there_are_none(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    there = await letta.new_conversation(agent_id)

    assert "no tags" in await mcp.refused("create_conversation", agent=agent_id, tags=["urgent"])
    assert "no tags" in await mcp.refused("update", conversation_id=there, tags=["urgent"])
    assert "no tags" in await mcp.refused("list_conversations", agent=agent_id, tag="urgent")
    assert await listed(mcp, agent_id) == [there]


async def test_many_calls_at_once_open_one(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    answers = await opened_at_once([mcp], agent_id, key="user:1")

    [only] = {answer.data["conversation_id"] for answer in answers}
    assert sum("reused" not in answer.data for answer in answers) == 1
    assert await listed(mcp, agent_id) == [only]


async def test_many_calls_at_once_reuse_one_summary(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    answers = await opened_at_once([mcp], agent_id, summary="shared", reuse=True)

    [only] = {answer.data["conversation_id"] for answer in answers}
    assert await listed(mcp, agent_id) == [only]


@pytest.mark.parametrize("by", ["key", "summary"])
async def test_two_processes_at_once_agree_on_one(letta: Letta, by: str) -> None:
    agent_id, _ = await letta.new_agent()
    server = stdio_server(Settings(base_url=letta.base_url))
    async with Client(server) as one, Client(server) as other:
        callers = [Caller(one), Caller(other)]
        for number in range(5):
            given = {by: f"user:{number}", "reuse": by == "summary"}
            answers = await opened_at_once(callers, agent_id, **given)

            assert len({answer.data["conversation_id"] for answer in answers}) == 1

        assert len(await listed(callers[0], agent_id)) == 5


@pytest.mark.fake_only
async def test_of_two_that_were_made_in_a_race_the_oldest_counts(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    gate = anyio.Event()
    letta.fake.stall("POST", "/v1/conversations/", gate)
    answers: list[Answer] = []

    async def late() -> None:
        answers.append(await mcp.ok("create_conversation", agent=agent_id, key="k"))

    rivals: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(late)
        await letta.fake.requests.until(lambda each: each.method == "POST" and each.query.get("agent_id") == agent_id)
        rivals.append(letta.fake.add_conversation(agent_id, mark("", agent_id, "k")))
        gate.set()

    [rival] = rivals
    assert (answers[0].data["conversation_id"], answers[0].data["reused"]) == (rival, True)
    assert await listed(mcp, agent_id) == [rival]


@pytest.mark.fake_only
async def test_a_conversation_in_which_somebody_talks_is_not_deleted_after_a_race(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    before_creating, before_looking = anyio.Event(), anyio.Event()
    requests = letta.fake.requests

    def is_look(request: RecordedRequest) -> bool:
        return (request.method, request.path) == ("GET", "/v1/conversations/")

    answers: list[Answer] = []
    rivals: list[str] = []
    used: list[str] = []

    async def late() -> None:
        answers.append(await mcp.ok("create_conversation", agent=agent_id, key="k"))

    async with anyio.create_task_group() as tasks:
        letta.fake.stall("POST", "/v1/conversations/", before_creating)
        tasks.start_soon(late)
        await requests.until(lambda each: (each.method, each.path) == ("POST", "/v1/conversations/"))
        looks = sum(map(is_look, requests))
        rivals.append(letta.fake.add_conversation(agent_id, mark("", agent_id, "k")))
        letta.fake.stall("GET", "/v1/conversations/", before_looking)
        before_creating.set()
        await requests.until(is_look, looks + 1)
        mine = [each.id for each in letta.fake.conversations.values() if each.agent.id == agent_id]
        used += [each for each in mine if each not in rivals]
        await letta.send(used[0], "I am here already")
        before_looking.set()

    assert (answers[0].data["conversation_id"], answers[0].data["reused"]) == (rivals[0], True)
    assert set(await listed(mcp, agent_id)) == {*rivals, *used}
    assert await letta.stored_texts(agent_id, used[0]) == ["I am here already"]


async def test_an_archived_conversation_keeps_its_key(cloud: tuple[Caller, FakeLetta]) -> None:
    mcp, fake = cloud
    agent_id = fake.add_agent("ann")
    place = {"agent": agent_id, "key": "k"}
    first = await mcp.ok("create_conversation", **place)
    fake.conversations[first.data["conversation_id"]].archived_at = datetime.now(UTC)

    by_summary = await mcp.ok("create_conversation", **place)
    fake.conversations[first.data["conversation_id"]].summary = "Renamed by somebody else"
    by_description = await mcp.ok("create_conversation", **place)

    found = [each.data["conversation_id"] for each in (by_summary, by_description)]
    assert found == [first.data["conversation_id"]] * 2


async def test_a_title_written_over_the_summary_does_not_lose_the_key(cloud: tuple[Caller, FakeLetta]) -> None:
    mcp, fake = cloud
    agent_id = fake.add_agent("ann")
    first = await mcp.ok("create_conversation", agent=agent_id, key="k", summary="Ann")
    for number in range(150):
        fake.add_conversation(agent_id, f"number {number}")
    fake.conversations[first.data["conversation_id"]].summary = "A Title Of Letta Code"

    again = await mcp.ok("create_conversation", agent=agent_id, key="k")

    assert again.data["conversation_id"] == first.data["conversation_id"]


async def test_ten_thousand_conversations_of_one_name_hide_no_key(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("popular")
    async with fake.serve() as url, way.to(Settings(base_url=url)) as mcp:
        first = await mcp.ok("create_conversation", agent=agent_id, key="k", summary="same")
        for _ in range(10_000):
            fake.add_conversation(agent_id, "same")

        again = await mcp.ok("create_conversation", agent=agent_id, key="k")
        before = len(fake.requests)
        reused = await mcp.ok("create_conversation", agent=agent_id, summary="same", reuse=True)
        found = await mcp.ok("search_messages", query="nothing", agent=agent_id)
        listed_names = await mcp.ok("list_conversations", agent=agent_id, search="same", limit=100)

    assert again.data["conversation_id"] == first.data["conversation_id"]
    assert "this is the oldest" in reused.data["note"]
    assert len(fake.requests) - before < 20
    assert "never had a message" in found.data["note"]
    assert len(listed_names.data["conversations"]) > 50
