"""Calls that take long, as tasks, for clients that declare the extension; found again by anybody who may."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from mcp import MCPError
from pydantic import SecretStr

from letta_conversations_mcp.server.tasks.extension import IDENTIFIER, Handle, Seal
from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Refuse, Say
from tests.rig.servers import TRANSPORTS, Caller, Transport
from tests.rig.task_client import RawResult, TaskRequest, task_client

pytestmark = pytest.mark.all_ways

KEY = SecretStr("key-of-these-tests")
"""Which all processes of a test share, and the ids of tasks are sealed with."""

INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
MISSING_CAPABILITY = -32021


@pytest.fixture
def settings(letta: Letta) -> Settings:
    return Settings(base_url=letta.base_url, api_key=KEY)


async def a_conversation(letta: Letta) -> str:
    agent_id, _ = await letta.new_agent()
    return await letta.new_conversation(agent_id)


def hold(letta: Letta, text: str) -> Hold:
    """The model's next answer, held back until its gate is opened."""
    held = Hold(Say(text))
    letta.model.enqueue(held)
    return held


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reply_that_takes_long_is_fetched_by_its_task(
    letta: Letta, settings: Settings, transport: Transport
) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "at last")

    async with task_client(settings, transport) as client:
        created = await client.call("send_message", conversation_id=conversation_id, message="hello")
        working = await client.get(created["taskId"])
        held.gate.set()
        ended = await client.end(created["taskId"])

    assert (created["resultType"], created["status"], created["ttlMs"]) == ("task", "working", None)
    assert "result" not in created
    assert (working["resultType"], working["status"]) == ("complete", "working")
    assert working["createdAt"] == created["createdAt"]
    assert ended["status"] == "completed"
    assert ended["result"]["structuredContent"]["reply"] == "at last"
    assert "at last" in ended["result"]["content"][0]["text"]


@pytest.mark.fake_only  # a real server may take longer than a second
async def test_a_reply_that_comes_at_once_makes_no_task(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)

    async with task_client(settings) as client:
        answer = await client.call("send_message", conversation_id=conversation_id, message="hello")

    assert answer["resultType"] == "complete"
    assert answer["structuredContent"]["reply"] == "echo: hello"


async def test_an_error_is_told_at_once(letta: Letta, settings: Settings) -> None:
    async with task_client(settings) as client:
        answer = await client.call("send_message", agent="nobody is called this", message="hello")

    assert answer["isError"]


async def test_another_process_and_a_restarted_one_answer_for_a_task(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "found elsewhere")

    async with task_client(settings) as first:
        task_id = await first.task("send_message", conversation_id=conversation_id, message="hello")
        async with task_client(settings, "stdio") as replica:
            assert (await replica.get(task_id))["status"] == "working"
    held.gate.set()
    async with task_client(settings) as restarted:
        ended = await restarted.end(task_id)

    assert ended["result"]["structuredContent"]["reply"] == "found elsewhere"


async def test_a_turn_that_fails_is_a_result_and_no_failure_of_the_protocol(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = Hold(Refuse(400, "no such thing"))
    letta.model.enqueue(held)

    async with task_client(settings) as client:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        held.gate.set()
        ended = await client.end(task_id)

    assert ended["status"] == "completed"
    assert ended["result"]["structuredContent"]["status"] == "failed"


async def test_many_are_asked_in_one_task(letta: Letta, settings: Settings) -> None:
    quick, slow = await a_conversation(letta), await a_conversation(letta)
    held = Hold(Say("the slow one"))
    letta.model.enqueue(held, to="both of you")

    async with task_client(settings) as client:
        task_id = await client.task(
            "ask_many", conversation_ids=[quick, slow], agents=["nobody is called this"], message="both of you"
        )
        assert (await client.get(task_id))["status"] == "working"
        held.gate.set()
        async with task_client(settings) as replica:
            ended = await replica.end(task_id)

    rows = {row["to"]: row for row in ended["result"]["structuredContent"]["replies"]}
    assert ended["result"]["structuredContent"]["answered"] == 2
    assert {rows[quick]["reply"], rows[slow]["reply"]} == {"the slow one", "echo: both of you"}
    assert rows["nobody is called this"]["status"] == "error"


async def test_a_compaction_that_takes_long_is_a_task_of_its_process(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    for text in ("one", "two"):
        await letta.send(conversation_id, text)
    held = hold(letta, "what was said")

    async with task_client(settings) as client:
        task_id = await client.task("compact", conversation_id=conversation_id, mode="all")
        assert (await client.get(task_id))["status"] == "working"
        held.gate.set()
        ended = await client.end(task_id)

    assert (
        ended["result"]["structuredContent"]["messages_after"] < ended["result"]["structuredContent"]["messages_before"]
    )
    assert "what was said" in ended["result"]["structuredContent"]["summary"]


async def test_a_compaction_is_known_by_its_summary_to_other_processes(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    for text in ("one", "two"):
        await letta.send(conversation_id, text)
    held = hold(letta, "what was said")

    async with task_client(settings) as client, task_client(settings) as replica:
        task_id = await client.task("compact", conversation_id=conversation_id, mode="all")
        assert (await replica.get(task_id))["status"] == "working"
        held.gate.set()
        await client.end(task_id)
        ended = await replica.end(task_id)

    assert "what was said" in ended["result"]["structuredContent"]["summary"]


async def test_a_compaction_that_left_no_trace_is_told_to_have_come_to_nothing(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    await letta.send(conversation_id, "one")
    held = hold(letta, "never asked for")
    impatient = Settings(base_url=letta.base_url, api_key=KEY, compact_timeout=0.5)

    async with task_client(Settings(base_url=letta.base_url, api_key=KEY)) as client, task_client(impatient) as replica:
        task_id = await client.task("compact", conversation_id=conversation_id, mode="all")
        ended = await replica.end(task_id)
        held.gate.set()
        await client.end(task_id)

    assert ended["status"] == "completed"
    assert ended["result"]["isError"]
    assert "compact can be called again" in ended["result"]["content"][0]["text"]


async def test_cancelling_a_task_stops_its_turn_from_any_process(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "never said")

    async with task_client(settings) as client, task_client(settings) as replica:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        answer = await replica.ask("tasks/cancel", task_id)
        ended = [await client.end(task_id), await replica.end(task_id)]
        again = await replica.ask("tasks/cancel", task_id)
        held.gate.set()

    assert answer["resultType"] == again["resultType"] == "complete"
    assert "status" not in answer
    assert [each["status"] for each in ended] == ["cancelled", "cancelled"]


async def test_cancelling_a_compaction_ends_the_wait_for_it(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    await letta.send(conversation_id, "one")
    held = hold(letta, "what was said")

    async with task_client(settings) as client:
        task_id = await client.task("compact", conversation_id=conversation_id, mode="all")
        await client.ask("tasks/cancel", task_id)
        ended = await client.end(task_id)
        held.gate.set()

    assert ended["status"] == "cancelled"


@pytest.mark.parametrize("forged", ["", "conv-1", "v1.AAAA", "v1.-"])
async def test_what_is_no_id_of_a_task_is_refused(settings: Settings, forged: str) -> None:
    async with task_client(settings) as client:
        for method in ("tasks/get", "tasks/cancel"):
            with pytest.raises(MCPError) as raised:
                await client.ask(method, forged)
            assert raised.value.error.code == INVALID_PARAMS


async def test_an_id_made_with_another_key_is_none(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "secret")
    other = Settings(base_url=letta.base_url, api_key=SecretStr("another key"))

    async with task_client(settings) as client, task_client(other) as stranger:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        with pytest.raises(MCPError) as raised:
            await stranger.get(task_id)
        held.gate.set()
        await client.end(task_id)

    assert raised.value.error.code == INVALID_PARAMS
    assert conversation_id not in task_id


async def test_the_task_of_a_deleted_conversation_is_gone(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "too late")

    async with task_client(settings) as client:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        held.gate.set()
        await client.end(task_id)
        await letta.request("DELETE", f"/v1/conversations/{conversation_id}")
        async with task_client(settings) as replica:
            with pytest.raises(MCPError) as raised:
                await replica.get(task_id)

    assert raised.value.error.code == INVALID_PARAMS


@pytest.mark.fake_only
async def test_a_task_whose_letta_fails_just_now_is_asked_for_again(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "later")

    async with task_client(settings) as client:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        held.gate.set()
        await client.end(task_id)
    letta.fake.fail("GET", f"/v1/conversations/{conversation_id}", status=500, times=3)
    async with task_client(settings) as restarted:
        with pytest.raises(MCPError) as raised:
            await restarted.get(task_id)
        ended = await restarted.get(task_id)

    assert raised.value.error.code == INTERNAL_ERROR
    assert ended["status"] == "completed"


async def test_answers_to_a_task_that_asked_for_nothing_are_ignored(letta: Letta, settings: Settings) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "fine")

    async with task_client(settings) as client:
        task_id = await client.task("send_message", conversation_id=conversation_id, message="hello")
        answer = await client.ask("tasks/update", task_id, inputResponses={"unasked": {"action": "accept"}})
        held.gate.set()
        ended = await client.end(task_id)

    assert (answer["resultType"], ended["status"]) == ("complete", "completed")
    assert "status" not in answer


async def test_clients_that_do_not_declare_the_extension_see_nothing_of_it(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    held = hold(letta, "as ever")
    waiting = Settings(base_url=letta.base_url, api_key=KEY, wait_seconds=1.5)

    async with task_client(waiting, declares=False) as client:
        answer = await client.call("send_message", conversation_id=conversation_id, message="hello")
        with pytest.raises(MCPError) as raised:
            await client.get("v1.AAAA")
        await letta.model.asked()
        held.gate.set()

    assert answer["structuredContent"]["status"] == "running"
    assert raised.value.error.code == MISSING_CAPABILITY


@pytest.mark.parametrize(
    ("notifications", "code"), [({"taskIds": ["v1.AAAA"]}, MISSING_CAPABILITY), (7, INVALID_PARAMS)]
)
async def test_listening_for_tasks_needs_the_extension(settings: Settings, notifications: object, code: int) -> None:
    async with task_client(settings, declares=False) as client:
        request = TaskRequest(method="subscriptions/listen", params={"notifications": notifications})
        with pytest.raises(MCPError) as raised:
            await client.client.session.send_request(request, RawResult)

    assert raised.value.error.code == code


async def test_the_extension_is_announced_to_the_newer_protocol_only(mcp: Caller) -> None:
    announced = mcp.client.server_capabilities.extensions or {}

    assert (IDENTIFIER in announced) == (mcp.client.protocol_version > "2026")


async def test_ids_fit_a_header(letta: Letta, settings: Settings) -> None:
    held = [Hold(Say("late")) for _ in range(16)]
    letta.model.enqueue(*held)
    conversations = [await a_conversation(letta) for _ in held]

    async with task_client(settings, "http") as client:
        task_id = await client.task("ask_many", conversation_ids=conversations, message="all of you")
        for each in held:
            each.gate.set()
        ended = await client.end(task_id)

    assert ended["result"]["structuredContent"]["answered"] == len(held)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,4000}", task_id)


def test_without_any_secret_an_id_is_read_only_by_its_own_process() -> None:
    """The URL of the Letta server is no secret."""
    settings = Settings(base_url="http://letta.test")
    seal = Seal(settings)
    made = Handle("compact", datetime(2026, 11, 21, tzinfo=UTC), {"conversation_id": "conv-1"})

    assert seal.unseal(seal.seal(made)) == made
    with pytest.raises(MCPError, match="no such task"):
        Seal(settings).unseal(seal.seal(made))


def test_an_id_is_read_only_where_its_key_is_known() -> None:
    old, new = SecretStr("o" * 32), SecretStr("n" * 32)
    made = Handle("compact", datetime(2026, 11, 21, tzinfo=UTC), {"conversation_id": "conv-1"})
    task_id = Seal(Settings(request_state_keys=(old,))).seal(made)

    assert Seal(Settings(request_state_keys=(new, old))).unseal(task_id) == made
    for elsewhere in (Settings(request_state_keys=(new,)), Settings()):
        with pytest.raises(MCPError, match="no such task"):
            Seal(elsewhere).unseal(task_id)
