"""The id of an HTTP request, for the log and the response headers: from the proxy in front, or a new one."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope, Send

HEADER = "X-Request-ID"

_FIT = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""The ids that are accepted for the log."""

_KEY = "letta_conversations_mcp.request_id"


def name_request(scope: Scope, send: Send) -> Send:
    """Give a request its id. Returns a `send` that adds it to the response."""
    given = Headers(scope=scope).get(HEADER, "")
    request_id = given if _FIT.fullmatch(given) else uuid.uuid4().hex
    scope[_KEY] = request_id

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[HEADER] = request_id
        await send(message)

    return send_with_id


def request_id_of(request: object) -> str:
    """The id of the HTTP request of a call; "" for another transport."""
    return str(request.scope.get(_KEY, "")) if isinstance(request, HTTPConnection) else ""
