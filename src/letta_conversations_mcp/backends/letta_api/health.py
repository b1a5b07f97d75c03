"""Finds out what answers at an address: Letta Cloud, a self-hosted Letta server, an App Server, or something else.

Sends read-only requests. Tested with 0.16.8, with and without Redis, and Letta Code 0.34.12.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import letta_client
from pydantic_core import from_json

from letta_conversations_mcp.backends.letta_api.client import Client
from letta_conversations_mcp.core.message_json import text_field
from letta_conversations_mcp.core.model import Health
from letta_conversations_mcp.core.quoting import quote
from letta_conversations_mcp.settings import CLOUD_URL

NOBODY = "conv-00000000-0000-4000-8000-000000000000"
"""A conversation that does not exist."""

TESTED_RELEASE = (0, 16)
"""The release of the self-hosted server that was tested; older ones have no conversations."""

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})")


async def read_health(client: Client, base_url: str) -> Health:
    """Raises Unreachable and TimedOut when nothing answers."""
    health = await _get(client, "/v1/health/")
    version = text_field(_object(health), "version")
    is_cloud = urlsplit(base_url).hostname == urlsplit(CLOUD_URL).hostname
    if not (version or is_cloud or await _has_letta_routes(client)):
        return await _other_server(client, base_url, health)
    release = _RELEASE.match(version)
    old = release is not None and (int(release[1]), int(release[2])) < TESTED_RELEASE
    return Health(
        kind="cloud" if is_cloud else "self_hosted",
        address=base_url,
        version=quote(version, 40),
        background=await _has_background(client),
        needs_key=is_cloud or await _needs_key(client),
        remarks=(f"Letta {quote(version, 40)} is older than 0.16: it may have no conversations.",) if old else (),
    )


async def _has_letta_routes(client: Client) -> bool:
    """For a server behind a proxy that hides its health endpoint."""
    answer = await _get(client, "/v1/agents/?limit=1")
    if answer.status_code == 401:
        return text_field(_object(answer), "detail") == "Unauthorized"
    return answer.status_code == 200 and isinstance(_json(answer), list)


async def _needs_key(client: Client) -> bool | None:
    """Sends a request without a key: a server without a password accepts any key (seen on 0.16.8)."""
    answer = await _get(client, "/v1/agents/?limit=1", headers={"Authorization": letta_client.omit})
    return {200: False, 401: True}.get(answer.status_code)


async def _has_background(client: Client) -> bool | None:
    """Requests the stream of a turn that does not exist. A server without Redis refuses streams before it looks up the
    conversation, one with Redis says that nothing runs (0.16.8). None for any other answer."""
    with client.asking.to("tell whether it has Redis", after=""):
        answer = await _answer(client.once.post(f"/v1/conversations/{NOBODY}/stream", cast_to=httpx.Response, body={}))
    if answer.status_code == 503 and "Redis" in answer.text:
        return False
    return True if answer.status_code == 400 and "No active runs" in answer.text else None


async def _other_server(client: Client, base_url: str, answer: httpx.Response) -> Health:
    """An App Server identifies itself, unless it requires a token first; then it looks like any other server."""
    info = await _get(client, "/app-server-info")
    fields = _object(info)
    if "letta_code_version" in fields or "websocket" in text_field(fields, "error"):
        return Health(kind="app_server", address=base_url, version=quote(text_field(fields, "letta_code_version"), 40))
    content = answer.headers.get("content-type", "").split(";")[0]
    remark = f"GET /v1/health/ is answered with HTTP {answer.status_code} {quote(content, 40)}".rstrip() + "."
    return Health(kind="other", address=base_url, remarks=(remark,))


async def _get(client: Client, path: str, headers: Mapping[str, Any] | None = None) -> httpx.Response:
    with client.asking.to("tell what it is", after="The same can be asked again."):
        options: Any = {"headers": headers} if headers else {}
        return await _answer(client.once.get(path, cast_to=httpx.Response, options=options))


async def _answer(request: Awaitable[httpx.Response]) -> httpx.Response:
    """The response, whatever its status."""
    try:
        return await request
    except letta_client.APIStatusError as error:
        return error.response


def _json(answer: httpx.Response) -> object:
    try:
        return cast("object", from_json(answer.content))
    except ValueError:
        return None


def _object(answer: httpx.Response) -> Mapping[str, object]:
    data = _json(answer)
    return cast("Mapping[str, object]", data) if isinstance(data, dict) else {}
