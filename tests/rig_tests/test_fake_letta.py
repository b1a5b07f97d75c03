"""The fake Letta server answers as a real one does, also through the SDK, and its faults break connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from letta_client import APIStatusError, AsyncLetta, AuthenticationError, ConflictError, InternalServerError

from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import CallTools, Hold, Refuse, Say, ScriptedModel, Use
from tests.rig.waiting import until

SENDS = "/v1/conversations/*/messages"


@pytest.fixture
async def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def fake(model: ScriptedModel) -> FakeLetta:
    return FakeLetta(model)


@pytest.fixture
async def http(fake: FakeLetta) -> AsyncIterator[httpx.AsyncClient]:
    async with fake.serve() as base_url, httpx.AsyncClient(base_url=base_url) as client:
        yield client


@pytest.fixture
def conversation_id(fake: FakeLetta) -> str:
    return fake.add_conversation(fake.add_agent("ann"))


def events(body: str) -> list[Any]:
    """The data of every event but the last, `[DONE]`."""
    data = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def kinds(found: list[Any]) -> list[str]:
    return [item["message_type"] for item in found]


def text_body(text: str, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def history(http: httpx.AsyncClient, conversation_id: str) -> list[str]:
    response = await http.get(f"/v1/conversations/{conversation_id}/messages", params={"order": "asc"})
    return [item.get("content") or item["message_type"] for item in response.json()[1:]]


async def until_idle(fake: FakeLetta, http: httpx.AsyncClient, conversation_id: str) -> None:
    """Follow the turn that runs by asking for its run, as a client must."""
    params = {"conversation_id": conversation_id, "active": True}

    async def is_idle() -> bool:
        return not (await http.get("/v1/runs/", params=params)).json()

    await until(is_idle)


async def test_the_sdk_streams_a_turn_with_a_tool(
    fake: FakeLetta, model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    use = Use("memory_insert", {"label": "human", "new_string": "Likes tea"})
    model.enqueue(CallTools((use,), text="Noting."), Say("Noted.", reasoning="done"))
    async with AsyncLetta(base_url=str(http.base_url), api_key=None) as client:
        stream = await client.conversations.messages.create(conversation_id, input="I like tea", stream_tokens=False)
        async with stream:
            chunks = [chunk async for chunk in stream]
    assert [chunk.message_type for chunk in chunks] == [
        "ping",
        "assistant_message",
        "tool_call_message",
        "tool_return_message",
        "reasoning_message",
        "assistant_message",
        "stop_reason",
        "usage_statistics",
    ]
    assert [call.text for call in model.calls] == ["I like tea", "I like tea"]
    assert await history(http, conversation_id) == [
        "I like tea",
        "Noting.",
        "tool_call_message",
        "tool_return_message",
        "reasoning_message",
        "Noted.",
    ]
    fake.check_used()


async def test_token_deltas_add_up_to_the_stored_text(
    model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    model.enqueue(Say("one two  three\n"))
    response = await http.post(f"/v1/conversations/{conversation_id}/messages", json=text_body("x", stream_tokens=True))
    deltas = [event["content"] for event in events(response.text) if event["message_type"] == "assistant_message"]
    assert len(deltas) == 3
    assert "".join(deltas) == (await history(http, conversation_id))[-1] == "one two  three\n"


async def test_a_refused_turn_is_an_error_event_and_leaves_no_history(
    model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    model.enqueue(Refuse(429))
    async with AsyncLetta(base_url=str(http.base_url), api_key=None, max_retries=0) as client:
        stream = await client.conversations.messages.create(conversation_id, input="hello")
        with pytest.raises(APIStatusError, match="llm_rate_limit") as raised:
            async with stream:
                _ = [chunk async for chunk in stream]
    assert raised.value.status_code == 200
    assert await history(http, conversation_id) == []
    run = (await http.get("/v1/runs/", params={"conversation_id": conversation_id})).json()[0]
    assert (run["status"], run["metadata"]["error"]["error_type"]) == ("failed", "llm_rate_limit")


async def test_a_held_turn_locks_only_its_conversation_and_survives_its_client(
    fake: FakeLetta, model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    held = Hold(Say("late"))
    model.enqueue(held)
    path = f"/v1/conversations/{conversation_id}/messages"
    other = fake.add_conversation(fake.conversations[conversation_id].agent.id)
    async with http.stream("POST", path, json=text_body("hello")) as stream:
        await anext(stream.aiter_lines())
        assert (await http.post(path, json=text_body("second"))).status_code == 409
        assert (await http.post(f"/v1/conversations/{other}/messages", json=text_body("else"))).status_code == 200
    held.gate.set()
    await until_idle(fake, http, conversation_id)
    assert await history(http, conversation_id) == ["hello", "late"]


async def test_a_cancelled_token_stream_loses_its_turn(
    model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    held = Hold(Say("never"))
    model.enqueue(held)
    path = f"/v1/conversations/{conversation_id}"
    async with http.stream("POST", f"{path}/messages", json=text_body("hello", stream_tokens=True)) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        assert list((await http.post(f"{path}/cancel")).json().values()) == ["cancelled"]
        held.gate.set()
        rest = [line async for line in lines if line]
    assert rest == ['data: {"message_type": "stop_reason", "stop_reason": "cancelled"}']
    assert await history(http, conversation_id) == []


async def test_a_background_run_is_replayed_and_its_otid_not_sent_twice(
    http: httpx.AsyncClient, conversation_id: str
) -> None:
    path = f"/v1/conversations/{conversation_id}"
    body = {"messages": [{"role": "user", "content": "hi", "otid": "mine"}], "background": True}
    first = await http.post(f"{path}/messages", json=body)
    again = await http.post(f"{path}/messages", json=body)
    rest = await http.post(f"{path}/stream", json={"otid": "mine", "starting_after": 1})
    assert again.text == first.text
    assert kinds(events(rest.text)) == ["assistant_message", "stop_reason", "usage_statistics"]
    assert await history(http, conversation_id) == ["hi", "echo: hi"]


async def test_an_approval_continues_the_turn(model: ScriptedModel, fake: FakeLetta, http: httpx.AsyncClient) -> None:
    conversation_id = fake.add_conversation(fake.add_agent("ann", ["memory_insert"]))
    path = f"/v1/conversations/{conversation_id}/messages"
    model.enqueue(CallTools((Use("memory_insert", {"label": "human", "new_string": "x"}),)), Say("thanks"))
    asked = events((await http.post(path, json=text_body("go"))).text)
    blocked = events((await http.post(path, json=text_body("more"))).text)
    assert "waiting for approval" in blocked[-1]["message"]
    call_id = asked[1]["tool_call"]["tool_call_id"]
    approval = {"type": "approval", "approve": False, "tool_call_id": call_id, "reason": "no"}
    answer = await http.post(path, json={"messages": [{"type": "approval", "approvals": [approval]}]})
    assert kinds(events(answer.text)) == [
        "ping",
        "tool_return_message",
        "assistant_message",
        "stop_reason",
        "usage_statistics",
    ]


async def test_compaction_corrupts_the_order_of_one_list_and_not_of_the_other(
    fake: FakeLetta, model: ScriptedModel, http: httpx.AsyncClient, conversation_id: str
) -> None:
    sent = [f"message {n}" for n in range(8)]
    fake.add_messages(conversation_id, len(sent))
    model.enqueue(Say("what was said"))
    compacted = await http.post(f"/v1/conversations/{conversation_id}/compact")
    assert compacted.json() == {"summary": "what was said", "num_messages_before": 9, "num_messages_after": 7}
    texts = await history(http, conversation_id)
    assert [text for text in texts if text in sent] != sent
    agent_id = fake.conversations[conversation_id].agent.id
    by_time = await http.get(f"/v1/agents/{agent_id}/messages", params={"conversation_id": conversation_id})
    assert [item["content"] for item in by_time.json()[1:-1]] == sent


async def test_a_big_history_is_made_and_paged_quickly(
    fake: FakeLetta, http: httpx.AsyncClient, conversation_id: str
) -> None:
    ids = fake.add_messages(conversation_id, 10_000)
    path = f"/v1/conversations/{conversation_id}/messages"
    page = await http.get(path, params={"before": ids[5000], "limit": 3})
    assert [item["id"] for item in page.json()] == [ids[4999], ids[4998], ids[4997]]


async def test_the_password_guards_all_but_health() -> None:
    async with FakeLetta(ScriptedModel(), password="secret").serve() as base_url:
        async with AsyncLetta(base_url=base_url, api_key="wrong", max_retries=0) as client:
            assert (await client.health()).status == "ok"
            with pytest.raises(AuthenticationError):
                await client.agents.list()
        async with AsyncLetta(base_url=base_url, api_key="secret", max_retries=0) as client:
            assert (await client.agents.list()).items == []


async def test_without_redis_nothing_is_locked_and_background_is_refused() -> None:
    model = ScriptedModel()
    fake = FakeLetta(model, redis=False)
    conversation_id = fake.add_conversation(fake.add_agent("ann"))
    path = f"/v1/conversations/{conversation_id}/messages"
    async with fake.serve() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        held = Hold(Say("late"))
        model.enqueue(held)
        async with http.stream("POST", path, json=text_body("first")) as stream:
            await anext(stream.aiter_lines())
            assert (await http.post(path, json=text_body("second"))).status_code == 200
        assert (await http.post(path, json=text_body("x", background=True))).status_code == 503


async def test_a_cloud_server_keeps_what_0_16_8_drops() -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    agent_id = fake.add_agent("ann")
    async with fake.serve() as base_url, AsyncLetta(base_url=base_url, api_key=None) as client:
        made = await client.conversations.create(agent_id=agent_id, description="d", context_window_limit=5000)
        assert (made.description, made.context_window_limit, made.archived) == ("d", 5000, False)
        await client.conversations.update(made.id, archived=True)
        assert [c.id for c in await client.conversations.list(archive_status="archived")] == [made.id]
        assert await client.conversations.list() == []


async def test_a_failure_is_answered_once(fake: FakeLetta, http: httpx.AsyncClient) -> None:
    fake.fail("GET", "/v1/agents/", status=502, body="<html>bad gateway</html>", headers={"retry-after": "1"})
    broken = await http.get("/v1/agents/")
    assert (broken.status_code, broken.headers["retry-after"]) == (502, "1")
    assert broken.headers["content-type"].startswith("text/html")
    assert (await http.get("/v1/agents/")).status_code == 200
    assert [request.path for request in fake.requests] == ["/v1/agents/", "/v1/agents/"]


async def test_a_fault_that_never_happens_fails_the_test(fake: FakeLetta) -> None:
    fake.fail("GET", "/v1/agents/", status=500)
    with pytest.raises(AssertionError, match="never hit"):
        fake.check_used()


@pytest.mark.parametrize("handled", [False, True])
async def test_a_connection_is_dropped_before_or_after_the_work(
    fake: FakeLetta, http: httpx.AsyncClient, handled: bool
) -> None:
    agent_id = fake.add_agent("ann")
    fake.drop("POST", "/v1/conversations/", before_request_is_handled=not handled, after_request_is_handled=handled)
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post("/v1/conversations/", params={"agent_id": agent_id})
    assert len(fake.conversations) == int(handled)


async def test_a_stream_is_dropped_after_some_events_and_its_turn_goes_on(
    fake: FakeLetta, http: httpx.AsyncClient, conversation_id: str
) -> None:
    fake.drop("POST", SENDS, after_events=2)
    received: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        async with http.stream(
            "POST", f"/v1/conversations/{conversation_id}/messages", json=text_body("a b c", stream_tokens=True)
        ) as stream:
            received += [line async for line in stream.aiter_lines() if line]
    await until_idle(fake, http, conversation_id)
    assert await history(http, conversation_id) == ["a b c", "echo: a b c"]


async def test_a_stalled_request_waits_for_its_gate(fake: FakeLetta, http: httpx.AsyncClient) -> None:
    gate = anyio.Event()
    fake.stall("GET", "/v1/agents/", gate)
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await http.get("/v1/agents/")).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await http.get("/v1/health/")
        assert answers == []
        gate.set()
    assert answers == [200]


async def test_the_server_ends_while_a_stream_is_open(model: ScriptedModel) -> None:
    fake = FakeLetta(model)
    conversation_id = fake.add_conversation(fake.add_agent("ann"))
    model.enqueue(Hold(Say("never")))
    with anyio.fail_after(HANG_SECONDS):
        async with httpx.AsyncClient() as http:
            async with fake.serve() as base_url:
                request = http.build_request(
                    "POST", f"{base_url}/v1/conversations/{conversation_id}/messages", json=text_body("x")
                )
                response = await http.send(request, stream=True)
                lines = response.aiter_lines()
                await anext(lines)
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [line async for line in lines]
            await response.aclose()


async def test_reset_forgets_everything(fake: FakeLetta, http: httpx.AsyncClient, conversation_id: str) -> None:
    fake.fail("GET", "/never", status=500)
    await http.get("/v1/agents/")
    fake.reset()
    fake.check_used()
    assert (fake.requests, dict(fake.conversations)) == ([], {})
    assert (await http.get(f"/v1/conversations/{conversation_id}")).status_code == 404


async def test_the_sdk_raises_what_it_raises_for_the_real_server(
    fake: FakeLetta, http: httpx.AsyncClient, conversation_id: str
) -> None:
    async with AsyncLetta(base_url=str(http.base_url), api_key=None, max_retries=0) as client:
        with pytest.raises(ConflictError, match="No active runs to cancel"):
            await client.conversations.cancel(conversation_id)
        with pytest.raises(InternalServerError, match="A database error occurred"):
            await client.conversations.list(limit=-1)
