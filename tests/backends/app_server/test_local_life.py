"""The life of a conversation of this machine after its opening: forks and changes, on the real App Server."""

from __future__ import annotations

from tests.backends.app_server.conftest import MODEL
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller


async def texts_in(mcp: Caller, conversation_id: str) -> list[str]:
    listed = await mcp.ok("list_messages", conversation_id=conversation_id)
    return [each["text"] for each in listed.data.get("messages", [])]


async def test_a_branch_ends_at_the_message_and_can_be_hidden(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(Say("one"), Say("two"), Say("three"))
    source = (await mcp.ok("create_conversation", agent=agent, summary="source")).data["conversation_id"]
    for text in ("first", "second"):
        await mcp.ok("send_message", conversation_id=source, message=text)
    newest = await mcp.ok("list_messages", conversation_id=source, limit=2)

    forked = await mcp.ok(
        "fork", conversation_id=source, at_message=newest.data["older"], summary="branch", hidden=True
    )
    branch = forked.data["conversation_id"]
    await mcp.ok("send_message", conversation_id=branch, message="elsewhere")

    assert "note" not in forked.data
    assert forked.data["shared_messages"] == 3
    assert await texts_in(mcp, branch) == ["first", "one", "second", "elsewhere", "three"]
    assert await texts_in(mcp, source) == ["first", "one", "second", "two"]
    rows = (await mcp.ok("list_conversations", agent=agent)).data["conversations"]
    assert [(row["id"], row["summary"]) for row in rows] == [(source, "source")]


async def test_a_branch_does_not_take_the_name_of_its_source(mcp: Caller, agent: str) -> None:
    source = (await mcp.ok("create_conversation", agent=agent, summary="source")).data["conversation_id"]

    branch = (await mcp.ok("fork", conversation_id=source)).data

    assert "summary" not in branch
    again = await mcp.ok("create_conversation", agent=agent, summary="source", reuse=True)
    assert again.data["conversation_id"] == source


async def test_what_is_not_there_cannot_be_forked(mcp: Caller, agent: str) -> None:
    source = (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]

    assert "no conversation" in await mcp.refused("fork", conversation_id="local-conv-999999")
    assert "not in the context" in await mcp.refused("fork", conversation_id=source, at_message="ui-msg-999999")


async def test_the_default_conversation_can_be_forked(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(Say("yes"))
    await mcp.ok("send_message", conversation_id="default", agent=agent, message="anybody?")

    branch = (await mcp.ok("fork", conversation_id="default", agent=agent)).data["conversation_id"]

    assert await texts_in(mcp, branch) == ["anybody?", "yes"]


async def test_a_conversation_is_renamed_archived_and_restored(mcp: Caller, agent: str) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}

    updated = await mcp.ok("update", **place, summary="new name", archived="yes", description="long")
    left_out = await mcp.ok("list_conversations", agent=agent)
    restored = await mcp.ok("update", **place, archived="no", context_window_limit=9000)

    assert updated.data["changed"] == ["summary", "archived"]
    assert updated.data["ignored"] == ["description"]
    assert "conversations" not in left_out.data
    assert restored.data["archived"] is False
    told = await mcp.ok("describe", **place)
    assert (told.data["summary"], told.data["context_limit"]) == ("new name", 9000)


async def test_the_model_is_changed_to_one_that_is_there_and_given_back(mcp: Caller, agent: str) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}

    own = await mcp.ok("update", **place, model="lmstudio/fake-2")
    refusal = await mcp.refused("update", **place, model="lmstudio/fake-3")
    back = await mcp.ok("update", **place, model="")

    assert own.data["model"] == "lmstudio/fake-2"
    assert "it has lmstudio/fake-2" in refusal
    assert back.data["changed"] == ["model"]
    told = await mcp.ok("describe", **place)
    assert (told.data["model"], "model_is_own" in told.data) == (MODEL, False)


async def test_a_conversation_is_described(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(Say("one"))
    sent = await mcp.ok("send_message", agent=agent, message="first")

    told = await mcp.ok("describe", conversation_id=sent.data["conversation_id"])

    assert (told.data["messages"], told.data["messages_in_context"]) == (2, 2)
    assert told.data["context_limit"] == 128000
    assert told.data["agent_name"].startswith("newcomer")
    assert told.data["model"] == MODEL
    assert {"run_id", "unknown", "approvals"} & set(told.data) == set()


async def test_a_running_turn_is_described(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    held = Hold(Say("at last"))
    model.enqueue(held)
    running = await mcp.running(agent=agent, message="think")
    place = {"conversation_id": running.data["conversation_id"]}
    await model.asked()

    told = await mcp.ok("describe", **place)
    held.gate.set()
    await mcp.ok("wait_for_reply", **place)

    assert told.data["run_id"] == running.data["run_id"]


async def test_the_memory_is_recompiled(mcp: Caller, agent: str) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}

    done = await mcp.ok("recompile", **place)

    assert "Name: Ann" in done.data["prompt"]
    assert "not known what it was before" in done.text
    assert "no conversation" in await mcp.refused("recompile", conversation_id="local-conv-999999")


async def test_words_are_looked_for_in_the_conversations(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(Say("noted"), Say("which?"))
    first = await mcp.ok("send_message", agent=agent, message="the walrus is DUE")
    await mcp.ok("send_message", agent=agent, message="something else")

    answer = await mcp.ok("search_messages", query="due walrus", agent=agent)

    [row] = answer.data["messages"]
    assert (row["conversation_id"], row["text"]) == (first.data["conversation_id"], "the walrus is DUE")
    assert "no search of its own" in answer.data["note"]
