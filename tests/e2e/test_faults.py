"""What the reader is told when Letta, or the way to it, fails."""

from __future__ import annotations

import json

import anyio
import pytest
from mcp import MCPError

from letta_conversations_mcp.backends.letta_api import messages
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_faults import RecordedRequest
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, Use
from tests.rig.servers import Caller, connect

pytestmark = pytest.mark.fake_only

SEND = "/v1/conversations/*/messages"
GATEWAY_PAGE = "<html><body><h1>502 Bad Gateway</h1><p>secret-host-name</p></body></html>"


async def a_conversation(letta: Letta) -> tuple[str, str]:
    agent_id, _ = await letta.new_agent()
    return agent_id, await letta.new_conversation(agent_id)


def sends(letta: Letta) -> list[RecordedRequest]:
    """The requests that handed a message over."""
    return [each for each in letta.fake.requests if each.method == "POST" and each.path.endswith("/messages")]


def taken_up(letta: Letta) -> list[RecordedRequest]:
    """The requests that went on with the stream of a run."""
    return [each for each in letta.fake.requests if each.path.endswith("/stream") and "starting_after" in each.json]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_refusal_that_may_pass_is_not_seen_by_the_caller(mcp: Caller, letta: Letta, status: int) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", SEND, status=status, body=GATEWAY_PAGE, headers={"Retry-After": "1"})

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="hello")

    assert answer.data["reply"] == "echo: hello"
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello"]


async def test_a_connection_that_breaks_before_the_answer_is_cleared_up_with_letta(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.drop("POST", SEND, after_request_is_handled=True)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="did you get this?")

    assert (answer.data["status"], answer.data["reply"]) == ("completed", "echo: did you get this?")
    assert await letta.stored_texts(agent_id, conversation_id) == ["did you get this?"]


@pytest.mark.parametrize("events", [1, 2, 3])
async def test_a_stream_that_breaks_is_cleared_up_with_letta(mcp: Caller, letta: Letta, events: int) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.drop("POST", SEND, after_events=events)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="hello")

    assert (answer.data["status"], answer.data["reply"]) == ("completed", "echo: hello")
    assert await letta.stored_texts(agent_id, conversation_id) == ["hello"]


async def test_a_broken_stream_of_a_slow_turn_is_waited_for_all_the_same(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    held = Hold(Say("Still here."))
    letta.model.enqueue(held)
    letta.fake.drop("POST", SEND, after_events=1)

    running = await mcp.ok("send_message", conversation_id=conversation_id, message="slowly", wait_seconds=0.5)
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", conversation_id=conversation_id)

    assert running.data["status"] == "running"
    assert reply.data["reply"] == "Still here."


async def test_a_message_that_never_arrived_is_handed_over_once_more(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.drop("POST", SEND, before_request_is_handled=True)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="almost lost")

    assert answer.data["reply"] == "echo: almost lost"
    assert await letta.stored_texts(agent_id, conversation_id) == ["almost lost"]


async def test_a_stream_is_taken_up_again_as_often_as_it_breaks_with_news(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    uses = [CallTools((Use("conversation_search", {"query": f"tea {number}"}),)) for number in range(5)]
    letta.model.enqueue(*uses, Say("No tea."))
    letta.fake.drop("POST", SEND, after_events=2)
    letta.fake.drop("POST", "/v1/conversations/*/stream", after_events=2, times=8)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="Find tea")

    resumed = [each.json["starting_after"] for each in taken_up(letta)]
    assert (answer.data["status"], answer.data["reply"]) == ("completed", "No tea.")
    assert len(resumed) >= 6
    assert resumed == sorted(set(resumed))
    assert not [each.path for each in letta.fake.requests if each.path.startswith("/v1/runs/")]
    assert await letta.stored_texts(agent_id, conversation_id) == ["Find tea"]


async def test_a_stream_of_the_default_conversation_is_taken_up_with_its_agent(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    letta.fake.drop("POST", SEND, after_events=1)

    answer = await mcp.ok("send_message", conversation_id="default", agent=name, message="hello")

    [resumed] = taken_up(letta)
    assert answer.data["reply"] == "echo: hello"
    assert (resumed.path, resumed.json["agent_id"]) == ("/v1/conversations/default/stream", agent_id)
    assert await letta.stored_texts(agent_id, "default") == ["hello"]


async def test_the_same_message_is_never_taken_twice(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.drop("POST", SEND, after_request_is_handled=True)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="once")

    assert answer.data["reply"] == "echo: once"
    assert len({each.json["messages"][0]["otid"] for each in sends(letta)}) == 1
    assert await letta.stored_texts(agent_id, conversation_id) == ["once"]


async def test_a_server_that_kept_no_streams_is_asked_again_after_a_while_and_not_before(
    letta: Letta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Redis may have been restarting."""
    _, conversation_id = await a_conversation(letta)
    words = json.dumps({"detail": "Background streaming requires Redis to be running."})
    letta.fake.fail("POST", "/v1/conversations/*/stream", status=503, body=words)

    async with connect(Settings(base_url=letta.base_url), "memory", "legacy") as client:
        mcp = Caller(client)
        for text in ("one", "two"):
            await mcp.ok("send_message", conversation_id=conversation_id, message=text)
        monkeypatch.setattr(messages, "ASK_AGAIN_SECONDS", -1)
        await mcp.ok("send_message", conversation_id=conversation_id, message="three")

    assert [each.json.get("background", False) for each in sends(letta)] == [False, False, True]


async def test_a_stream_that_ends_without_an_end_is_cleared_up_too(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.drop("POST", SEND, after_events=0)

    answer = await mcp.ok("send_message", conversation_id=conversation_id, message="hello")

    assert answer.data["reply"] == "echo: hello"


async def test_a_conversation_that_stays_busy_is_said_to_be(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    held = Hold(Say("busy"))
    letta.model.enqueue(held)
    mine = {"conversation_id": conversation_id, "message": "mine"}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(letta.send, conversation_id, "somebody else's")
        await letta.model.asked()
        for refusal in (
            await mcp.refused("send_message", **mine, wait_seconds=0.2),
            await mcp.refused("send_message", **mine, on_busy="fail"),
        ):
            assert "answering another message (run run-" in refusal
            assert "Nothing was sent" in refusal
            assert "wait_for_reply" in refusal
        held.gate.set()


async def test_a_page_of_html_is_never_shown(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    for method, path, tool, arguments in (
        ("GET", "/v1/agents/*/messages", "list_messages", {"conversation_id": conversation_id}),
        ("POST", "*/compact", "compact", {"conversation_id": conversation_id}),
        ("POST", "/v1/conversations/", "create_conversation", {"agent": agent_id}),
        ("DELETE", "/v1/conversations/*", "delete", {"conversation_id": conversation_id, "confirm": True}),
    ):
        letta.fake.fail(method, path, status=502, body=GATEWAY_PAGE, times=3 if method == "GET" else 1)
        refusal = await mcp.refused(tool, **arguments)
        assert "Letta failed" in refusal
        assert "502" in refusal
        assert "<" not in refusal
        assert "secret-host-name" not in refusal


async def test_what_may_have_been_done_is_told_from_what_was_not(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", "/v1/conversations/", status=500, body={"detail": "oops"})
    letta.fake.fail("GET", "/v1/conversations/*", status=500, body={"detail": "oops"}, times=3)

    created = await mcp.refused("create_conversation", agent=agent_id)
    read = await mcp.refused("delete", conversation_id=conversation_id)

    assert "may have been created" in created
    assert "Nothing was changed" in read


async def test_a_reading_that_fails_once_is_repeated_unseen(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.fail("GET", "/v1/agents/*/messages", status=503, body={"detail": "restarting"})

    page = await mcp.ok("list_messages", conversation_id=conversation_id)

    assert "No messages" in page.text


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"detail": "INVALID_ARGUMENT: no"}, ["Letta refused", "INVALID_ARGUMENT: no", "Correct the arguments"]),
        (402, {"detail": ""}, ["no credits", "account"]),
        (403, {"detail": "not yours"}, ["not yours", "Another key"]),
        (409, {"detail": "locked by the database"}, ["locked by the database", "in a moment"]),
        (409, {"detail": "CONFLICT: the agent is waiting for approval on a tool call"}, ["waits for a decision"]),
        (
            409,
            {"detail": "Another request is currently being processed"},
            ["answering another message.", "Nothing was"],
        ),
        (413, {"detail": "too big"}, ["too big"]),
        (422, {"detail": "[{'type': 'x', 'msg': 'Input should be less', 'loc': ('body',)}]"}, ["Input should be less"]),
        (429, {"detail": "slow"}, ["too many requests", "Wait a little"]),
        (500, {"error": {"type": "llm_error", "message": "model down", "detail": "at 12"}}, ['HTTP 500: "at 12"']),
        (500, {"error": {"message": "model down"}}, ["model down", "may have been compacted"]),
        (500, {"detail": [{"msg": "odd"}]}, ["odd"]),
        (500, "plain words", ["plain words"]),
        (404, "nothing here", ["not a Letta REST server"]),
        (404, {"detail": "Not Found"}, ["not a Letta REST server"]),
        (404, {"detail": "Conversation not found with id"}, ["no conversation conv-"]),
        (404, {"detail": "NOT_FOUND: Handle a/b not found, must be one of []"}, ["no model a/b"]),
        (200, "[]", ["not a Letta REST server"]),
        (200, "<!doctype html><title>x</title>", ["not a Letta REST server"]),
        (302, "", ["not a Letta REST server"]),
    ],
)
async def test_every_refusal_becomes_a_sentence(
    mcp: Caller, letta: Letta, status: int, body: str | dict[str, object], words: list[str]
) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", "*/compact", status=status, body=body)

    refusal = await mcp.refused("compact", conversation_id=conversation_id)

    assert all(each in refusal for each in words), refusal


@pytest.mark.parametrize("body", ["[]", "nothing", "null"])
async def test_an_answer_that_is_no_object_is_not_letta(mcp: Caller, letta: Letta, body: str) -> None:
    agent_id, _ = await letta.new_agent()
    letta.fake.fail("POST", "/v1/conversations/", status=200, body=body)

    assert "not a Letta REST server" in await mcp.refused("create_conversation", agent=agent_id)


async def test_a_send_that_is_answered_with_a_page_is_no_letta_server(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", SEND, status=200, body="<html>hello</html>")

    refusal = await mcp.refused("send_message", conversation_id=conversation_id, message="hello")

    assert "not a Letta REST server" in refusal


async def test_a_new_conversation_whose_first_message_fails_is_named(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    letta.fake.fail("POST", SEND, status=402, body={"detail": "no credits"})

    refusal = await mcp.refused("send_message", agent=agent_id, message="hello")

    [conversation_id] = [each for each, kept in letta.fake.conversations.items() if kept.agent.id == agent_id]
    assert f"The new conversation {conversation_id} is there" in refusal
    assert "no credits" in refusal


async def test_a_message_that_letta_never_takes_is_said_not_to_be_taken(mcp: Caller, letta: Letta) -> None:
    agent_id, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", SEND, status=500, body={"detail": "oops"}, times=100)

    refusal = await mcp.refused("send_message", conversation_id=conversation_id, message="hello")

    assert "HTTP 500" in refusal
    assert "safe to send it again" in refusal
    assert await letta.stored_texts(agent_id, conversation_id) == []


async def test_a_lost_turn_is_awaited_when_only_its_run_is_known(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    held = Hold(Say("after all"))
    letta.model.enqueue(held)
    letta.fake.drop("POST", SEND, after_request_is_handled=True)

    running = await mcp.ok("send_message", conversation_id=conversation_id, message="slowly", wait_seconds=0.6)
    held.gate.set()
    reply = await mcp.ok("wait_for_reply", conversation_id=conversation_id)

    assert running.data["status"] == "running"
    assert reply.data["reply"] == "after all"


async def test_a_run_that_cannot_be_followed_is_an_error_and_not_an_answer(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    await letta.send(conversation_id, "hello")
    letta.fake.fail("GET", "/v1/runs/*/messages", status=500, body={"detail": "oops"}, times=3)

    refusal = await mcp.refused("wait_for_reply", conversation_id=conversation_id)

    assert "read the run's messages" in refusal


async def test_an_unknown_run_is_said_to_be(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    run_id = "run-00000000-0000-4000-8000-000000000000"

    assert f"no run {run_id}" in await mcp.refused("wait_for_reply", conversation_id=conversation_id, run_id=run_id)
    assert "run_id" in await mcp.refused("wait_for_reply", conversation_id=conversation_id, run_id="../x")


@pytest.mark.all_ways
async def test_resources_fail_in_words_too(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.fail("GET", "/v1/conversations/*", status=500, body=GATEWAY_PAGE, times=6)

    for ask in (
        lambda: mcp.client.list_resources(),
        lambda: mcp.client.read_resource(f"letta://conversations/{conversation_id}"),
    ):
        with pytest.raises(MCPError, match="Letta failed") as raised:
            await ask()
        assert "secret-host-name" not in raised.value.error.message


@pytest.mark.all_ways
async def test_a_wrong_cursor_of_the_resources_is_an_error_of_the_request(mcp: Caller) -> None:
    with pytest.raises(MCPError) as raised:
        await mcp.client.list_resources(cursor="nonsense")

    assert raised.value.error.code == -32602


async def test_sends_share_a_connection(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.requests.clear()

    for number in range(6):
        await mcp.ok("send_message", conversation_id=conversation_id, message=f"{number}")

    # What is looked up for a message may be asked for at the same time, over a second one.
    assert len({each.client_port for each in letta.fake.requests}) <= 2


async def test_too_many_requests_are_said_to_be(mcp: Caller, letta: Letta) -> None:
    _, conversation_id = await a_conversation(letta)
    letta.fake.fail("POST", SEND, status=429, body={"detail": "slow down"}, headers={"Retry-After": "7"})

    refusal = await mcp.refused("send_message", conversation_id=conversation_id, message="hello", wait_seconds=0.2)

    assert "too many requests" in refusal
    assert "Wait 7 seconds" in refusal
