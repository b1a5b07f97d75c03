"""Finding messages: on a server with a search of its own, and on one without."""

from __future__ import annotations

import pytest

from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.servers import Answer, Caller

UNKNOWN_CONVERSATION = "conv-00000000-0000-4000-8000-000000000000"


def found(answer: Answer) -> list[str]:
    return [each["text"] for each in answer.data.get("messages", [])]


async def test_words_are_found_in_a_conversation_with_what_leads_there(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for text in ("the invoice is DUE on Friday", "something else"):
        await letta.send(conversation_id, text)

    answer = await mcp.ok("search_messages", query="due invoice", conversation_id=conversation_id, kinds=["user"])
    [row] = answer.data["messages"]
    around = await mcp.ok("list_messages", conversation_id=conversation_id, after=row["message_id"], kinds=["user"])

    assert row["text"] == "the invoice is DUE on Friday"
    assert (row["conversation_id"], row["kind"]) == (conversation_id, "user")
    assert row["message_id"] in answer.text
    assert "no search of its own" in answer.data["note"]
    assert "that is all there are" in answer.data["note"]
    assert [each["text"] for each in around.data["messages"]] == ["something else"]


async def test_an_agent_is_looked_through_with_its_default_conversation(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    first, second = [await letta.new_conversation(agent_id) for _ in range(2)]
    await letta.send(first, "walrus one")
    await letta.send(second, "walrus two")
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="walrus three")
    stranger, _ = await letta.new_agent()
    await letta.send(await letta.new_conversation(stranger), "walrus of another agent")

    answer = await mcp.ok("search_messages", query="WALRUS", agent=name, kinds=["user"])

    assert found(answer) == ["walrus three", "walrus two", "walrus one"]
    assert [row["conversation_id"] for row in answer.data["messages"]] == ["default", second, first]


async def test_all_agents_are_looked_through_and_named(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "about tea")
    await letta.send(conversation_id, f"only {agent_id[-12:]} here")

    answer = await mcp.ok("search_messages", query=agent_id[-12:], kinds=["user"], limit=1)

    [row] = answer.data["messages"]
    assert (row["agent_id"], row["conversation_id"]) == (agent_id, conversation_id)
    assert (row["agent_name"], row["summary"]) == (name, "about tea")
    assert f"{conversation_id} 'about tea' · {agent_id} {name!r}" in answer.text
    assert "Default conversations were left out" in answer.data["note"]


async def test_nothing_found_says_how_far_was_looked(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.send(await letta.new_conversation(agent_id), "hello")

    answer = await mcp.ok("search_messages", query="absent", agent=agent_id, mode="meaning")

    assert "messages" not in answer.data
    assert "Nothing was found" in answer.text
    assert "none by meaning" in answer.text


async def test_times_bound_a_search(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.send(await letta.new_conversation(agent_id), "hello there")
    place = {"query": "hello", "agent": agent_id, "kinds": ["user"]}

    assert found(await mcp.ok("search_messages", **place, start_date="2020-01-01", end_date="2100-01-01"))
    assert not found(await mcp.ok("search_messages", **place, start_date="2100-01-01"))
    assert not found(await mcp.ok("search_messages", **place, end_date="2020-01-01"))
    assert not found(await mcp.ok("search_messages", **place, start_date="2020-01-01", end_date="2020-01-01"))


async def test_bad_searches_are_explained(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    other, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    wrong: dict[str, dict[str, str]] = {
        "words to look for": {"query": "  "},
        "no date or time": {"start_date": "yesterday"},
        "it is before start_date": {"start_date": "2026-11-29", "end_date": "2026-11-28"},
        "belongs to": {"conversation_id": conversation_id, "agent": other},
        "no agent": {"agent": "nobody at all"},
        "no conversation": {"conversation_id": UNKNOWN_CONVERSATION},
        "needs the agent": {"conversation_id": "default"},
        "another search": {"after": "message-1"},
        "at most 1000": {"query": "x" * 200_000},
    }

    for words, arguments in wrong.items():
        assert words in await mcp.refused("search_messages", **({"query": "x"} | arguments)), words


async def test_a_deleted_conversation_is_not_searched(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await letta.send(conversation_id, "hello")
    await mcp.ok("delete", conversation_id=conversation_id, confirm=True)

    assert "no conversation" in await mcp.refused("search_messages", query="hello", conversation_id=conversation_id)
    assert not found(await mcp.ok("search_messages", query="hello", agent=agent_id))


@pytest.mark.fake_only
async def test_a_long_conversation_is_looked_through_step_by_step(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.fake.add_messages(conversation_id, 5000, "note <{n}>")
    place = {"query": "note <7>", "conversation_id": conversation_id}

    first = await mcp.ok("search_messages", **place)
    rest = await mcp.ok("search_messages", **place, after=first.data["cursor"])

    assert not found(first)
    assert "4000 messages" in first.data["note"]
    assert "older ones were not looked at" in first.data["note"]
    assert found(rest) == ["note <7>"]
    assert "cursor" not in rest.data


@pytest.mark.fake_only
async def test_the_cursor_goes_on_behind_what_was_found(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.fake.add_messages(conversation_id, 25, "note {n} end")
    place = {"query": "note", "conversation_id": conversation_id, "limit": 10}

    seen: list[str] = []
    after = ""
    for _ in range(5):
        answer = await mcp.ok("search_messages", **place, after=after)
        seen += found(answer)
        after = answer.data.get("cursor", "")
        if not after:
            break

    assert seen == [f"note {number} end" for number in range(24, -1, -1)]


@pytest.mark.fake_only
async def test_many_conversations_are_looked_through_in_turn(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    made = [await letta.new_conversation(agent_id) for _ in range(35)]
    for number, conversation_id in enumerate(made):
        await letta.send(conversation_id, f"number {number}")
    place = {"query": "number 0", "agent": agent_id, "kinds": ["user"]}

    first = await mcp.ok("search_messages", **place)
    rest = await mcp.ok("search_messages", **place, after=first.data["cursor"])

    assert "in 30 conversations" in first.data["note"]
    assert not [row for row in first.data.get("messages", []) if row["conversation_id"] == made[0]]
    assert [row["conversation_id"] for row in rest.data["messages"]][-1:] == [made[0]]


@pytest.mark.fake_only
async def test_of_a_long_one_among_others_only_the_newest_are_seen(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.fake.add_messages(conversation_id, 700, "note <{n}>")
    await letta.send(conversation_id, "the newest")

    answer = await mcp.ok("search_messages", query="note <7>", agent=agent_id)

    assert not found(answer)
    assert f"Only the newest messages of {conversation_id}" in answer.data["note"]
    assert "that is all there are" not in answer.data["note"]


async def test_a_server_with_a_search_is_asked(cloud: tuple[Caller, FakeLetta]) -> None:
    mcp, fake = cloud
    conversation_id = fake.add_conversation(fake.add_agent("ann"))
    fake.add_messages(conversation_id, 30, "about tea {n}")

    answer = await mcp.ok("search_messages", query="tea", conversation_id=conversation_id, kinds=["assistant"], limit=3)

    assert found(answer) == ["about tea 29", "about tea 27", "about tea 25"]
    assert {row["conversation_id"] for row in answer.data["messages"]} == {conversation_id}
    assert "note" not in answer.data
    assert not [each for each in fake.requests if each.method == "GET" and each.path.endswith("/messages")]


async def test_a_search_of_the_server_finds_in_the_default_conversation(cloud: tuple[Caller, FakeLetta]) -> None:
    mcp, fake = cloud
    agent_id = fake.add_agent("ann")
    fake.add_messages(fake.add_conversation(agent_id), 2, "about tea {n}")
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="tea here")

    answer = await mcp.ok("search_messages", query="tea", conversation_id="default", agent=agent_id, kinds=["user"])

    assert found(answer) == ["tea here"]
    assert answer.data["messages"][0]["conversation_id"] == "default"
