"""Too much at a time: what is refused, in which words, and that there is room again afterwards."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx
import pytest
from mcp import MCPError
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

from letta_conversations_mcp.http import limits
from letta_conversations_mcp.http.limits import Limits
from letta_conversations_mcp.settings import Settings
from tests.http.team import HEADERS, Team, call_tool, client_of, modern_call, post
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say
from tests.rig.servers import http_server
from tests.rig.waiting import until

NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def raw(url: str, head: str) -> AsyncGenerator[anyio.abc.SocketStream]:
    """A connection on which the head of a request has been sent."""
    parts = urlsplit(url)
    async with await anyio.connect_tcp(str(parts.hostname), parts.port or 0) as stream:
        lines = [f"POST /mcp HTTP/1.1\r\nHost: {parts.netloc}", *(f"{k}: {v}" for k, v in HEADERS.items()), head]
        await stream.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield stream


async def status_of(stream: anyio.abc.SocketStream) -> int:
    with anyio.fail_after(HANG_SECONDS):
        return int((await stream.receive()).split()[1])


async def pour(stream: anyio.abc.SocketStream) -> None:
    """Send a chunked body without end, until the other side closes."""
    part = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with anyio.fail_after(HANG_SECONDS):
        while True:
            await stream.send(part)


async def test_a_body_over_the_limit_is_refused() -> None:
    settings = Settings(base_url=NOWHERE, max_body_bytes=100_000)
    async with http_server(settings) as url, http_client() as http:
        refusal = await http.post(f"{url}/mcp", content=b"x" * 100_001, headers=HEADERS)
        still_there = await post(url, "tools/list", {})

    assert (refusal.status_code, still_there.status_code) == (413, 200)


@pytest.mark.parametrize("token", ["", "a-token"])
async def test_a_body_without_end_is_not_read_without_end(token: str) -> None:
    """Not behind the gate, and not before it."""
    settings = Settings(base_url=NOWHERE, max_body_bytes=100_000, token=SecretStr(token))
    async with http_server(settings) as url, raw(url, "Transfer-Encoding: chunked") as stream:
        with pytest.raises(anyio.BrokenResourceError):
            await pour(stream)


@pytest.mark.parametrize("head", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_never_comes_to_its_end_is_given_up(head: str) -> None:
    async with http_server(Settings(base_url=NOWHERE, body_timeout=0.2)) as url:
        async with raw(url, head) as stream:
            await stream.send(b"5\r\nhello\r\n")
            given_up = await status_of(stream)
        still_there = await post(url, "tools/list", {})

    assert (given_up, still_there.status_code) == (408, 200)


CHUNKED = ("Transfer-Encoding: chunked", b"2710\r\n" + b"x" * 10_000 + b"\r\n")
ALMOST_ALL_SENT = ("Content-Length: 10000", b"x" * 9_999)


@pytest.mark.parametrize(("head", "sent"), [CHUNKED, ALMOST_ALL_SENT], ids=["chunked", "almost all sent"])
async def test_all_bodies_together_have_a_bound(head: str, sent: bytes) -> None:
    settings = Settings(base_url=NOWHERE, max_body_bytes=10_000, max_calls=100)
    async with http_server(settings) as url:
        async with AsyncExitStack() as streams:
            for _ in range(7):
                await (await streams.enter_async_context(raw(url, head))).send(sent)
            room_for_one_more = await post(url, "tools/list", {})
            await (await streams.enter_async_context(raw(url, head))).send(sent)
            refusal = await answered(url, 503)
        afterwards = await answered(url, 200)

    assert room_for_one_more.status_code == 200
    assert "80,000 bytes of requests" in refusal.json()["error"]["message"]
    assert afterwards.status_code == 200


async def test_what_is_only_declared_takes_no_room() -> None:
    settings = Settings(base_url=NOWHERE, max_body_bytes=10_000, max_calls=100)
    async with http_server(settings) as url, AsyncExitStack() as streams:
        for _ in range(20):
            await (await streams.enter_async_context(raw(url, "Content-Length: 10000"))).send(b"x")

        assert (await post(url, "tools/list", {})).status_code == 200


async def test_the_bodies_of_one_caller_leave_room_for_others(team: Team) -> None:
    for name in ("ann", "bob"):
        team.add(name)
    ann = f"Authorization: {team.bearer('ann')['Authorization']}\r\nContent-Length: 10000"
    async with http_server(team.settings(NOWHERE, max_body_bytes=10_000)) as url, AsyncExitStack() as streams:
        for _ in range(2):
            await (await streams.enter_async_context(raw(url, ann))).send(b"x" * 9_999)
        refusal = await answered(url, 429, team.bearer("ann"))
        other = await post(url, "tools/list", {}, team.bearer("bob"))

    assert "one caller may have 20,000 bytes of requests" in refusal.json()["error"]["message"]
    assert int(refusal.headers["Retry-After"]) > 0
    assert other.status_code == 200


async def test_a_body_over_the_limit_gets_its_answer_while_it_is_sent() -> None:
    """Over a plain socket: the client's system would throw the answer away if the connection were closed at once."""
    body = b"x" * 5_000_000
    async with (
        http_server(Settings(base_url=NOWHERE, max_body_bytes=4_000_000)) as url,
        raw(url, f"Content-Length: {len(body)}") as stream,
    ):
        with anyio.fail_after(HANG_SECONDS):
            await stream.send(body)
        assert await status_of(stream) == 413


@pytest.mark.parametrize("values", ["[1]", '{"a":1}', '"a"'])
async def test_a_request_of_very_many_values_is_refused_before_it_is_parsed(values: str) -> None:
    many = f'{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"x":[{",".join([values] * 20_000)}]}}}}'
    async with (
        http_server(Settings(base_url=NOWHERE)) as url,
        http_client() as http,
    ):
        refusal = await http.post(f"{url}/mcp", content=many, headers=HEADERS)

    assert refusal.status_code == 413
    assert "more than 10,000 values" in refusal.json()["error"]["message"]


async def test_a_long_text_is_not_many_values(team: Team) -> None:
    team.add("ann")
    text = '{"a": [1, 2, "b\\"c"]}, ' * 40_000
    async with http_server(team.settings(NOWHERE)) as url:
        answer = await call_tool(url, "send_message", {"agent": "x", "message": text}, team.bearer("ann"))

    assert answer.status_code == 200


async def test_a_header_makes_no_stream_of_a_call(team: Team, letta: Letta) -> None:
    """In the older protocol the header means nothing, and in the newer it must be true."""
    agent, _ = await letta.new_agent()
    team.add("ann")
    held = Hold(Say("at last"))
    letta.model.enqueue(held)
    answers: list[httpx.Response] = []
    liar = {"Mcp-Method": "subscriptions/listen"}
    settings = team.settings(letta.base_url, max_per_caller=1, stateless=True)
    body, headers = modern_call("tools/call", {"name": "list_agents", "arguments": {}}, "list_agents")
    async with (
        http_server(settings) as url,
        http_client(headers=team.bearer("ann")) as http,
        anyio.create_task_group() as tasks,
    ):
        answers.append(await http.post(f"{url}/mcp", json=body, headers=headers | liar))
        arguments = {"agent": agent, "message": "hello"}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        first = call | {"params": {"name": "send_message", "arguments": arguments}}
        tasks.start_soon(lambda: http.post(f"{url}/mcp", json=first, headers=HEADERS | liar, timeout=HANG_SECONDS))
        await letta.model.asked(1)
        answers.append(await http.post(f"{url}/mcp", json=first, headers=HEADERS | liar))
        held.gate.set()

    assert [each.status_code for each in answers] == [400, 429]


async def answered(url: str, status: int, headers: dict[str, str] | None = None) -> httpx.Response:
    """The first answer with this status."""

    async def look() -> httpx.Response | None:
        answer = await post(url, "tools/list", {}, headers)
        return answer if answer.status_code == status else None

    return await until(look)


async def test_calls_of_one_caller_and_of_all_have_a_bound(team: Team, letta: Letta) -> None:
    agent, _ = await letta.new_agent()
    for name in ("ann", "bob", "eve"):
        team.add(name)
    held = [Hold(Say("at last")) for _ in range(3)]
    letta.model.enqueue(*held)
    settings = team.settings(letta.base_url, max_calls=3, max_per_caller=2)
    answers: list[httpx.Response] = []
    refusals: list[httpx.Response] = []
    told: list[str] = []
    async with (
        http_server(settings) as url,
        client_of(url, team.tokens["ann"], "modern") as for_a_model,
        anyio.create_task_group() as tasks,
    ):

        async def send(name: str) -> None:
            arguments = {"agent": agent, "message": "hello"}
            answers.append(await call_tool(url, "send_message", arguments, team.bearer(name)))

        for name in ("ann", "ann", "bob"):
            tasks.start_soon(send, name)
        await letta.model.asked(3)
        try:
            await for_a_model.client.list_tools()
        except MCPError as error:
            told.append(str(error))
        refusals += [await post(url, "tools/list", {}, team.bearer(name)) for name in ("ann", "eve")]
        for each in held:
            each.gate.set()

    too_many_of_hers, too_many_in_all = refusals
    assert (too_many_of_hers.status_code, too_many_in_all.status_code) == (429, 503)
    said = too_many_of_hers.json()["error"]["message"]
    assert "one caller may have 2 calls" in said
    assert told == [said]
    assert f"try again in {too_many_of_hers.headers['Retry-After']} seconds" in said
    assert "this server has 3 calls at a time" in too_many_in_all.json()["error"]["message"]
    assert [each.status_code for each in answers] == [200, 200, 200]
    assert all("at last" in each.text for each in answers)


async def test_after_too_many_calls_there_is_room_again(team: Team) -> None:
    team.add("ann")
    async with http_server(team.settings(NOWHERE, max_per_caller=1, max_calls=1)) as url:
        for _ in range(2):
            assert (await post(url, "tools/list", {}, team.bearer("ann"))).status_code == 200
            assert (await call_tool(url, "list_agents", {}, team.bearer("ann"))).status_code == 200
            assert (await post(url, "no/such", {}, team.bearer("ann"))).status_code == 404


async def test_a_stream_of_changes_takes_no_place_of_a_call(team: Team) -> None:
    token = team.add("ann")
    body, headers = modern_call("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    settings = team.settings(NOWHERE, max_per_caller=1, max_calls=1)
    async with (
        http_server(settings) as url,
        client_of(url, token, "legacy") as legacy,
        http_client(headers=team.bearer("ann")) as http,
        http.stream("POST", f"{url}/mcp", json=body, headers=headers) as stream,
    ):
        assert stream.status_code == 200
        assert (await legacy.client.list_tools()).tools
        assert (await post(url, "tools/list", {}, team.bearer("ann"))).status_code == 200


async def test_streams_of_changes_have_a_bound(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_LISTENING", 2)
    team.add("ann")
    team.add("bob")
    team.add("eve")
    body, headers = modern_call("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    async with (
        http_server(team.settings(NOWHERE)) as url,
        http_client() as http,
        http.stream("POST", f"{url}/mcp", json=body, headers=headers | team.bearer("ann")),
        http.stream("POST", f"{url}/mcp", json=body, headers=headers | team.bearer("bob")),
    ):
        second = await http.post(f"{url}/mcp", json=body, headers=headers | team.bearer("ann"))
        third = await http.post(f"{url}/mcp", json=body, headers=headers | team.bearer("eve"))

    assert (second.status_code, third.status_code) == (429, 503)
    assert all(int(each.headers["Retry-After"]) > 0 for each in (second, third))


async def test_turns_have_a_bound_and_their_queue_too(team: Team, letta: Letta) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(4)]
    token = team.add("ann")
    held = Hold(Say("the first"))
    letta.model.enqueue(held, Say("the second"))
    replies: list[str] = []
    full: list[str] = []
    settings = team.settings(letta.base_url, max_turns=1, max_queued=1)
    async with http_server(settings) as url, client_of(url, token, "modern") as ann:
        running = await ann.ok("send_message", agent=agents[0], message="one", wait_seconds=0)
        short = await ann.refused("send_message", agent=agents[1], message="too impatient", wait_seconds=0.1)
        async with anyio.create_task_group() as tasks:

            async def queue() -> None:
                replies.append((await ann.ok("send_message", agent=agents[2], message="two")).data["reply"])

            ann.progress.clear()
            tasks.start_soon(queue)
            await ann.until_reported("waiting for one of the turns on this server")
            full.append(await ann.refused("send_message", agent=agents[3], message="three", wait_seconds=0))
            held.gate.set()
        first = await ann.ok("wait_for_reply", conversation_id=running.data["conversation_id"])

    assert "this server is running as many turns as it may" in short
    assert "running or waiting" in full[0]
    assert "try again in" in full[0]
    assert (first.data["reply"], replies) == ("the first", ["the second"])


async def test_the_turns_of_one_caller_leave_room_for_others(team: Team, letta: Letta) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(3)]
    for name in ("ann", "bob"):
        team.add(name)
    held = [Hold(Say("of Ann")), Hold(Say("of Bob"))]
    letta.model.enqueue(*held)
    async with (
        http_server(team.settings(letta.base_url, max_per_caller=1)) as url,
        client_of(url, team.tokens["ann"], "modern") as ann,
        client_of(url, team.tokens["bob"], "modern") as bob,
    ):
        await ann.ok("send_message", agent=agents[0], message="one", wait_seconds=0.5)
        refusal = await ann.refused("send_message", agent=agents[1], message="two", wait_seconds=0)
        other = await bob.ok("send_message", agent=agents[2], message="one", wait_seconds=0.5)
        for each in held:
            each.gate.set()
        await bob.ok("wait_for_reply", conversation_id=other.data["conversation_id"])

    assert "1 of your turns are running or waiting" in refusal
    assert other.data["status"] == "running"


class Steps:
    """An application in which each call takes two steps of the event loop. Keeps their order."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for step in ("begin", "end"):
            self.taken.append((scope["name"], step))
            await anyio.lowlevel.checkpoint()


async def receive_nothing() -> Message:
    return {"type": "http.request"}


async def send_nothing(message: Any) -> None: ...


def scope_of(name: str, path: str = "/mcp") -> Scope:
    return {"type": "http", "path": path, "method": "POST", "headers": [], "name": name}


async def test_calls_that_arrive_together_begin_one_after_the_other() -> None:
    """The first has its answer before the last has begun, and no other request waits for them."""
    steps = Steps()
    app = Limits(steps, "/mcp", Settings())
    async with anyio.create_task_group() as tasks:
        for name in ("one", "two", "three"):
            tasks.start_soon(app, scope_of(name), receive_nothing, send_nothing)
        tasks.start_soon(app, scope_of("health", "/healthz"), receive_nothing, send_nothing)

    calls = [(name, step) for name, step in steps.taken if name != "health"]
    assert calls == [(name, step) for name in ("one", "two", "three") for step in ("begin", "end")]
    assert steps.taken.index(("health", "begin")) == 1


async def test_a_caller_that_leaves_the_line_holds_nobody_up() -> None:
    steps = Steps()
    app = Limits(steps, "/mcp", Settings())
    patience = anyio.CancelScope()

    async def leave() -> None:
        with patience:
            await app(scope_of("leaves"), receive_nothing, send_nothing)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, scope_of("first"), receive_nothing, send_nothing)
        tasks.start_soon(leave)
        tasks.start_soon(app, scope_of("last"), receive_nothing, send_nothing)
        await anyio.lowlevel.checkpoint()
        patience.cancel()

    assert [name for name, _ in steps.taken] == ["first", "first", "last", "last"]


async def test_what_an_application_gets_wrong_is_still_its_own_error() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("its own")

    app = Limits(breaks, "/mcp", Settings(max_calls=1, max_per_caller=1))
    for _ in range(3):
        with pytest.raises(ValueError, match="its own"):
            await app(scope_of("wrong"), receive_nothing, send_nothing)


async def test_more_clients_can_listen_than_the_sdk_has_places_for() -> None:
    fields, headers = modern_call("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
    body = json.dumps(fields)
    head = "\r\n".join([*(f"{k}: {v}" for k, v in headers.items()), f"Content-Length: {len(body)}"])
    async with http_server(Settings(base_url=NOWHERE)) as url, AsyncExitStack() as listening:
        streams = [await listening.enter_async_context(raw(url, head)) for _ in range(1_025)]
        for each in streams:
            await each.send(body.encode())
        with anyio.fail_after(HANG_SECONDS):
            answered = b""
            while b"acknowledged" not in answered:
                answered += await streams[-1].receive()
                assert b"error" not in answered
