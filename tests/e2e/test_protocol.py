"""What a client is told beside the answers: who the server is, and what may be kept of what it said."""

from __future__ import annotations

import base64
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from mcp_types import CacheableResult

from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.servers import Caller, Way, http_server

pytestmark = pytest.mark.all_ways

ICON_BYTES = 300
"""The icon is in every answer of the newer protocol."""


MODERN = Way("memory", "modern")
"""Only the newer protocol says what may be kept."""


def hint(result: CacheableResult) -> tuple[int | None, str | None]:
    return result.ttl_ms, result.cache_scope


async def test_the_server_has_a_small_icon(mcp: Caller) -> None:
    assert mcp.client.server_info is not None
    [icon] = mcp.client.server_info.icons or []
    kind, data = icon.src.split(",")

    assert (kind, icon.mime_type) == ("data:image/svg+xml;base64", "image/svg+xml")
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")  # noqa: S314 - our own
    assert len(icon.src) < ICON_BYTES


async def test_what_is_said_in_conversations_is_kept_by_nobody_else(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    async with MODERN.to(Settings(base_url=letta.base_url)) as mcp:
        for path in ("", "/transcript", "/transcript.json"):
            result = await mcp.client.read_resource(f"letta://conversations/{conversation_id}{path}")
            assert hint(result) == (0, "private")
        assert hint(await mcp.client.list_resources()) == (0, "private")


async def test_what_is_the_same_for_everybody_may_be_kept(letta: Letta) -> None:
    async with MODERN.to(Settings(base_url=letta.base_url)) as mcp:
        client = mcp.client
        # Which tools are offered depends on whether the client shows apps.
        assert hint(await client.list_tools()) == (3_600_000, "private")
        for result in (
            await client.list_resource_templates(),
            await client.list_prompts(),
        ):
            assert hint(result) == (3_600_000, "public")


NEWER_FIELDS = {"ttlMs", "cacheScope", "resultType"}
COMPLETE_AN_AGENT = {
    "ref": {"type": "ref/prompt", "name": "agent_activity"},
    "argument": {"name": "agent", "value": "a"},
}


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [("resources/list", {}, "resources"), ("completion/complete", COMPLETE_AN_AGENT, "completion")],
)
async def test_clients_of_the_older_protocol_get_no_fields_of_the_newer_one(
    letta: Letta, method: str, params: dict[str, Any], field: str
) -> None:
    """On the wire: a client of the SDK leaves out what it does not know."""
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    settings = Settings(base_url=letta.base_url, stateless=True)
    async with http_server(settings) as url, http_client(timeout=30) as http:
        answer = (await http.post(f"{url}/mcp", json=body, headers=headers)).text

    result = json.loads(answer.partition("data: ")[2])["result"]
    assert field in result
    assert NEWER_FIELDS.isdisjoint(result)
