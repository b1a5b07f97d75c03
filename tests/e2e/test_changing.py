"""Changing a conversation: its names, its archive, its model, and its copy of the agent's memory."""

from __future__ import annotations

from mcp import Client

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller

UNKNOWN_CONVERSATION = "conv-00000000-0000-4000-8000-000000000000"
RIGHT_TO_LEFT = "\u202eשלום 😀 مرحبا"


async def test_a_conversation_is_renamed_and_nothing_else(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    created = await mcp.ok("create_conversation", agent=agent_id, summary="old", model="openai-proxy/fake-2")
    place = {"conversation_id": created.data["conversation_id"]}

    first, again = [await mcp.ok("update", **place, summary=RIGHT_TO_LEFT) for _ in range(2)]

    assert first.data == again.data
    assert again.data == {
        **place,
        "changed": ["summary"],
        "summary": RIGHT_TO_LEFT,
        "model": "openai-proxy/fake-2",
    }
    stored = await letta.request("GET", f"/v1/conversations/{place['conversation_id']}")
    assert (stored["summary"], stored["model"]) == (RIGHT_TO_LEFT, "openai-proxy/fake-2")


async def test_a_summary_is_cleared_by_an_empty_one(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "old")

    updated = await mcp.ok("update", conversation_id=conversation_id, summary="")

    assert updated.data["changed"] == ["summary"]
    assert not (await letta.request("GET", f"/v1/conversations/{conversation_id}"))["summary"]


async def test_the_model_of_a_conversation_is_changed_and_given_back(
    mcp: Caller, letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}

    own = await mcp.ok("update", **place, model="openai-proxy/fake-2")
    await mcp.ok("send_message", **place, message="one")
    agents = await mcp.ok("update", **place, model="")
    await mcp.ok("send_message", **place, message="two")

    assert (own.data["model"], agents.data["changed"]) == ("openai-proxy/fake-2", ["model"])
    assert [call.model for call in model.calls] == ["fake-2", "fake-1"]


async def test_model_settings_are_changed_and_checked(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}

    updated = await mcp.ok("update", **place, model_settings={"provider_type": "openai", "temperature": 0.3})
    refusal = await mcp.refused("update", **place, model_settings={"provider_type": "acme"})

    assert updated.data["changed"] == ["model_settings"]
    stored = await letta.request("GET", f"/v1/conversations/{place['conversation_id']}")
    assert stored["model_settings"]["temperature"] == 0.3
    assert stored["model"] == "openai-proxy/fake-1"
    assert "one of: anthropic" in refusal


async def test_settings_that_would_have_no_effect_are_refused_and_not_described(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    settings = {"provider_type": "openai", "temperature": 0.3}
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    await mcp.ok("update", **place, model_settings=settings)
    in_force = await mcp.ok("describe", **place)

    cleared = await mcp.ok("update", **place, model="")
    described = await mcp.ok("describe", **place)
    for wrong in ({"model": "", "model_settings": settings}, {"model_settings": {"provider_type": "anthropic"}}):
        assert "model_settings" in await mcp.refused("update", **place, **wrong)

    assert in_force.data["model_settings"]["temperature"] == 0.3
    assert cleared.data["changed"] == ["model"]
    assert "model_settings" not in described.data


async def test_what_the_server_ignores_is_said_beside_what_it_did(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    updated = await mcp.ok(
        "update",
        conversation_id=conversation_id,
        summary="new",
        description="long",
        archived="yes",
        context_window_limit=9000,
    )

    assert updated.data["changed"] == ["summary"]
    assert set(updated.data["ignored"]) == {"description", "archived", "context_window_limit"}
    assert "ignored: description" in updated.text


async def test_a_change_that_the_server_ignores_altogether_is_an_error(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    refusal = await mcp.refused("update", conversation_id=conversation_id, archived="yes")

    assert "ignored archived" in refusal
    assert "Nothing was changed" in refusal


async def test_bad_changes_are_refused_before_anything_is_done(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "as it was")
    wrong: dict[str, dict[str, object]] = {
        "nothing to change": {},
        "it has openai-proxy/fake-2, openai-proxy/fake-1.": {"model": "openai-proxy/fake-3"},
        "cannot be stored": {"summary": "a\x00b"},
        "at most 10000": {"summary": "x" * 200_000},
        "it must be 1 or more": {"context_window_limit": 0},
    }

    for words, changes in wrong.items():
        arguments = {"summary": "changed", **changes} if changes else {}
        assert words in await mcp.refused("update", conversation_id=conversation_id, **arguments)

    assert (await letta.request("GET", f"/v1/conversations/{conversation_id}"))["summary"] == "as it was"


async def test_the_default_conversation_has_nothing_to_change(mcp: Caller) -> None:
    assert "no id of its own" in await mcp.refused("update", conversation_id="default", summary="x")


async def test_what_is_gone_cannot_be_changed(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    await mcp.ok("delete", conversation_id=conversation_id, confirm=True)

    for gone in (conversation_id, UNKNOWN_CONVERSATION):
        assert "no conversation" in await mcp.refused("update", conversation_id=gone, summary="x")
        assert "no conversation" in await mcp.refused("recompile", conversation_id=gone)


async def test_a_server_that_archives_keeps_it_all(cloud: tuple[Caller, FakeLetta]) -> None:
    mcp, fake = cloud
    agent_id = fake.add_agent("ann")
    place = {"conversation_id": fake.add_conversation(agent_id)}

    archived = await mcp.ok("update", **place, archived="yes", description="long", context_window_limit=9000)
    hidden = await mcp.ok("list_conversations", agent=agent_id)
    told = await mcp.ok("describe", **place)
    restored = await mcp.ok("update", **place, archived="no")

    assert "ignored" not in archived.data
    assert "archived" in archived.text
    assert "conversations" not in hidden.data
    assert (told.data["archived"], told.data["description"], told.data["context_limit"]) == (True, "long", 9000)
    assert restored.data["archived"] is False
    assert (await mcp.ok("list_conversations", agent=agent_id)).data["conversations"]


async def test_recompiling_tells_what_the_agent_learns(mcp: Caller, letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    await letta.request("PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": "Name: Bob"})

    dry = await mcp.ok("recompile", **place, dry_run=True)
    await mcp.ok("send_message", **place, message="before")
    done = await mcp.ok("recompile", **place)
    await mcp.ok("send_message", **place, message="after")
    again = await mcp.ok("recompile", **place)

    changes = "<human>\n- Name: Ann\n+ Name: Bob"
    assert (dry.data["changes"], done.data["changes"]) == (changes, changes)
    assert "would change" in dry.text
    assert ["Name: Bob" in str(call.messages) for call in model.calls] == [False, True]
    assert "changes" not in again.data
    assert "up to date" in again.text


async def test_recompiling_the_default_conversation_needs_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await letta.request("PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": "Name: Bob"})

    done = await mcp.ok("recompile", conversation_id="default", agent=agent_id, dry_run=True)

    assert "agent" in await mcp.refused("recompile", conversation_id="default")
    assert done.data["conversation_id"] == "default"


async def test_a_copy_that_would_lose_an_isolated_block_is_refused_and_not_advised(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    created = await mcp.ok("create_conversation", agent=agent_id, isolated_blocks=["human"])
    place = {"conversation_id": created.data["conversation_id"]}
    harmless = await mcp.ok("recompile", **place, dry_run=True)
    await letta.request("PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": "Name: Bob"})

    refusals = [await mcp.refused("recompile", **place, dry_run=dry) for dry in (True, False)]
    prompt = (await mcp.ok("list_messages", **place, kinds=["system"])).text
    told = await mcp.ok("describe", **place)

    assert harmless.data["conversation_id"] == place["conversation_id"]
    assert all("the agent's own value of the block 'human'" in each for each in refusals)
    assert all("Nothing was changed" in each for each in refusals)
    assert "Name: Ann" in prompt
    assert "Name: Bob" not in prompt
    assert "recompile" not in told.text
    assert f"Isolated blocks: 'human' {told.data['isolated_block_ids'][0]}" in told.text


async def test_long_changes_of_the_memory_are_cut(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    long = "\n".join(f"line {number}" for number in range(2000))
    await letta.request("PATCH", f"/v1/agents/{agent_id}/core-memory/blocks/human", json={"value": long})

    async with Client(build_server(Settings(base_url=letta.base_url, max_output_chars=3000))) as client:
        done = await Caller(client).ok("recompile", conversation_id=conversation_id)

    assert "Cut to fit" in done.text
    assert len(done.text) < 3000
