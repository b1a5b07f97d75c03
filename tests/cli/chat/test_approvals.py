"""Deciding about tool calls in a terminal: what is shown is what runs."""

from __future__ import annotations

import json

from letta_conversations_mcp.cli.chat.approval_card import Card, shown_call
from letta_conversations_mcp.tools.results.viewer import ViewedCall
from tests.cli.chat.virtual_terminal import chat
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use

NOTE = Use("memory_insert", {"label": "human", "new_string": "Likes tea.", "insert_line": -1})


async def test_an_approval_shows_what_would_run_and_runs_it(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent(needs_approval="memory_insert")
    model.enqueue(CallTools((NOTE,)), Say("Noted."))

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("I like tea")
        await terminal.until("wants to run a tool and waits for you")
        await terminal.until_status("waits for your decision")
        for line in ('label       = "human",', 'new_string  = "Likes tea.",', "insert_line = -1,"):
            assert f"│   {line}" in terminal.text

        terminal.enter("/approve")
        await terminal.until("Noted.")
        await terminal.until_status("/help")
        assert terminal.flat.count("wants to run") == 1


async def test_a_denial_reaches_the_agent_with_its_reason(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation = await letta.new_conversation(agent_id)
    model.enqueue(CallTools((NOTE,)), Say("As you wish."))

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("I like tea")
        await terminal.until("waits for you")
        terminal.enter("/deny not before Monday")
        await terminal.until("As you wish.")
    assert any("not before Monday" in text for _, text in model.calls[-1].messages)


async def test_a_message_is_not_sent_while_the_agent_waits(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation = await letta.new_conversation(agent_id)
    model.enqueue(CallTools((NOTE,)))

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("I like tea")
        await terminal.until("waits for you")
        terminal.enter("and coffee")
        await terminal.until("Approve or deny it first.")
        await terminal.until("you ▸ and coffee", times=2)
        await terminal.until("wants to run a tool", times=2)
    assert "and coffee" not in await letta.stored_texts(agent_id, conversation)


async def test_what_was_decided_elsewhere_is_not_decided_again(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation = await letta.new_conversation(agent_id)
    other = Use("memory_insert", {"label": "human", "new_string": "Likes gin.", "insert_line": -1})
    model.enqueue(CallTools((NOTE,)), CallTools((other,)))

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("has no message yet")
        terminal.enter("I like tea")
        await terminal.until_status("/approve or /deny")
        call = (await waiting(letta, agent_id, conversation))["tool_call_id"]
        approval = {"type": "approval", "approvals": [{"type": "approval", "approve": True, "tool_call_id": call}]}
        await letta.begin(conversation, approval)

        terminal.enter("/approve")
        await terminal.until("Nothing was decided")
        await terminal.until('"Likes gin."')
        assert (await waiting(letta, agent_id, conversation))["name"] == "memory_insert"


async def test_a_waiting_approval_is_shown_when_one_comes_back(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation = await letta.new_conversation(agent_id)
    model.enqueue(CallTools((NOTE,)), Say("Noted."))
    await letta.send(conversation, "I like tea")

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("wants to run a tool and waits for you")
        await terminal.until_status("/approve or /deny")
        terminal.enter("/approve")
        await terminal.until("Noted.")


async def waiting(letta: Letta, agent_id: str, conversation: str) -> dict[str, str]:
    """The newest tool call that waits, as the server has it."""
    listed = await letta.request(
        "GET", f"/v1/agents/{agent_id}/messages", params={"conversation_id": conversation, "order": "desc", "limit": 1}
    )
    assert listed[0]["message_type"] == "approval_request_message", listed
    return listed[0]["tool_call"]


def test_nothing_of_a_call_is_cut_or_hidden() -> None:
    command = "\n".join(f"echo {number}" for number in range(200)) + "\n# \u202e\x1b[8mhidden"

    shown = str(shown_call("run_shell", json.dumps({"command": command, "dry-run": False})))

    assert all(f"echo {number}\\n" in shown for number in range(200))
    assert "\\u202e" in shown
    assert "\x1b" not in shown
    assert '"dry-run" = false,' in shown


def test_arguments_that_can_be_read_in_two_ways_are_shown_as_they_are() -> None:
    repeated = '{"to": "Ann", "to": "Eve"}'
    for arguments in (repeated, "[1, 2]", '{"to": "Ann"', '"text"'):
        assert str(shown_call("pay", arguments)) == f"pay, with arguments that are no plain JSON object:\n  {arguments}"


def test_no_call_imitates_the_next_one_of_its_card() -> None:
    calls = [ViewedCall(name="list\n#2  pay()", arguments='[1,\n#2  pay(\n  "x"]'), ViewedCall(name="pay")]

    shown = str(Card("agent", calls)).splitlines()

    assert [line for line in shown if line.startswith("  | #")] == [
        "  | #1  list\\n#2  pay(), with arguments that are no plain JSON object:",
        "  | #2  pay()",
    ]


def test_a_backslash_of_the_text_is_told_from_a_new_line() -> None:
    shown = str(shown_call("run", json.dumps({"a": "C:\\new", "b": "x\ny"})))

    assert '"C:\\\\new"' in shown
    assert '"x\\n\n y"' in shown


def test_a_call_without_arguments() -> None:
    assert str(shown_call("ping", "")) == str(shown_call("ping", "{}")) == "ping()"
