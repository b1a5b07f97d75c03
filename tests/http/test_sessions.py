"""Sessions of the older protocol: how many there are, and which one makes room. With the SDK's own session manager."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp.server import MCPServer
from starlette.types import Receive, Scope, Send

from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.http.app import SESSION_IDLE_SECONDS
from letta_conversations_mcp.http.sessions import Sessions
from letta_conversations_mcp.settings import Settings
from tests.http.team import HEADERS
from tests.rig.clock import let_pass
from tests.rig.loopback import http_client, loopback_socket, serve_loopback
from tests.rig.servers import http_server
from tests.rig.waiting import at_rest

MOST = 8
"""Of these, one caller may have two."""


class Front:
    """Clients of one server. The caller of a request is the one that its header names."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def open(self, caller: str) -> str:
        """Begin a session; its id."""
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        answer = await self.post(caller, "initialize", params)
        return answer.headers["mcp-session-id"] if answer.status_code == 200 else f"{answer.status_code}"

    async def works(self, caller: str, session_id: str) -> bool:
        answer = await self.post(caller, "ping", {}, session_id)
        assert answer.status_code in (200, 404)
        return answer.status_code == 200

    async def close(self, caller: str, session_id: str) -> None:
        headers = {"x-caller": caller, "mcp-session-id": session_id}
        assert (await self._http.delete("/mcp", headers=headers)).status_code == 200

    @asynccontextmanager
    async def listening(self, caller: str, session_id: str) -> AsyncGenerator[None]:
        headers = HEADERS | {"x-caller": caller, "mcp-session-id": session_id}
        async with self._http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.status_code == 200
            yield

    async def post(self, caller: str, method: str, params: dict[str, Any], session_id: str = "") -> httpx.Response:
        headers = HEADERS | {"x-caller": caller} | ({"mcp-session-id": session_id} if session_id else {})
        return await self._http.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers=headers
        )


@pytest.fixture
async def front() -> AsyncGenerator[Front]:
    app = MCPServer("sessions").streamable_http_app(max_sessions=None)
    sessions = Sessions(app, MOST)

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        caller = dict(scope["headers"]).get(b"x-caller", b"").decode()
        try:
            await sessions(caller, scope, receive, send)
        except Overloaded as error:
            await send({"type": "http.response.start", "status": 429 if error.of_caller else 503, "headers": []})
            await send({"type": "http.response.body"})

    async with (
        serve_loopback(named, loopback_socket()) as url,
        http_client(base_url=url) as http,
    ):
        yield Front(http)


async def test_a_callers_own_oldest_session_makes_room(front: Front) -> None:
    bobs = await front.open("bob")
    first, second = await front.open("ann"), await front.open("ann")
    assert await front.works("ann", first)

    third = await front.open("ann")

    assert not await front.works("ann", second)
    assert await front.works("ann", first)
    assert await front.works("ann", third)
    assert await front.works("bob", bobs)


async def test_a_session_that_is_listened_in_is_not_idle(front: Front) -> None:
    first, second = await front.open("ann"), await front.open("ann")
    async with front.listening("ann", first):
        await front.open("ann")
        assert not await front.works("ann", second)
        assert await front.works("ann", first)


async def test_without_an_idle_session_of_their_own_a_caller_is_refused_and_others_are_not(front: Front) -> None:
    bobs = await front.open("bob")
    first, second = await front.open("ann"), await front.open("ann")
    async with front.listening("ann", first), front.listening("ann", second):
        assert await front.open("ann") == "429"
        assert await front.works("bob", bobs)
        assert await front.works("bob", await front.open("bob"))


async def test_when_all_are_taken_the_oldest_of_anybody_makes_room(front: Front) -> None:
    opened = {name: [await front.open(name), await front.open(name)] for name in ("a", "b", "c", "d")}

    late = await front.open("eve")

    assert not await front.works("a", opened["a"][0])
    assert await front.works("a", opened["a"][1])
    assert await front.works("d", opened["d"][0])
    assert await front.works("eve", late)


async def test_a_session_that_its_client_ends_gives_its_place_back(front: Front) -> None:
    first = await front.open("ann")
    await front.close("ann", first)
    second, third = await front.open("ann"), await front.open("ann")

    assert await front.works("ann", second)
    assert await front.works("ann", third)


async def test_a_session_that_the_server_has_ended_gives_its_place_back_when_it_is_asked_for(front: Front) -> None:
    first, second = await front.open("ann"), await front.open("ann")
    # Behind the back of what counts them, where a session is its caller's alone.
    await front.close("eve", second)
    assert not await front.works("ann", second)

    third = await front.open("ann")

    assert await front.works("ann", first)
    assert await front.works("ann", third)


async def test_a_request_that_opens_no_session_takes_no_place(front: Front) -> None:
    first, second = await front.open("ann"), await front.open("ann")
    for _ in range(3):
        assert not await front.works("eve", "none")
    await front.close("ann", second)
    for _ in range(3):
        assert (await front.post("ann", "ping", {})).status_code == 400

    assert await front.works("ann", first)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_session_that_nobody_uses_is_closed() -> None:
    worked: list[bool] = []
    async with http_server(Settings()) as url:
        async with http_client(base_url=url) as http:
            session_id = await Front(http).open("ann")
        for seconds in (SESSION_IDLE_SECONDS - 60, SESSION_IDLE_SECONDS + 1):
            # The SDK counts from the end of a request, which is after its answer.
            await at_rest()
            let_pass(seconds)
            async with http_client(base_url=url) as http:
                worked.append(await Front(http).works("ann", session_id))

    assert worked == [True, False]


async def test_callers_without_a_name_share_all(front: Front) -> None:
    opened = [await front.open("") for _ in range(MOST + 1)]

    assert [await front.works("", each) for each in opened] == [False, *[True] * MOST]
