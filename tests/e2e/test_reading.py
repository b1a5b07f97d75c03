"""Reading conversations back: pages of messages, and transcripts as resources."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import ResourceTemplateReference, TextResourceContents

from letta_conversations_mcp.conversations.history import HistoryPage
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageQuery
from letta_conversations_mcp.tools.results.messages import MessageList
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.rig.servers import Caller


async def a_conversation(letta: Letta, turns: int) -> tuple[str, str]:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for number in range(turns):
        await letta.send(conversation_id, f"m{number}")
    return agent_id, conversation_id


def texts(data: dict[str, Any]) -> list[str]:
    return [each.get("text", "") for each in data.get("messages", [])]


async def read(mcp: Caller, uri: str) -> str:
    [content] = (await mcp.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


def test_a_time_is_stated_once_for_the_messages_of_a_minute() -> None:
    times = ["2026-11-28T10:00:01Z", "2026-11-28T10:00:59Z", "2026-11-28T10:01:00Z", "", "2026-11-28T10:01:30Z"]
    messages = tuple(Message(id=f"message-{at}", kind="user", type="user_message", at=at, text="m") for at in times)
    ref = ConversationRef(conversation_id="conv-1", agent_id="agent-1")

    page = MessageList.of(ref, MessageQuery(), HistoryPage(messages), 10_000, skip_chars=0, ids=False)

    shown = ["2026-11-28T10:00Z", "", "2026-11-28T10:01Z", "unknown", "2026-11-28T10:01Z"]
    assert [row.at for row in page.messages] == shown


async def test_messages_are_shown_oldest_to_newest(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 2)

    page = await mcp.ok("list_messages", conversation_id=conversation_id)

    assert texts(page.data) == ["m0", "echo: m0", "m1", "echo: m1"]
    assert [each["kind"] for each in page.data["messages"]] == ["user", "assistant"] * 2
    assert page.text.index("m0") < page.text.index("echo: m0") < page.text.index("m1")
    assert "**agent**" in page.text


async def test_pages_lead_to_older_and_back_to_newer_messages(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 4)

    newest = await mcp.ok("list_messages", conversation_id=conversation_id, limit=3)
    older = await mcp.ok("list_messages", conversation_id=conversation_id, limit=3, before=newest.data["older"])
    forward = await mcp.ok("list_messages", conversation_id=conversation_id, limit=3, after=older.data["newer"])

    assert texts(newest.data) == ["echo: m2", "m3", "echo: m3"]
    assert texts(older.data) == ["echo: m1", "m2"] or texts(older.data) == ["m1", "echo: m1", "m2"]
    assert texts(forward.data) == texts(newest.data)


async def test_the_beginning_is_read_with_order_asc(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 3)

    first = await mcp.ok("list_messages", conversation_id=conversation_id, order="asc", limit=3)
    second = await mcp.ok("list_messages", conversation_id=conversation_id, limit=3, after=first.data["newer"])

    assert texts(first.data)[:2] == ["m0", "echo: m0"]
    assert "older" not in first.data
    both = texts(first.data) + texts(second.data)
    assert both == ["m0", "echo: m0", "m1", "echo: m1", "m2", "echo: m2"][: len(both)]


async def test_the_order_is_that_of_time_after_a_compaction_too(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 4)
    await mcp.ok("compact", conversation_id=conversation_id)
    await letta.send(conversation_id, "m4")

    page = await mcp.ok("list_messages", conversation_id=conversation_id, kinds=["user", "assistant"])
    summaries = await mcp.ok("list_messages", conversation_id=conversation_id, kinds=["summary"])

    assert texts(page.data) == [text for n in range(5) for text in (f"m{n}", f"echo: m{n}")]
    assert [each["kind"] for each in summaries.data["messages"]] == ["summary"]


async def test_a_page_does_not_part_a_call_from_its_result(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "x"}),)), Say("Done."))
    place = {"conversation_id": (await mcp.ok("send_message", agent=agent_id, message="look")).data["conversation_id"]}

    for limit in (1, 2, 3):
        pages: list[str] = []
        cursor = ""
        while True:
            page = await mcp.ok("list_messages", **place, limit=limit, before=cursor)
            pages = texts(page.data) + pages
            if not (cursor := page.data.get("older", "")):
                break
        assert len(pages) == 3, (limit, pages)
        assert pages[1].startswith("conversation_search(")
        assert "→" in pages[1]


async def test_the_end_of_the_history_is_said_to_be_the_end(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 1)
    page = await mcp.ok("list_messages", conversation_id=conversation_id, limit=2)

    beyond = await mcp.ok("list_messages", conversation_id=conversation_id, before=page.data["older"])

    assert "No older messages" in beyond.text


async def test_only_the_wanted_kinds_are_shown(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "x"}),)), Say("Done.", reasoning="Easy."))
    sent = await mcp.ok("send_message", agent=agent_id, message="look")
    place = {"conversation_id": sent.data["conversation_id"]}

    default = await mcp.ok("list_messages", **place)
    thinking = await mcp.ok("list_messages", **place, kinds=["reasoning"])
    system = await mcp.ok("list_messages", **place, kinds=["system"])

    assert [each["kind"] for each in default.data["messages"]] == ["user", "tool", "assistant"]
    assert texts(default.data)[1].startswith("conversation_search(")
    assert "→" in texts(default.data)[1]
    assert texts(thinking.data) == ["Easy."]
    assert [each["kind"] for each in system.data["messages"]] == ["system"]


async def test_the_history_outside_of_conversations_is_read_by_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await mcp.ok("send_message", agent=agent_id, message="inside")
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="outside")

    page = await mcp.ok("list_messages", conversation_id="default", agent=name)

    assert texts(page.data) == ["outside", "echo: outside"]


async def test_an_empty_conversation_has_no_messages(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    page = await mcp.ok("list_messages", conversation_id=await letta.new_conversation(agent_id))

    assert texts(page.data) == []
    assert "No messages" in page.text


async def test_an_unknown_cursor_is_refused_instead_of_starting_again(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 1)

    refusal = await mcp.refused(
        "list_messages", conversation_id=conversation_id, before="message-00000000-0000-4000-8000-000000000000"
    )

    assert "message" in refusal
    assert "without" in refusal


async def test_long_messages_are_cut_and_can_be_read_on(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    long = "".join(f"{number:06d}|" for number in range(6_000))
    letta.model.enqueue(Say("short"))
    await letta.send(conversation_id, long)

    page = await mcp.ok("list_messages", conversation_id=conversation_id)
    shown = texts(page.data)[0]
    collected = shown.removesuffix("…")
    following = page.data["note"].split("before='")[1].split("'")[0]
    while len(collected) < len(long):
        rest = await mcp.ok(
            "list_messages",
            conversation_id=conversation_id,
            before=following,
            limit=1,
            kinds=["user"],
            skip_chars=len(collected),
        )
        assert texts(rest.data)[0]
        collected += texts(rest.data)[0].removesuffix("…")

    assert shown.endswith("…")
    assert texts(page.data)[1] == "short"
    assert len(page.text) <= 30_000
    assert len(json.dumps(page.data)) <= 30_000
    assert collected == long


async def test_a_long_reply_stays_within_the_budget(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(Say('"quoted"\n' * 8_000))

    answer = await mcp.ok("send_message", agent=agent_id, message="write a lot")

    assert len(answer.text) <= 30_000
    assert len(json.dumps(answer.data)) <= 30_000
    assert "list_messages" in answer.data["note"]


async def test_a_transcript_is_a_resource_with_a_link_to_the_page_before(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 2)
    uri = f"letta://conversations/{conversation_id}/transcript"

    whole = await read(mcp, uri)
    page = await read(mcp, f"{uri}?limit=2")
    before = page.split("](")[1].split(")")[0]
    older = await read(mcp, before)

    assert whole.index("m0") < whole.index("echo: m1")
    assert "m0" not in page
    assert "echo: m1" in page
    assert "echo: m0" in older
    assert "m1" not in older


@pytest.mark.all_ways
async def test_a_transcript_is_there_as_json_too(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 1)

    transcript = json.loads(await read(mcp, f"letta://conversations/{conversation_id}/transcript.json?limit=2"))

    assert [each["text"] for each in transcript["messages"]] == ["m0", "echo: m0"]
    assert transcript["older"].startswith(f"letta://conversations/{conversation_id}/transcript.json?before=message-")


async def test_a_conversation_itself_is_a_resource(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "with a name")

    described = json.loads(await read(mcp, f"letta://conversations/{conversation_id}"))

    assert (described["agent_id"], described["summary"]) == (agent_id, "with a name")
    assert "isolated_blocks" not in described


async def test_the_resource_of_a_conversation_has_the_labels_and_ids_of_its_isolated_blocks(
    mcp: Caller, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    made = (await mcp.ok("create_conversation", agent=agent_id, isolated_blocks=["human", "persona"])).data

    described = json.loads(await read(mcp, f"letta://conversations/{made['conversation_id']}"))

    assert sorted(described["isolated_blocks"]) == ["human", "persona"]
    assert described["isolated_block_ids"] == list(made["isolated_block_ids"])


@pytest.mark.all_ways
@pytest.mark.parametrize(
    "rest",
    [
        "conv-00000000-0000-4000-8000-000000000000",
        "conv-00000000-0000-4000-8000-000000000000/transcript",
        "a%2F..%2Fb/transcript",
        "..%2Fagents",
        "nonsense",
    ],
)
async def test_a_resource_that_is_not_there_is_an_error_of_the_request(mcp: Caller, letta: Letta, rest: str) -> None:
    with pytest.raises(MCPError) as raised:
        await mcp.client.read_resource(f"letta://conversations/{rest}")

    assert raised.value.error.code == -32602
    assert "actor" not in raised.value.error.message


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "before=nonsense"])
async def test_a_wrong_page_of_a_transcript_is_explained(mcp: Caller, letta: Letta, query: str) -> None:
    _, conversation_id = await a_conversation(letta, 0)

    with pytest.raises(MCPError, match=r"limit|before"):
        await mcp.client.read_resource(f"letta://conversations/{conversation_id}/transcript?{query}")


async def test_the_recent_conversations_are_offered_as_resources(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "the newest")
    await letta.send(conversation_id, "so that it is recent")

    listed = (await mcp.client.list_resources()).resources

    [mine] = [each for each in listed if each.uri == f"letta://conversations/{conversation_id}/transcript"]
    assert mine.title == "the newest"
    assert f"agent {name!r}, last message" in (mine.description or "")


async def test_the_offered_resources_are_paged(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    made = [await letta.new_conversation(agent_id) for _ in range(51)]
    for each in made:
        await letta.send(each, "so that it is recent")

    first = await mcp.client.list_resources()
    second = await mcp.client.list_resources(cursor=first.next_cursor)

    pages = [{each.name for each in page.resources} for page in (first, second)]
    assert len(first.resources) == 50
    assert pages[1]
    assert not pages[0] & pages[1]


async def test_a_conversation_id_is_completed_from_what_was_typed(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "Completion of zebras")
    await letta.send(conversation_id, "so that it is recent")
    ref = ResourceTemplateReference(type="ref/resource", uri="letta://conversations/{conversation_id}")

    by_id = await mcp.client.complete(ref, {"name": "conversation_id", "value": conversation_id[:20]})
    by_summary = await mcp.client.complete(ref, {"name": "conversation_id", "value": "zebras"})

    elsewhere = ResourceTemplateReference(type="ref/resource", uri="other://{conversation_id}")
    none = await mcp.client.complete(elsewhere, {"name": "conversation_id", "value": "conv"})

    assert none.completion.values == []
    assert conversation_id in by_id.completion.values
    assert by_summary.completion.values[0] == conversation_id


async def test_a_fork_shows_what_it_shares_with_its_source(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta, 3)
    fork_id = (await letta.request("POST", f"/v1/conversations/{conversation_id}/fork"))["id"]
    await letta.send(conversation_id, "only in the source")
    await letta.send(fork_id, "only in the fork")
    whole = [
        *(text for n in range(3) for text in (f"m{n}", f"echo: m{n}")),
        "only in the fork",
        "echo: only in the fork",
    ]

    page = await mcp.ok("list_messages", conversation_id=fork_id)
    collected: list[str] = []
    cursor = ""
    for _ in range(8):
        part = await mcp.ok("list_messages", conversation_id=fork_id, limit=2, before=cursor)
        collected = texts(part.data) + collected
        if not (cursor := part.data.get("older", "")):
            break
    forward = await mcp.ok("list_messages", conversation_id=fork_id, order="asc", limit=4)

    assert texts(page.data) == whole
    assert collected == whole
    assert texts(forward.data)[:3] == whole[:3]


@pytest.mark.fake_only
async def test_a_page_is_one_request_once_the_conversation_and_its_agent_are_known(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta, 1)
    first = await mcp.ok("list_messages", conversation_id=conversation_id)
    letta.fake.requests.clear()

    second = await mcp.ok("list_messages", conversation_id=conversation_id)

    assert second.data == first.data
    assert second.data["agent_name"]
    assert [each.path for each in letta.fake.requests] == [f"/v1/agents/{agent_id}/messages"]
