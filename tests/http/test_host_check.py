"""Host and Origin headers: whose pages reach the server, by the SDK's own check."""

from __future__ import annotations

import pytest
from mcp.server.transport_security import TransportSecurityMiddleware
from pydantic import SecretStr
from starlette.requests import Request

from letta_conversations_mcp.http.host_check import host_and_origin_check, known_host
from letta_conversations_mcp.settings import Settings

TOKEN = SecretStr("x" * 32)
ALONE = Settings()
EVERYWHERE = Settings(host="0.0.0.0", token=TOKEN)
ON_ONE_ADDRESS = Settings(host="10.0.0.5", token=TOKEN)
ON_IPV6 = Settings(host="fd00::5", token=TOKEN)
PUBLIC = Settings(public_url="https://team.example:8443/mcp", token=TOKEN)
NAMED = Settings(allowed_hosts=("a.example", "b.example:*"), allowed_origins=("https://c.example",), token=TOKEN)


async def status(settings: Settings, host: str, origin: str = "") -> int:
    headers = {"host": host, "content-type": "application/json"} | ({"origin": origin} if origin else {})
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    check = TransportSecurityMiddleware(host_and_origin_check(settings))
    refusal = await check.validate_request(Request({"type": "http", "method": "POST", "headers": raw}), is_post=True)
    return refusal.status_code if refusal else 200


@pytest.mark.parametrize(
    ("settings", "accepted", "refused"),
    [
        (
            ALONE,
            ["127.0.0.1", "localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"],
            ["team.example", "0.0.0.0", "10.0.0.5:8000", "localhost.evil.example", "evil.example:8000", "::1"],
        ),
        (EVERYWHERE, ["localhost:8000"], ["0.0.0.0", "0.0.0.0:8000", "team.example", "10.0.0.5"]),
        (ON_ONE_ADDRESS, ["localhost", "10.0.0.5", "10.0.0.5:8000"], ["10.0.0.50", "10.0.0.6:8000", "0.0.0.0"]),
        (ON_IPV6, ["localhost", "[fd00::5]", "[fd00::5]:8000"], ["[fd00::6]:8000", "[::]:8000"]),
        (PUBLIC, ["localhost", "team.example:8443"], ["team.example", "team.example:80", "x.team.example:8443"]),
        (
            NAMED,
            ["localhost", "a.example", "b.example:1"],
            ["a.example:80", "b.example", "c.example", "x.a.example"],
        ),
    ],
)
async def test_only_names_of_this_server_are_hosts(settings: Settings, accepted: list[str], refused: list[str]) -> None:
    answers = {host: await status(settings, host) for host in accepted + refused}

    assert answers == dict.fromkeys(accepted, 200) | dict.fromkeys(refused, 421)


@pytest.mark.parametrize(
    ("settings", "accepted", "refused"),
    [
        (
            ALONE,
            ["http://localhost", "http://localhost:3000", "http://127.0.0.1:1", "http://[::1]:8000", ""],
            ["https://localhost", "http://localhost.evil.example", "null", "http://evil.example:3000"],
        ),
        (ON_ONE_ADDRESS, ["http://10.0.0.5:8000"], ["http://10.0.0.6", "https://10.0.0.5:8000"]),
        (PUBLIC, ["https://team.example:8443"], ["http://team.example:8443", "https://team.example"]),
        (NAMED, ["https://c.example"], ["http://c.example", "https://a.example", "https://c.example:8443"]),
    ],
)
async def test_only_pages_of_this_server_are_origins(
    settings: Settings, accepted: list[str], refused: list[str]
) -> None:
    answers = {origin: await status(settings, "localhost", origin) for origin in accepted + refused}

    assert answers == dict.fromkeys(accepted, 200) | dict.fromkeys(refused, 403)


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("[::1]:8000", True),
        # A probe's and Prometheus's: no page has an address as its name.
        ("10.1.2.3:8000", True),
        ("[fd00::1]:8000", True),
        ("a.example", True),
        ("b.example:9000", True),
        ("a.example:80", False),
        ("evil.example", False),
        ("10.1.2.3.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("", False),
    ],
)
def test_the_operators_endpoints_also_know_addresses(host: str, is_known: bool) -> None:
    assert known_host(NAMED)(host) == is_known
