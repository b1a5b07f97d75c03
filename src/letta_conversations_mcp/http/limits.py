"""How much at a time: calls, streams, what is being received, and for how long.

Over a limit a call is refused before its body is read, with HTTP 429 (this caller has too many) or 503 (all callers
together have too many) and Retry-After: nothing was done, so it can be repeated. Turns of agents have their own limits
in `turns/scheduler.py`: a model should read about those, so the tool answers them in words.

This bounds memory: bodies that are being received or processed take at most BODIES times `max_body_bytes`, answers are
short, and a client that does not read its answer is dropped.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.http.refusal import refusal
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)


BODIES = 8
"""How many requests of the largest size are held in memory at a time."""

STREAMS = 2_000
STREAMS_PER_CALLER = 200
"""Streams that stay open to notify a client: each client has one or none."""


class _Room:
    """Room for so many at a time, of one caller and in all."""

    def __init__(self, what: str, most: int, most_per_caller: int) -> None:
        self._what = what
        self._most = most
        self._most_per_caller = most_per_caller
        self._by_caller: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: str) -> Generator[None]:
        """Raises _Refused when there is none. Callers without a name share only the whole."""
        if caller and self._by_caller[caller] >= self._most_per_caller:
            raise _Refused(429, Overloaded(f"{self._most_per_caller} of your {self._what} are open, as many as may be"))
        if self._by_caller.total() >= self._most:
            raise _Refused(503, Overloaded(f"{self._most} {self._what} are open on this server, as many as may be"))
        self._by_caller[caller] += 1
        try:
            yield
        finally:
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]


class _Refused(Exception):
    """The call goes no further."""

    def __init__(self, status: int, reason: Exception | str) -> None:
        self.status = status
        self.seconds = reason.seconds if isinstance(reason, Overloaded) else 0
        super().__init__(str(reason))

    def answer(self) -> JSONResponse:
        return refusal(self.status, str(self), {"Retry-After": str(self.seconds)} if self.seconds else None)


class Limits:
    """The middleware, after authentication. Only requests to `path` are counted."""

    def __init__(self, app: ASGIApp, path: str, settings: Settings) -> None:
        self._app = app
        self._path = path
        self._settings = settings
        self._calls = _Room("calls", settings.max_calls, settings.max_per_caller)
        self._streams = _Room("streams", STREAMS, STREAMS_PER_CALLER)
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        user = scope.get("user")
        caller = user.access_token.client_id if isinstance(user, AuthenticatedUser) else ""
        exchange = _Exchange(self, receive, send, self._settings.body_timeout)
        try:
            room = self._streams if _is_stream(scope) else self._calls
            with room.place(caller), exchange.counted(Headers(scope=scope)):
                await self._app(scope, exchange.receive, exchange.send)
        except _Refused as refused:
            logger.warning("a call of %r was refused: %s", caller, refused)
            await refused.answer()(scope, receive, send)
        except Exception:
            if not exchange.was_given_up:
                raise
            logger.warning("a call of %r was dropped: the client did not take its answer", caller)

    def take(self, count: int) -> None:
        """Raises _Refused when there is no room for so many bytes more."""
        if self._bodies_bytes + count > BODIES * self._settings.max_body_bytes:
            raise _Refused(503, Overloaded("this server is receiving as much as it may"))
        self._bodies_bytes += count

    def give_back(self, count: int) -> None:
        self._bodies_bytes -= count


class _Exchange:
    """One request and its answer, counted and timed."""

    def __init__(self, limits: Limits, receive: Receive, send: Send, seconds: float) -> None:
        self._limits = limits
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._due = anyio.current_time() + seconds
        self._taken = 0
        self._declared = 0
        self._is_received = False
        self.was_given_up = False

    @contextmanager
    def counted(self, headers: Headers) -> Generator[None]:
        """Hold the room for the body: at once what the request says that it has, and more when more comes."""
        declared = headers.get("content-length", "")
        self._declared = int(declared) if declared.isdecimal() else 0
        try:
            self._take(self._declared)
            yield
        finally:
            self._limits.give_back(self._taken)

    def _take(self, count: int) -> None:
        self._limits.take(count)
        self._taken += count

    async def receive(self) -> Message:
        if self._is_received:
            return await self._receive()
        message: Message | None = None
        with anyio.move_on_after(self._due - anyio.current_time()):
            message = await self._receive()
        if message is None:
            raise _Refused(408, f"The request did not arrive within {self._seconds:g} s. Nothing was done.")
        count = len(message.get("body", b""))
        if count > self._declared:
            self._take(count - self._declared)
        self._declared = max(self._declared - count, 0)
        self._is_received = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if not self.was_given_up:
            with anyio.move_on_after(self._seconds) as waiting:
                await self._send(message)
            self.was_given_up = waiting.cancelled_caught
        if self.was_given_up:
            raise OSError("the client does not take its answer")


class CloseUnread:
    """The outermost middleware: who is answered before the whole request was read is told no more than that. Otherwise
    uvicorn would go on reading, and a body that never ends would keep a connection and a core busy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

        async def watched_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_read:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, watched_receive, watched_send)


def _is_stream(scope: Scope) -> bool:
    """Whether a request stays open to tell of changes: GET in the older protocol, a method of its own in the newer."""
    return scope["method"] == "GET" or Headers(scope=scope).get("mcp-method") == "subscriptions/listen"
