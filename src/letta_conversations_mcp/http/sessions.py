"""Sessions of clients of the older protocol, which the SDK keeps in memory until they are ended or idle for long.

Each caller has a share of them. A new one too many is opened all the same when the oldest idle one can make room: one
of the same caller's if that caller's share is taken, else anybody's. It ends as its own client would end it, with a
DELETE; a client that still needs it is answered 404 and begins again, as the protocol asks.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.core.fair_share import FairShare


@dataclass
class _Session:
    """`opened_by` is the request that opened it, `requests` how many are being answered, a stream of changes too."""

    caller: str
    opened_by: Scope
    requests: int = 0


class Sessions:
    """Passes requests on to `app`. `_sessions` is ordered by last use."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._places = FairShare("sessions", most)
        self._sessions: dict[str, _Session] = {}

    async def __call__(self, caller: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Overloaded if there is no room for the session that a request would open."""
        session_id = Headers(scope=scope).get(MCP_SESSION_ID_HEADER, "")
        session = self._sessions.get(session_id)
        if session is not None and session.caller == caller:
            with self._used(session_id, session):
                status, _ = await _watched(self._app, scope, receive, send)
            if status == 404 or (scope["method"] == "DELETE" and status < 400):
                self._forget(session_id)
        elif not session_id and scope["method"] == "POST" and not is_modern(scope):
            await self._open(caller, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _open(self, caller: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._make_room(caller)
        session_id = ""
        try:
            status, session_id = await _watched(self._app, scope, receive, send)
            session_id = session_id if status < 400 else ""
        finally:
            if not session_id:
                self._places.give_back(caller)
        if session_id:
            self._sessions[session_id] = _Session(caller, scope)

    async def _make_room(self, caller: str) -> None:
        while True:
            try:
                self._places.take(caller)
            except Overloaded as error:
                idle = [
                    session_id
                    for session_id, each in self._sessions.items()
                    if not each.requests and (each.caller == caller or not error.of_caller)
                ]
                if not idle:
                    raise
                await self._end(idle[0])
            else:
                return

    async def _end(self, session_id: str) -> None:
        scope = {**self._sessions[session_id].opened_by, "method": "DELETE"}
        self._forget(session_id)
        headers = MutableHeaders(scope=scope)
        for name in ("content-length", "transfer-encoding"):
            del headers[name]
        headers[MCP_SESSION_ID_HEADER] = session_id
        scope["headers"] = headers.raw

        async def nothing() -> Message:
            return {"type": "http.request"}

        async def discard(message: Message) -> None:
            """Ignore the answer, even a 404: the SDK may have ended the session already."""

        await self._app(scope, nothing, discard)

    def _forget(self, session_id: str) -> None:
        if session := self._sessions.pop(session_id, None):
            self._places.give_back(session.caller)

    @contextmanager
    def _used(self, session_id: str, session: _Session) -> Generator[None]:
        """Counts a request of the session, and makes it the most recently used one."""
        session.requests += 1
        try:
            yield
        finally:
            session.requests -= 1
            if self._sessions.pop(session_id, None):
                self._sessions[session_id] = session


def is_modern(scope: Scope) -> bool:
    """True for a request of the protocol without sessions, by the header that the SDK goes by."""
    version = Headers(scope=scope).get(MCP_PROTOCOL_VERSION_HEADER)
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


async def _watched(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> tuple[int, str]:
    """The status of the answer, and the id of the session that it opened. 500 and "" if there was none."""
    status, session_id = 500, ""

    async def watched_send(message: Message) -> None:
        nonlocal status, session_id
        if message["type"] == "http.response.start":
            status = message["status"]
            session_id = Headers(raw=message.get("headers", [])).get(MCP_SESSION_ID_HEADER, "")
        await send(message)

    await app(scope, receive, watched_send)
    return status, session_id
