"""Sending a message, waiting for its reply, and finding it again."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import pytest
from mcp_types import RequestParamsMeta

from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Refuse, Say, Use
from tests.rig.servers import Caller

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001"
        "e221bc330000000049454e44ae426082"
    )
).decode()


@pytest.mark.all_ways
async def test_a_message_to_an_agent_opens_a_conversation_and_brings_the_reply(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    letta.model.enqueue(Say("Hello Ann."))

    answer = await mcp.ok("send_message", agent=name, message="Who am I?")

    assert answer.data["status"] == "completed"
    assert answer.data["reply"] == "Hello Ann."
    assert answer.data["agent_id"] == agent_id
    assert "Hello Ann." in answer.text
    assert answer.data["conversation_id"] in answer.text
    assert await letta.stored_texts(agent_id, answer.data["conversation_id"]) == ["Who am I?"]


async def test_the_conversation_goes_on_by_its_id(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    first = await mcp.ok("send_message", agent=agent_id, message="one")

    second = await mcp.ok("send_message", conversation_id=first.data["conversation_id"], message="two")

    assert second.data["reply"] == "echo: two"
    assert await letta.stored_texts(agent_id, first.data["conversation_id"]) == ["one", "two"]


async def test_the_default_conversation_of_an_agent_is_spoken_to_by_that_name(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    answer = await mcp.ok("send_message", conversation_id="default", agent=name, message="outside of any")

    assert (answer.data["conversation_id"], answer.data["reply"]) == ("default", "echo: outside of any")
    assert await letta.stored_texts(agent_id, "default") == ["outside of any"]


@pytest.mark.all_ways
@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '{"a": 1}',
        "null",
        "42",
        "\u2028 and \u2029 separate lines",
        "a NUL-free 😀 \u202eright to left\u202c",
        "data: [DONE]\n\nevent: error",
    ],
)
async def test_a_text_arrives_letter_by_letter(mcp: Caller, letta: Letta, text: str) -> None:
    agent_id, _ = await letta.new_agent()

    answer = await mcp.ok("send_message", agent=agent_id, message=text)

    assert await letta.stored_texts(agent_id, answer.data["conversation_id"]) == [text]
    assert answer.data["reply"] == f"echo: {text}"


async def test_a_tool_call_is_named_and_shown_in_full_when_asked_for(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    call = CallTools((Use("conversation_search", {"query": "tea"}),), text="Let me look.")
    letta.model.enqueue(call, Say("Nothing."), call, Say("Still nothing."))

    short = await mcp.ok("send_message", agent=agent_id, message="Find tea")
    full = await mcp.ok("send_message", agent=agent_id, message="Find tea again", kinds=["tool"])

    assert short.data["reply"] == "Let me look.\n\nNothing."
    assert short.data["tool_calls"] == [{"name": "conversation_search", "status": "success"}]
    [shown] = full.data["tool_calls"]
    assert '"tea"' in shown["arguments"]
    assert "results" in shown["result"]
    assert shown["result"] in full.text


async def test_the_thinking_comes_back_only_when_asked_for(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(Say("Blue.", reasoning="The sky scatters light."), Say("Blue.", reasoning="It still does."))

    without = await mcp.ok("send_message", agent=agent_id, message="Colour of the sky?")
    with_it = await mcp.ok("send_message", agent=agent_id, message="Sure?", kinds=["reasoning"])

    assert "scatters" not in without.text
    assert "reasoning" not in without.data
    assert with_it.data["reasoning"] == "It still does."


async def test_the_most_steps_of_a_turn_are_respected_and_told(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "a"}),)))

    answer = await mcp.ok("send_message", agent=agent_id, message="Search for ever", max_steps=1)

    assert (answer.data["status"], answer.data["stop_reason"]) == ("empty", "max_steps")
    assert "most steps" in answer.data["note"]


async def test_no_steps_at_all_are_refused_before_anything_is_sent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("send_message", agent=agent_id, message="hello", max_steps=0)

    assert "max_steps" in refusal
    assert letta.model.calls == []


async def test_another_model_answers_when_the_call_says_so(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    await mcp.ok("send_message", agent=agent_id, message="with the other", model="openai-proxy/fake-2")
    await mcp.ok("send_message", agent=agent_id, message="with its own")

    assert [call.model for call in letta.model.calls] == ["fake-2", "fake-1"]


async def test_an_unknown_model_is_refused_and_no_conversation_is_opened(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("send_message", agent=agent_id, message="hi", model="no/such")

    assert refusal.startswith("model: this server has no 'no/such'; it has")
    assert "conversations" not in (await mcp.ok("list_conversations", agent=agent_id)).data


@pytest.mark.all_ways
async def test_an_image_goes_along_with_the_text(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(Say("A pixel."))

    answer = await mcp.ok(
        "send_message", agent=agent_id, message="What is this?", images=[f"data:image/png;base64,{PIXEL}"]
    )

    assert answer.data["reply"] == "A pixel."
    listed = await mcp.ok("list_messages", conversation_id=answer.data["conversation_id"])
    assert "What is this? [image]" in listed.text
    if letta.is_fake:
        [sent] = [each for each in letta.fake.requests if each.path.endswith("/messages") and each.method == "POST"]
        assert sent.json["messages"][0]["content"] == [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        ]


@pytest.mark.all_ways
async def test_a_slow_reply_is_running_and_then_fetched(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("At last."))
    letta.model.enqueue(held)

    running = await mcp.running(conversation_id=conversation_id, message="Think hard")
    assert running.data["status"] == "running"
    assert "wait_for_reply" in running.data["next"]
    assert "Do not send the message again" in running.text
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", conversation_id=conversation_id, run_id=running.data["run_id"])

    assert (reply.data["status"], reply.data["reply"]) == ("completed", "At last.")
    assert reply.data["run_id"] == running.data["run_id"]
    assert await letta.stored_texts(agent_id, conversation_id) == ["Think hard"]


async def test_a_finished_reply_can_be_fetched_again_by_the_conversation_alone(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "x"}),)), Say("The answer.", reasoning="Hm."))
    sent = await mcp.ok("send_message", agent=agent_id, message="question")

    again = await mcp.ok("wait_for_reply", conversation_id=sent.data["conversation_id"], kinds=["reasoning"])

    assert again.data["reply"] == sent.data["reply"] == "The answer."
    assert again.data["tool_calls"] == sent.data["tool_calls"]
    assert again.data["reasoning"] == "Hm."
    assert again.data["usage"]["total_tokens"] == sent.data["usage"]["total_tokens"]


async def test_a_reply_in_the_default_conversation_is_found_again(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    await mcp.ok("send_message", agent=agent_id, message="elsewhere")
    await mcp.ok("send_message", conversation_id="default", agent=agent_id, message="here")
    await mcp.ok("send_message", agent=agent_id, message="elsewhere again")

    found = await mcp.ok("wait_for_reply", conversation_id="default", agent=agent_id)

    assert found.data["reply"] == "echo: here"


async def test_a_turn_that_somebody_else_started_is_waited_for(mcp: Caller, letta: Letta) -> None:
    """Letta keeps no stream of a turn in the foreground, and never answers a request for it."""
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("For them."))
    letta.model.enqueue(held)
    found: list[dict[str, object]] = []

    async def wait() -> None:
        found.append((await mcp.ok("wait_for_reply", conversation_id=conversation_id)).data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(letta.send, conversation_id, "from elsewhere")
        await letta.model.asked()
        found.append((await mcp.ok("wait_for_reply", conversation_id=conversation_id, wait_seconds=0)).data)
        mcp.progress.clear()
        tasks.start_soon(wait)
        await mcp.until_reported(", 0 s")
        held.gate.set()

    assert [each["status"] for each in found] == ["running", "completed"]
    assert found[1]["reply"] == "For them."


async def test_waiting_where_nothing_was_sent_says_so(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    there = await mcp.refused("wait_for_reply", conversation_id=conversation_id)
    default = await mcp.refused("wait_for_reply", conversation_id="default", agent=agent_id)

    assert there == f"Nothing was sent in {conversation_id} yet, so there is no reply. Use send_message."
    assert default.startswith(f"Nothing was sent in the default conversation of {agent_id} yet")


async def test_a_failing_model_is_a_failed_turn_that_says_what_is_safe(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(Refuse(400, "the provider is unhappy"))

    failed = await mcp.ok("send_message", conversation_id=conversation_id, message="hello")
    fetched = await mcp.ok("wait_for_reply", conversation_id=conversation_id)
    again = await mcp.ok("send_message", conversation_id=conversation_id, message="hello")

    assert (failed.data["status"], failed.data["stop_reason"]) == ("failed", "llm_api_error")
    assert "the provider is unhappy" in failed.data["note"]
    assert "safe to send the message again" in failed.data["next"]
    assert fetched.data["status"] == "failed"
    assert "the provider is unhappy" in fetched.data["note"]
    assert again.data["reply"] == "echo: hello"
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello"]


async def test_a_tool_that_needs_approval_is_a_state_of_its_own(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),)))

    answer = await mcp.ok("send_message", agent=agent_id, message="Remember tea")
    blocked = await mcp.refused("send_message", conversation_id=answer.data["conversation_id"], message="and?")
    fetched = await mcp.ok("wait_for_reply", conversation_id=answer.data["conversation_id"])

    assert answer.data["status"] == "needs_approval"
    [approval] = answer.data["approvals"]
    assert approval["name"] == "memory_insert"
    assert "Likes tea" in approval["arguments"]
    assert approval["tool_call_id"] in answer.text
    assert "waits for a decision" in blocked
    assert "Nothing was sent" in blocked
    assert fetched.data["status"] == "needs_approval"
    assert fetched.data["approvals"] == answer.data["approvals"]


@pytest.mark.all_ways
async def test_progress_is_told_at_once(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("done"))
    letta.model.enqueue(held)

    answer = await mcp.ok("send_message", agent=agent_id, message="slowly", wait_seconds=0.3)
    held.gate.set()

    assert answer.progress
    assert answer.progress[0].endswith(", 0 s")
    await mcp.ok("wait_for_reply", conversation_id=answer.data["conversation_id"])


async def test_a_message_of_nothing_is_refused(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    assert "message" in await mcp.refused("send_message", agent=agent_id, message=" \n")
    assert letta.model.calls == []


async def test_a_message_to_nowhere_is_refused(mcp: Caller, letta: Letta) -> None:
    refusal = await mcp.refused("send_message", message="hello?")

    assert "conversation_id" in refusal
    assert "agent" in refusal


async def test_a_message_to_a_deleted_conversation_is_not_sent(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="hello")
    await mcp.ok("delete", conversation_id=sent.data["conversation_id"], confirm=True)

    refusal = await mcp.refused("send_message", conversation_id=sent.data["conversation_id"], message="still there?")

    assert "no conversation" in refusal
    assert len(letta.model.calls) == 1


async def test_a_fetched_reply_says_which_message_it_answers(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    sent = await mcp.ok("send_message", agent=agent_id, message="Which one?")

    fetched = await mcp.ok("wait_for_reply", conversation_id=sent.data["conversation_id"])

    assert fetched.data["answers"] == "Which one?"
    assert "In answer to:\n> Which one?\n" in fetched.text


async def test_a_reply_that_is_there_is_given_without_waiting_and_one_that_is_not_is_running(
    mcp: Caller, letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    await letta.send(place["conversation_id"], "sent past our server")
    held = Hold(Say("later"))
    letta.model.enqueue(held)

    ended = await mcp.ok("wait_for_reply", **place, wait_seconds=0)
    statuses: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(letta.send, place["conversation_id"], "another")
        await letta.model.asked()
        statuses.append((await mcp.ok("wait_for_reply", **place, wait_seconds=0)).data["status"])
        held.gate.set()

    assert (ended.data["status"], ended.data["reply"]) == ("completed", "echo: sent past our server")
    assert statuses == ["running"]


@pytest.mark.all_ways
async def test_a_reply_that_nobody_watches_is_asked_for_in_whole_messages(mcp: Caller, letta: Letta) -> None:
    """Only then 0.16.8 reports that a reply was cut off."""
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(Say("and so on", cut=True))

    result = await mcp.client.call_tool("send_message", {"agent": agent_id, "message": "Write a book"})

    assert (result.structured_content or {})["stop_reason"] == "max_tokens_exceeded"


@pytest.mark.parametrize("wait_seconds", [50, None], ids=["with a wait of its own", "with progress"])
async def test_a_reply_that_somebody_watches_is_streamed_token_by_token(
    mcp: Caller, letta: Letta, wait_seconds: float | None
) -> None:
    """0.16.8 ends a token stream with end_turn, and the run too, when the reply was cut off."""
    agent_id, _ = await letta.new_agent()
    letta.model.enqueue(Say("Once upon a", cut=True))
    arguments = {"agent": agent_id, "message": "Tell me a story", "wait_seconds": wait_seconds}
    meta = RequestParamsMeta() if wait_seconds else RequestParamsMeta(progress_token="watching")

    result = await mcp.client.call_tool("send_message", arguments, meta=meta)

    told: dict[str, Any] = result.structured_content or {}
    assert (told["reply"], told["stop_reason"]) == ("Once upon a", "end_turn")
