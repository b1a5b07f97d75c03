"""Opening, finding, compacting and deleting conversations."""

from __future__ import annotations

import pytest

from letta_conversations_mcp.core.untrusted import quoted
from tests.rig.letta_server import Letta
from tests.rig.servers import Caller

UNKNOWN_CONVERSATION = "conv-00000000-0000-4000-8000-000000000000"
UNKNOWN_AGENT = "agent-00000000-0000-4000-8000-000000000000"


async def test_a_conversation_is_opened_and_listed(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    created = await mcp.ok("create_conversation", agent=name, summary="Invoice 4711")
    listed = await mcp.ok("list_conversations", agent=name)

    assert created.data["agent_id"] == agent_id
    assert created.data["conversation_id"] in created.text
    [row] = listed.data["conversations"]
    assert (row["id"], row["summary"]) == (created.data["conversation_id"], "Invoice 4711")
    assert row["id"] in listed.text
    assert "Invoice 4711" in listed.text


async def test_every_parameter_of_a_conversation_reaches_the_server(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    settings = {"provider_type": "openai", "temperature": 0.2, "reasoning": {"reasoning_effort": "low"}}

    created = await mcp.ok(
        "create_conversation", agent=agent_id, summary="s", model="openai-proxy/fake-2", model_settings=settings
    )

    stored = await letta.request("GET", f"/v1/conversations/{created.data['conversation_id']}")
    assert stored["model"] == "openai-proxy/fake-2"
    assert stored["model_settings"]["temperature"] == 0.2
    assert stored["model_settings"]["reasoning"]["reasoning_effort"] == "low"


async def test_settings_alone_come_with_the_model_of_the_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    settings = {"provider_type": "openai", "temperature": 0.2}

    created = await mcp.ok("create_conversation", agent=agent_id, model_settings=settings)

    stored = await letta.request("GET", f"/v1/conversations/{created.data['conversation_id']}")
    assert stored["model"] == "openai-proxy/fake-1"
    assert "keeps the model openai-proxy/fake-1" in created.data["note"]


async def test_an_unknown_model_opens_nothing(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("create_conversation", agent=agent_id, model="openai-proxy/fake-11")

    assert "it has openai-proxy/fake-1" in refusal
    assert "No conversations" in (await mcp.ok("list_conversations", agent=agent_id)).text


async def test_what_this_server_ignores_is_said(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    created = await mcp.ok(
        "create_conversation", agent=agent_id, description="long", hidden=True, context_window_limit=9000
    )

    assert "ignored: description, context_window_limit, hidden" in created.data["note"]


async def test_isolated_blocks_are_made_and_named(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    created = await mcp.ok("create_conversation", agent=agent_id, isolated_blocks=["human"])

    [block] = created.data["isolated_block_ids"]
    assert block in created.text
    assert "note" not in created.data


async def test_an_unknown_isolated_block_is_refused(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("create_conversation", agent=agent_id, isolated_blocks=["nothing-like-it"])

    assert "nothing-like-it" in refusal
    assert (await mcp.ok("list_conversations", agent=agent_id)).data.get("conversations") is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.5}, "provider_type is needed"),
        ({"provider_type": "acme"}, "one of: anthropic, azure"),
        ({"provider_type": "anthropic"}, "the model is one of 'openai'"),
        ({"provider_type": "openai", "temperature": "hot"}, "temperature"),
        ({"provider_type": "openai", "reasoning": {"effort": "low"}}, "reasoning.effort"),
    ],
)
async def test_wrong_model_settings_are_explained(
    mcp: Caller, letta: Letta, settings: dict[str, object], words: str
) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("create_conversation", agent=agent_id, model_settings=settings)

    assert words in refusal
    assert "Nothing was done" in refusal


async def test_reuse_gives_the_conversation_that_has_the_summary(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    summary = "50% off_by \\one 'quoted' 😀"

    first = await mcp.ok("create_conversation", agent=agent_id, summary=summary, reuse=True)
    similar = await mcp.ok("create_conversation", agent=agent_id, summary=f"{summary}!", reuse=True)
    second = await mcp.ok("create_conversation", agent=agent_id, summary=summary, reuse=True)

    assert "reused" not in first.data
    assert similar.data["conversation_id"] != first.data["conversation_id"]
    assert (second.data["conversation_id"], second.data["reused"]) == (first.data["conversation_id"], True)


async def test_reuse_without_a_summary_is_refused(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    assert "summary" in await mcp.refused("create_conversation", agent=agent_id, reuse=True)


async def test_the_list_is_paged_by_the_last_id_in_both_orders(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    made = [await letta.new_conversation(agent_id, f"number {number}") for number in range(5)]

    for order, expected in (("asc", made), ("desc", made[::-1])):
        seen: list[str] = []
        after = ""
        for _ in range(4):
            page = await mcp.ok("list_conversations", agent=agent_id, limit=2, order=order, after=after)
            rows = page.data.get("conversations", [])
            seen += [row["id"] for row in rows]
            if "after=" not in page.data.get("next", ""):
                break
            after = seen[-1]
        assert seen == expected


async def test_the_list_is_searched_by_summary(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    wanted = await letta.new_conversation(agent_id, "about tea")
    await letta.new_conversation(agent_id, "about coffee")

    found = await mcp.ok("list_conversations", agent=agent_id, search="tea")

    assert [row["id"] for row in found.data["conversations"]] == [wanted]


async def test_the_list_of_all_agents_names_the_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    listed = await mcp.ok("list_conversations", limit=50)
    of_one = await mcp.ok("list_conversations", agent=agent_id)

    # Others may have been opened in the same second.
    [row] = [each for each in listed.data["conversations"] if each["id"] == conversation_id]
    assert (row["id"], row["agent_id"], row["agent_name"]) == (conversation_id, agent_id, name)
    assert f"{agent_id} {name!r}" in listed.text
    assert row["created_at"].endswith("Z")
    assert "of all agents, opened latest first" in listed.data["listed"]
    assert of_one.data["listed"] == f"1 conversation of agent {name!r} ({agent_id}), opened latest first, no more."
    assert "agent_name" not in of_one.data["conversations"][0]


async def test_those_without_a_message_are_not_among_the_latest_active(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    spoken = await letta.new_conversation(agent_id)
    await letta.send(spoken, "hello")
    silent = await letta.new_conversation(agent_id)

    active = await mcp.ok("list_conversations", agent=agent_id, order_by="last_message_at")
    opened = await mcp.ok("list_conversations", agent=agent_id)

    assert [row["id"] for row in active.data["conversations"]] == [spoken]
    assert "without a message are left out" in active.data["note"]
    assert [row["id"] for row in opened.data["conversations"]] == [silent, spoken]
    assert "note" not in opened.data


async def test_the_list_can_be_ordered_by_the_last_message(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    older, newer = [await letta.new_conversation(agent_id) for _ in range(2)]
    await letta.send(newer, "first")
    await letta.send(older, "second")

    listed = await mcp.ok("list_conversations", agent=agent_id, order_by="last_message_at")

    assert [row["id"] for row in listed.data["conversations"]] == [older, newer]


async def test_a_server_without_archives_says_so(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.new_conversation(agent_id)

    listed = await mcp.ok("list_conversations", agent=agent_id, archived="only")

    assert "does not archive" in listed.data["note"]


async def test_an_agent_without_conversations_is_told_from_an_unknown_one(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    empty = await mcp.ok("list_conversations", agent=agent_id)
    unknown = await mcp.refused("list_conversations", agent=UNKNOWN_AGENT)

    assert "No conversations" in empty.text
    assert "no agent" in unknown


async def test_compacting_tells_before_after_and_the_summary(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for number in range(3):
        await letta.send(conversation_id, f"message {number}")

    described = await mcp.ok("describe", conversation_id=conversation_id)
    done = await mcp.ok("compact", conversation_id=conversation_id, mode="all", prompt="Summarise this very briefly.")
    afterwards = await mcp.ok("describe", conversation_id=conversation_id)

    assert done.data["messages_before"] == described.data["messages_in_context"] == 6
    assert done.data["messages_after"] == afterwards.data["messages_in_context"]
    assert done.data["messages_after"] < done.data["messages_before"]
    assert done.data["summary"]
    assert quoted(done.data["summary"]) in done.text
    assert "Summarise this very briefly." in str(letta.model.calls[-1].messages)


async def test_the_model_of_a_compaction_is_the_one_asked_for(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await letta.send(conversation_id, "message")

    await mcp.ok("compact", conversation_id=conversation_id, mode="all", model="openai-proxy/fake-2")

    assert letta.model.calls[-1].model == "fake-2"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"mode": "all", "keep_percent": 50}, "keep_percent"),
        ({"mode": "self_compact_all", "keep_percent": 50}, "keep_percent"),
        ({"mode": "self_compact_all", "model": "openai-proxy/fake-2"}, "model"),
        ({"mode": "self_compact_sliding_window", "model": "openai-proxy/fake-2"}, "model"),
        ({"model": "openai-proxy/fake-11"}, "model"),
    ],
    ids=str,
)
async def test_arguments_of_a_compaction_without_effect_are_refused(
    mcp: Caller, letta: Letta, arguments: dict[str, object], argument: str
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for text in ("one", "two"):
        await letta.send(conversation_id, text)
    asked = len(letta.model.calls)

    refusal = await mcp.refused("compact", conversation_id=conversation_id, **arguments)

    assert f"{argument}: " in refusal
    assert len(letta.model.calls) == asked


async def test_the_share_to_keep_is_kept(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    left: dict[int, int] = {}
    for keep in (70, 50, 10):
        conversation_id = await letta.new_conversation(agent_id)
        for number in range(6):
            await letta.send(conversation_id, f"message {number}")
        done = await mcp.ok("compact", conversation_id=conversation_id, keep_percent=keep)
        assert done.data["messages_before"] == 12
        left[keep] = done.data["messages_after"]

    # The summary comes on top; the first that is kept is an answer of the agent.
    assert left == {70: 10, 50: 8, 10: 1}


async def test_too_little_to_compact_is_explained(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    refusal = await mcp.refused("compact", conversation_id=conversation_id)
    in_that_mode = await mcp.refused("compact", conversation_id=conversation_id, mode="all")

    assert "too little in its context" in refusal
    assert "mode='all'" in refusal
    assert "too little in its context" in in_that_mode
    assert "mode='all'" not in in_that_mode


async def test_the_default_conversation_can_be_compacted(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    for number in range(3):
        await mcp.ok("send_message", conversation_id="default", agent=agent_id, message=f"message {number}")

    done = await mcp.ok("compact", conversation_id="default", agent=name, mode="all")

    assert done.data["messages_after"] < done.data["messages_before"]


async def test_deleting_needs_a_confirmation_and_says_what_would_go(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    created = await mcp.ok("create_conversation", agent=agent_id, summary="precious", isolated_blocks=["human"])
    conversation_id = created.data["conversation_id"]

    refusal = await mcp.refused("delete", conversation_id=conversation_id)

    assert "precious" in refusal
    assert "1 isolated memory block" in refusal
    assert "confirm=true" in refusal
    assert (await mcp.ok("list_conversations", agent=agent_id)).data["conversations"][0]["id"] == conversation_id


async def test_a_deleted_conversation_is_gone_for_every_tool(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="hello")
    conversation_id = sent.data["conversation_id"]

    await mcp.ok("delete", conversation_id=conversation_id, confirm=True)

    for tool in ("list_messages", "compact", "delete"):
        assert "no conversation" in await mcp.refused(tool, conversation_id=conversation_id)
    assert "No conversations" in (await mcp.ok("list_conversations", agent=agent_id)).text


@pytest.mark.parametrize("tool", ["send_message", "wait_for_reply", "list_messages", "compact", "delete"])
async def test_an_unknown_conversation_is_said_to_be_unknown(mcp: Caller, letta: Letta, tool: str) -> None:
    extra = {"message": "hi"} if tool == "send_message" else {}

    refusal = await mcp.refused(tool, conversation_id=UNKNOWN_CONVERSATION, **extra)

    assert f"no conversation {UNKNOWN_CONVERSATION}" in refusal
    assert "list_conversations" in refusal
    assert "actor" not in refusal


@pytest.mark.fake_only
@pytest.mark.parametrize(
    "wrong",
    ["", "conv-1", "../agents", "conv-%2F..", "conv-0\n", "default ", "agent-123", UNKNOWN_CONVERSATION.upper()],
)
async def test_a_malformed_id_never_reaches_the_server(mcp: Caller, letta: Letta, wrong: str) -> None:
    letta.fake.requests.clear()

    refusal = await mcp.refused("compact", conversation_id=wrong)

    assert "Nothing was done" in refusal
    assert letta.fake.requests == []


async def test_a_misspelt_agent_is_answered_with_the_closest(mcp: Caller, letta: Letta) -> None:
    _, name = await letta.new_agent()

    refusal = await mcp.refused("list_conversations", agent=name[:-1] + "!")

    assert name in refusal


async def test_an_ambiguous_name_is_answered_with_the_ids(mcp: Caller, letta: Letta) -> None:
    first, name = await letta.new_agent()
    second, _ = await letta.new_agent(name)

    refusal = await mcp.refused("send_message", agent=name, message="which of you?")

    assert first in refusal
    assert second in refusal
    assert letta.model.calls == []


async def test_an_agent_beside_an_id_must_be_the_owner(mcp: Caller, letta: Letta) -> None:
    owner, _ = await letta.new_agent()
    other, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(owner)

    refusal = await mcp.refused("list_messages", conversation_id=conversation_id, agent=other)

    assert owner in refusal
    assert (await mcp.ok("list_messages", conversation_id=conversation_id, agent=owner)).data["agent_id"] == owner


async def test_the_default_conversation_needs_its_agent(mcp: Caller, letta: Letta) -> None:
    assert "needs the agent" in await mcp.refused("list_messages", conversation_id="default")


async def test_agents_are_listed_searched_and_paged(mcp: Caller, letta: Letta) -> None:
    ids = [(await letta.new_agent(f"pager {number} of {id(mcp)}"))[0] for number in range(3)]

    everyone = await mcp.ok("list_agents", search=f"of {id(mcp)}")
    first = await mcp.ok("list_agents", search=f"of {id(mcp)}", limit=2)
    rest = await mcp.ok("list_agents", search=f"of {id(mcp)}", limit=2, after=first.data["agents"][-1]["id"])

    assert [each["id"] for each in everyone.data["agents"]] == ids[::-1]
    assert [each["id"] for each in (*first.data["agents"], *rest.data["agents"])] == ids[::-1]
    assert all(agent_id in everyone.text for agent_id in ids)


async def test_an_unknown_cursor_of_the_agents_does_not_begin_again(mcp: Caller, letta: Letta) -> None:
    assert "no agent" in await mcp.refused("list_agents", after=UNKNOWN_AGENT)


async def test_models_are_listed_and_searched(mcp: Caller, letta: Letta) -> None:
    every = await mcp.ok("list_models")
    found = await mcp.ok("list_models", search="FAKE-2")
    none = await mcp.ok("list_models", search="no such thing")

    assert {"openai-proxy/fake-1", "openai-proxy/fake-2"} <= set(every.data["models"])
    assert found.data["models"] == ["openai-proxy/fake-2"]
    assert "None of the" in none.data["note"]


async def test_a_search_without_a_match_says_how_to_see_all(mcp: Caller, letta: Letta) -> None:
    answer = await mcp.ok("list_agents", search="nobody is called this")

    assert "agents" not in answer.data
    assert "list_agents() shows all" in answer.text
