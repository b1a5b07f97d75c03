"""Conversations with agents on this machine: the tools, on the real App Server."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import TextResourceContents

from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.supervisor import TOKEN
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.app_servers import address, ask
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.model import CallTools, Hold, Refuse, Say, ScriptedModel, Use
from tests.rig.openai_model import SEEING_MODEL_NAME
from tests.rig.servers import Caller, Way

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def texts(data: dict[str, Any]) -> list[str]:
    return [each.get("text", "") for each in data.get("messages", [])]


async def test_a_newcomer_begins_from_nothing(mcp: Caller, model: ScriptedModel) -> None:
    model.enqueue(Say("Hello!"))

    models = await mcp.ok("list_models")
    created = await mcp.ok("create_agent", name=f"first {uuid.uuid4().hex[:6]}", persona="I am brief.")
    reply = await mcp.ok("send_message", agent=created.data["name"], message="Hi")

    assert MODEL in models.data["models"]
    assert created.data["agent_id"].startswith("agent-local-")
    assert reply.data["reply"] == "Hello!"
    assert "I am brief." in str(model.calls[-1].messages)


async def test_conversations_do_not_see_each_other_and_share_memory(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"), Say("two"))

    first = await mcp.ok("send_message", agent=agent, message="the word is walrus")
    second = await mcp.ok("send_message", agent=agent, message="what is the word?")

    assert first.data["conversation_id"] != second.data["conversation_id"]
    assert "walrus" not in str(model.calls[-1].messages)
    assert "Name: Ann" in str(model.calls[-1].messages)


async def test_a_conversation_goes_on_and_is_read_back_without_reminders(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    model.enqueue(Say("noted"), Say("Friday", reasoning="They said so."))
    sent = await mcp.ok("send_message", agent=agent, message="It is due on Friday.")
    place = {"conversation_id": sent.data["conversation_id"]}
    again = await mcp.ok("send_message", **place, message="When?", kinds=["reasoning"])

    page = await mcp.ok("list_messages", **place)
    uri = f"letta://conversations/{place['conversation_id']}/transcript"
    [transcript] = (await mcp.client.read_resource(uri)).contents

    assert again.data["reasoning"] == "They said so."
    assert texts(page.data) == ["It is due on Friday.", "noted", "When?", "Friday"]
    assert isinstance(transcript, TextResourceContents)
    assert "When?" in transcript.text
    assert "system-reminder" not in page.text + transcript.text


async def test_tools_of_this_machine_are_not_offered_and_not_run(
    mcp: Caller, agent: str, model: ScriptedModel, tmp_path: Path
) -> None:
    made = tmp_path / "must not be there"
    model.enqueue(CallTools((Use("Bash", {"command": f"touch '{made}'"}),)), Say("I could not."))

    answer = await mcp.ok("send_message", agent=agent, message="make a file", kinds=["tool"])
    following = await mcp.ok("send_message", conversation_id=answer.data["conversation_id"], message="still there?")

    assert answer.data["reply"] == "I could not."
    assert answer.data["tool_calls"][0]["status"] == "denied"
    assert not made.exists()
    assert following.data["status"] == "completed"


async def test_a_slow_reply_is_running_and_then_fetched(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    held = Hold(Say("At last."))
    model.enqueue(held)

    running = await mcp.running(agent=agent, message="think")
    held.gate.set()
    place = {"conversation_id": running.data["conversation_id"]}
    reply = await mcp.ok("wait_for_reply", **place, run_id=running.data["run_id"])
    later = await mcp.ok("wait_for_reply", **place)

    assert running.data["status"] == "running"
    assert (reply.data["status"], reply.data["reply"]) == ("completed", "At last.")
    assert later.data["reply"] == "At last."


async def test_the_default_conversation_is_there_too(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(Say("yes"))
    await mcp.ok("send_message", conversation_id="default", agent=agent, message="anybody?")

    page = await mcp.ok("list_messages", conversation_id="default", agent=agent)

    assert texts(page.data) == ["anybody?", "yes"]


async def test_conversations_are_listed_searched_ordered_and_paged(mcp: Caller, agent: str) -> None:
    made = [
        (await mcp.ok("create_conversation", agent=agent, summary=f"number {n}")).data["conversation_id"]
        for n in range(4)
    ]

    first = await mcp.ok("list_conversations", agent=agent, order="asc", limit=3)
    rest = await mcp.ok("list_conversations", agent=agent, order="asc", limit=3, after=made[2])
    found = await mcp.ok("list_conversations", agent=agent, search="number 2")

    assert [row["id"] for row in first.data["conversations"]] == made[:3]
    assert [row["id"] for row in rest.data["conversations"]] == made[3:]
    assert [row["id"] for row in found.data["conversations"]] == [made[2]]


async def test_tags_are_given_listed_by_and_changed(mcp: Caller, agent: str) -> None:
    one = await mcp.ok("create_conversation", agent=agent, summary="one", tags=["urgent", "customer"])
    two = await mcp.ok("create_conversation", agent=agent, summary="two")

    before = await mcp.ok("list_conversations", agent=agent, tag="urgent")
    await mcp.ok("update", conversation_id=one.data["conversation_id"], tags=["customer"])
    await mcp.ok("update", conversation_id=two.data["conversation_id"], tags=["urgent"])
    after = await mcp.ok("list_conversations", agent=agent, tag="urgent")
    refusal = await mcp.refused("create_conversation", agent=agent, tags=["key:user:1"])

    assert [row["id"] for row in before.data["conversations"]] == [one.data["conversation_id"]]
    assert [row["id"] for row in after.data["conversations"]] == [two.data["conversation_id"]]
    assert "no tag" in refusal


async def test_a_key_is_a_tag_that_renaming_keeps_and_no_text_can_forge(mcp: Caller, agent: str) -> None:
    older = await mcp.ok("create_conversation", agent=agent, summary="older")
    forged = await mcp.ok("create_conversation", agent=agent, summary="printer broken [key: k]")
    first = await mcp.ok("create_conversation", agent=agent, key="k", summary="Ann", tags=["vip"])
    place = {"conversation_id": first.data["conversation_id"]}

    await mcp.ok("update", conversation_id=older.data["conversation_id"], summary="mine [key: k]")
    await mcp.ok("fork", **place, summary="what if")
    renamed = await mcp.ok("update", **place, summary="Bob", tags=["regular"])
    again = await mcp.ok("create_conversation", agent=agent, key="k")
    by_tag = await mcp.ok("list_conversations", agent=agent, tag="regular")

    assert "reused" not in first.data
    assert first.data["summary"] == "Ann"
    assert forged.data["summary"] == "printer broken (key: k)"
    assert renamed.data["summary"] == "Bob"
    assert (again.data["conversation_id"], again.data["reused"]) == (place["conversation_id"], True)
    assert [row["id"] for row in by_tag.data["conversations"]] == [place["conversation_id"]]


async def test_a_hidden_conversation_is_found_by_its_key_until_it_is_deleted(mcp: Caller, agent: str) -> None:
    first = await mcp.ok("create_conversation", agent=agent, key="k", hidden=True)
    again = await mcp.ok("create_conversation", agent=agent, key="k")
    await mcp.ok("delete", conversation_id=first.data["conversation_id"], confirm=True)
    fresh = await mcp.ok("create_conversation", agent=agent, key="k")

    assert again.data["conversation_id"] == first.data["conversation_id"]
    assert "reused" not in fresh.data
    assert fresh.data["conversation_id"] != first.data["conversation_id"]


async def test_a_key_of_version_0_1_0_is_found_and_becomes_a_tag(
    mcp: Caller, agent: str, local_settings: Settings
) -> None:
    assert local_settings.local_dir is not None
    server = AppServer(address(local_settings.local_dir)["url"], (local_settings.local_dir / TOKEN).read_text())
    made = await ask(server, "conversation_create", body={"agent_id": agent, "summary": "Ann [key: k]"})
    old = made["conversation"]["id"]

    found = await mcp.ok("create_conversation", agent=agent, key="k")
    renamed = await mcp.ok("update", conversation_id=old, summary="Bob")
    again = await mcp.ok("create_conversation", agent=agent, key="k")

    assert found.data["conversation_id"] == again.data["conversation_id"] == old
    assert renamed.data["summary"] == "Bob"


async def test_compacting_tells_what_it_did(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    sent = await mcp.ok("send_message", agent=agent, message="one")
    place = {"conversation_id": sent.data["conversation_id"]}
    for text in ("two", "three"):
        await mcp.ok("send_message", **place, message=text)

    done = await mcp.ok("compact", **place, mode="all")
    listed = await mcp.ok("list_messages", **place)

    assert done.data["messages_after"] < done.data["messages_before"]
    assert "no longer listed" in done.text
    assert "summary" in [each["kind"] for each in listed.data["messages"]]


async def test_the_share_to_keep_is_kept_and_a_summary_alone_is_not_compacted(mcp: Caller, agent: str) -> None:
    left: dict[int, int] = {}
    for keep in (70, 50):
        place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}
        for number in range(5):
            await mcp.ok("send_message", **place, message=f"message {number}")
        done = await mcp.ok("compact", **place, keep_percent=keep)
        assert done.data["messages_before"] == 10
        left[keep] = done.data["messages_after"]
    await mcp.ok("compact", **place, mode="all")
    refusal = await mcp.refused("compact", **place, mode="all")

    assert left == {70: 8, 50: 6}
    assert "no message in its context besides the summary" in refusal


async def test_settings_that_are_ignored_here_are_refused(mcp: Caller, agent: str) -> None:
    made = await mcp.ok("create_conversation", agent=agent, model_settings={"max_tokens": 77})
    place = {"conversation_id": made.data["conversation_id"]}

    for wrong in ({"bogus": 1}, {"temperature": 0.2}, {"provider_type": "anthropic", "max_tokens": 77}):
        assert "ignore" in await mcp.refused("create_conversation", agent=agent, model_settings=wrong)
        assert "ignore" in await mcp.refused("update", **place, model_settings=wrong)
    described = await mcp.ok("describe", **place)

    assert described.data["model_settings"] == {"max_tokens": 77}


async def test_deleting_hides_and_says_so(mcp: Caller, agent: str) -> None:
    made = await mcp.ok("create_conversation", agent=agent, summary="secret")

    asked = await mcp.refused("delete", conversation_id=made.data["conversation_id"])
    done = await mcp.ok("delete", conversation_id=made.data["conversation_id"], confirm=True)

    assert "it would hide" in asked
    assert done.data["outcome"] == "hidden"
    assert "cannot delete" in done.text
    assert "No conversations" in (await mcp.ok("list_conversations", agent=agent)).text


async def test_isolated_blocks_are_refused(mcp: Caller, agent: str) -> None:
    refusal = await mcp.refused("create_conversation", agent=agent, isolated_blocks=["human"])

    assert "share all of them" in refusal
    assert "conversations" not in (await mcp.ok("list_conversations", agent=agent)).data


async def test_a_reply_at_the_models_longest_output_is_completed_and_said_to_be_cut_off(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    model.enqueue(Say("Once upon a", cut=True))

    sent = await mcp.ok("send_message", agent=agent, message="tell me a story")

    assert (sent.data["status"], sent.data["reply"]) == ("completed", "Once upon a")
    assert sent.data["stop_reason"] == "max_tokens_exceeded"
    assert "cut off" in sent.data["note"]


async def test_describe_and_compact_count_the_same_messages(
    mcp: Caller, local_settings: Settings, model: ScriptedModel
) -> None:
    async with Way("memory", "modern").to(local_settings.model_copy(update={"local_tools": "on"})) as caller:
        agent = (await caller.ok("create_agent", name=unique("counted"), model=MODEL)).data["agent_id"]
        model.enqueue(
            CallTools((Use("Bash", {"command": "echo hi", "description": "say hi"}),), text="I run."), Say("Ran.")
        )
        sent = await caller.ok("send_message", agent=agent, message="run")
    place = {"conversation_id": sent.data["conversation_id"]}
    before = await mcp.ok("describe", **place)
    model.enqueue(Say("A summary."))
    compacted = await mcp.ok("compact", **place, mode="all")
    after = await mcp.ok("describe", **place)

    assert (before.data["messages_in_context"], before.data["messages"]) == (4, 4)
    assert before.data["by_kind"] == {"user": 1, "agent": 2, "tool": 1}
    assert (compacted.data["messages_before"], compacted.data["messages_after"]) == (4, 1)
    assert (after.data["messages_in_context"], after.data["by_kind"]) == (1, {"summary": 1})


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"model": MODEL}, "Nothing was sent"),
        ({"max_steps": 3}, "Nothing was sent"),
        # The server would take it, and the model would never see it.
        ({"images": ["https://127.0.0.1/dot.png"]}, "give the image itself, as data:image/png"),
        ({"sender": "agent-local-00000000-0000-4000-8000-000000000000"}, "no agent"),
    ],
)
async def test_a_message_that_is_refused_here_opens_no_conversation(
    mcp: Caller, agent: str, model: ScriptedModel, extra: dict[str, Any], words: str
) -> None:
    assert words in await mcp.refused("send_message", agent=agent, message="x", **extra)

    assert "conversations" not in (await mcp.ok("list_conversations", agent=agent)).data
    assert model.calls == []


async def test_unknown_ids_are_said_to_be_unknown(mcp: Caller, model: ScriptedModel) -> None:
    assert "no conversation" in await mcp.refused("list_messages", conversation_id="local-conv-999999")
    assert "no conversation" in await mcp.refused("send_message", conversation_id="local-conv-999999", message="x")
    nobody = "agent-local-00000000-0000-4000-8000-000000000000"
    assert "no agent" in await mcp.refused("send_message", agent=nobody, message="x")
    assert model.calls == []


async def test_a_model_that_refuses_is_a_failed_turn(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    model.enqueue(*(Refuse(401, "bad key for the model") for _ in range(1)))

    failed = await mcp.ok("send_message", agent=agent, message="hello", wait_seconds=60)
    again = await mcp.ok("send_message", conversation_id=failed.data["conversation_id"], message="hello again")

    assert failed.data["status"] == "failed"
    assert "bad key for the model" in json.dumps(failed.data)
    assert again.data["status"] == "completed"


async def test_five_conversations_are_answered_side_by_side(mcp: Caller, agent: str, model: ScriptedModel) -> None:
    names = [uuid.uuid4().hex for _ in range(5)]
    held = [Hold(Say(f"answer to {name}")) for name in names]
    for name, hold in zip(names, held, strict=True):
        model.enqueue(hold, to=name)
    replies: dict[str, str] = {}

    async def ask(name: str) -> None:
        replies[name] = (await mcp.ok("send_message", agent=agent, message=name)).data["reply"]

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name)
        await model.asked(5)
        for hold in held:
            hold.gate.set()

    assert replies == {name: f"answer to {name}" for name in names}


async def test_an_image_reaches_a_model_that_takes_images(mcp: Caller, model: ScriptedModel) -> None:
    seeing = await mcp.ok("create_agent", name=f"seeing {uuid.uuid4().hex[:6]}", model=f"lmstudio/{SEEING_MODEL_NAME}")
    model.enqueue(Say("A dot."))

    sent = await mcp.ok("send_message", agent=seeing.data["agent_id"], message="what is this?", images=[DOT])
    page = await mcp.ok("list_messages", conversation_id=sent.data["conversation_id"])

    assert sent.data["reply"] == "A dot."
    assert model.calls[-1].images == (DOT,)
    assert texts(page.data)[0].startswith("what is this?")


async def test_a_model_that_takes_no_images_is_told_that_one_was_left_out(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    sent = await mcp.ok("send_message", agent=agent, message="what is this?", images=[DOT])
    plain = await mcp.ok("send_message", agent=agent, message="and this?")

    assert "image omitted: model does not support images" in str(model.calls[0].messages)
    assert model.calls[0].images == ()
    assert "image omitted" in sent.data["note"]
    assert "note" not in plain.data


async def test_an_agent_is_deleted_with_its_conversations(mcp: Caller, agent: str) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent, summary="x")).data["conversation_id"]}
    await mcp.ok("create_conversation", agent=agent, hidden=True)

    asked = await mcp.refused("delete_agent", agent=agent)
    deleted = await mcp.ok("delete_agent", agent=agent, confirm=True)

    assert "2 conversations" in asked
    assert deleted.data["conversations"] == 2
    assert "no agent" in await mcp.refused("delete_agent", agent=agent, confirm=True)
    assert "no conversation" in await mcp.refused("wait_for_reply", **place)


async def test_a_new_agent_without_tools_is_said_not_to_write_its_memory(mcp: Caller, local_settings: Settings) -> None:
    without = await mcp.ok("create_agent", name=unique("forgetful"), model=MODEL)
    asking = local_settings.model_copy(update={"local_tools": "ask"})
    async with Way("memory", "modern").to(asking) as caller:
        able = await caller.ok("create_agent", name=unique("able"), model=MODEL)

    assert "cannot write to its own memory" in without.data["note"]
    assert "note" not in able.data


async def test_cursors_that_are_unknown_are_refused(mcp: Caller, agent: str) -> None:
    assert "no conversation" in await mcp.refused("list_conversations", agent=agent, after="local-conv-999999")
    assert "no agent" in await mcp.refused("list_agents", after="agent-local-00000000-0000-4000-8000-000000000000")


async def test_a_summary_by_another_model_is_refused(mcp: Caller, agent: str) -> None:
    made = await mcp.ok("create_conversation", agent=agent)

    refusal = await mcp.refused("compact", conversation_id=made.data["conversation_id"], model=MODEL)

    assert "the conversation's own model" in refusal
    assert "Nothing was changed" in refusal


async def test_a_conversation_without_messages_has_no_time_of_a_last_one(mcp: Caller, agent: str) -> None:
    opened = [(await mcp.ok("create_conversation", agent=agent)).data["conversation_id"] for _ in range(3)]
    await mcp.ok("send_message", conversation_id=opened[1], message="hello")

    listed = await mcp.ok("list_conversations", agent=agent, order_by="last_message_at", order="asc")

    rows = listed.data["conversations"]
    # Those without messages are not among the recently active ones.
    assert [each["id"] for each in rows] == [opened[1]]
    assert "last_message_at" in rows[0]


async def test_a_message_that_looks_like_a_reminder_does_not_disappear(
    mcp: Caller, agent: str, model: ScriptedModel
) -> None:
    reminder = "<system-reminder>\nThis is mine.\n</system-reminder>"
    model.enqueue(Say("one"), Say("two"))
    sent = await mcp.ok("send_message", agent=agent, message="hello")
    place = {"conversation_id": sent.data["conversation_id"]}

    await mcp.ok("send_message", **place, message=reminder)

    assert texts((await mcp.ok("list_messages", **place)).data) == ["hello", "one", reminder, "two"]
