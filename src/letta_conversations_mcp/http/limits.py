"""How much at a time: calls, streams, sessions, what is being received, and for how long.

Over a limit a call is refused with HTTP 429 (this caller has too many) or 503 (all callers together have too many) and
Retry-After, before it is parsed: nothing was done, so it can be repeated. Turns of agents have their own limits in
`turns/scheduler.py`: a model should read about those, so the tool answers them in words.

This bounds memory: bodies that are being received or processed take at most BODIES times `max_body_bytes`, answers are
short.

Calls that arrive together begin one after the other. Side by side they would all take as long as the last of them.
"""

from __future__ import annotations

import asyncio
import logging

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.core.fair_share import FairShare
from letta_conversations_mcp.http.json_values import ValueCount
from letta_conversations_mcp.http.refusal import refusal
from letta_conversations_mcp.http.sessions import Sessions, is_modern
from letta_conversations_mcp.server.subscriptions import MOST_LISTENING
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

MOST_VALUES = 10_000
"""Numbers, texts, lists and so on in one request; a call has some tens."""


BODIES = 8
"""How many requests of the largest size are held in memory at a time."""

SESSIONS = 2_000
"""Sessions of clients of the older protocol, which are kept in memory: each client has one."""


class _Refused(Exception):
    """The request goes no further, because of the client."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class Limits:
    """The middleware, after authentication. Only requests to `path` are counted."""

    def __init__(self, app: ASGIApp, path: str, settings: Settings) -> None:
        self._app = app
        self._path = path
        self._seconds = settings.body_timeout
        self._sessions = None if settings.is_stateless else Sessions(app, SESSIONS)
        self._calls = FairShare("calls", settings.max_calls, settings.max_per_caller)
        self._streams = FairShare("streams", MOST_LISTENING)
        self._bytes = FairShare("bytes of requests", BODIES * settings.max_body_bytes)
        self._line = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        user = scope.get("user")
        caller = user.access_token.client_id if isinstance(user, AuthenticatedUser) else ""
        request = _Request(self._bytes, caller, receive, self._seconds)
        try:
            with (self._streams if _is_stream(scope) else self._calls).place(caller):
                await self._begin()
                if self._sessions is not None:
                    await self._sessions(caller, scope, request.receive, send)
                else:
                    await self._app(scope, request.receive, send)
        except Overloaded as error:
            logger.warning("a call of %r was refused: %s", caller, error)
            headers = {"Retry-After": str(error.seconds)}
            await refusal(429 if error.of_caller else 503, str(error), headers)(scope, receive, send)
        except _Refused as refused:
            logger.warning("a call of %r was refused: %s", caller, refused)
            await refusal(refused.status, str(refused))(scope, receive, send)
        finally:
            self._bytes.give_back(caller, request.received)

    async def _begin(self) -> None:
        """Wait until the calls that came earlier have begun, each ahead of the next by a step of the event loop."""
        await self._line.acquire()
        asyncio.get_running_loop().call_soon(self._line.release)


class _Request:
    """What arrives of one request, counted and timed. `received` bytes are taken of the caller's share."""

    def __init__(self, share: FairShare, caller: str, receive: Receive, seconds: float) -> None:
        self._share = share
        self._caller = caller
        self._receive = receive
        self._seconds = seconds
        self._due = anyio.current_time() + seconds
        self._values = ValueCount()
        self._is_received = False
        self.received = 0

    async def receive(self) -> Message:
        if self._is_received:
            return await self._receive()
        message: Message | None = None
        with anyio.move_on_after(self._due - anyio.current_time()):
            message = await self._receive()
        if message is None:
            raise _Refused(408, f"The request did not arrive within {self._seconds:g} s. Nothing was done.")
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        self._share.take(self._caller, len(body))
        self.received += len(body)
        self._values.add(body)
        if self._values.count > MOST_VALUES:
            raise _Refused(413, f"The request has more than {MOST_VALUES:,} values. Nothing was done.")
        self._is_received = not message.get("more_body", False)
        return message


def _is_stream(scope: Scope) -> bool:
    """True if a request stays open to notify the client: GET in the older protocol, a method of its own in the newer,
    where the SDK refuses a header that says something else than the body."""
    return scope["method"] == "GET" or (
        is_modern(scope) and Headers(scope=scope).get("mcp-method") == "subscriptions/listen"
    )
