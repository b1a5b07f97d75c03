"""The server over HTTP: who may reach it, and what it says of itself."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from letta_conversations_mcp.http.app import CannotServe, build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.loopback import http_client
from tests.rig.servers import http_server

TOKEN = "a-long-enough-random-token"
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "a test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def initialize(url: str, **headers: str) -> httpx.Response:
    async with http_client() as client:
        return await client.post(f"{url}/mcp", json=INITIALIZE, headers=ACCEPT | headers)


def test_who_comes_as_soon_as_the_address_is_known_is_not_refused() -> None:
    with listen(Settings(port=0)) as listening, socket.create_connection(listening.getsockname(), timeout=20) as client:
        assert client.getpeername() == listening.getsockname()


async def test_without_a_token_this_machine_may_call() -> None:
    async with http_server(Settings()) as url:
        assert (await initialize(url)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80"])
async def test_a_foreign_host_header_is_refused(host: str) -> None:
    async with http_server(Settings()) as url:
        assert (await initialize(url, Host=host)).status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
async def test_a_foreign_origin_is_refused(origin: str) -> None:
    async with http_server(Settings()) as url:
        assert (await initialize(url, Origin=origin)).status_code == 403


async def test_hosts_and_origins_can_be_let_in() -> None:
    settings = Settings(
        token=SecretStr(TOKEN), allowed_hosts=("team.example",), allowed_origins=("https://team.example",)
    )
    async with http_server(settings) as url:
        response = await initialize(
            url, Host="team.example", Origin="https://team.example", Authorization=f"Bearer {TOKEN}"
        )

    assert response.status_code == 200


async def test_with_a_token_only_its_bearer_may_call() -> None:
    async with http_server(Settings(token=SecretStr(TOKEN))) as url:
        refusals = [await initialize(url), await initialize(url, Authorization="Bearer wrong")]
        allowed = await initialize(url, Authorization=f"Bearer {TOKEN}")

    assert [each.status_code for each in refusals] == [401, 401]
    assert all(each.headers["WWW-Authenticate"].startswith("Bearer") for each in refusals)
    assert allowed.status_code == 200


async def test_the_health_route_is_open_and_tells_the_version() -> None:
    async with (
        http_server(Settings(token=SecretStr(TOKEN))) as url,
        http_client() as client,
    ):
        response = await client.get(f"{url}/healthz")

    assert (response.status_code, response.json()["status"]) == (200, "ok")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "letta.example"])
def test_other_machines_are_not_let_in_without_a_token(host: str) -> None:
    settings = Settings(host=host)

    with pytest.raises(CannotServe, match="LETTA_MCP_TOKEN"):
        build_app(build_server(settings), settings)


async def test_host_headers_are_checked_off_loopback_too() -> None:
    settings = Settings(host="0.0.0.0", token=SecretStr(TOKEN))
    async with http_server(settings) as url:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        foreign = await initialize(url, Host="evil.example", **bearer)
        own = await initialize(url, **bearer)

    assert (foreign.status_code, own.status_code) == (421, 200)
