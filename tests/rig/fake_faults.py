"""What a test may do to the connection of a fake server: look at the requests, and break their answers.

Owns the ASGI layer in front of the app: it records every request, refuses it without the password, and applies the
faults that a test registered. Each fault is hit a given number of times, and one that was never hit fails the test at
its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.rig.waiting import Record


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it came in; `json` is None without a body, `query` has the last of repeated keys.
    Requests over one connection share the port of their client."""

    method: str
    path: str
    query: dict[str, str]
    json: Any
    headers: dict[str, str]
    client_port: int = 0


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path matches the glob `path`."""

    method: str
    path: str
    times: int
    hits: int = 0

    def matches(self, request: RecordedRequest) -> bool:
        return self.hits < self.times and self.method == request.method and fnmatchcase(request.path, self.path)


@dataclass
class Failure(Fault):
    """An answer of the test's own; the app does not see the request."""

    status: int = 500
    body: str | Mapping[str, Any] = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def response(self) -> Response:
        if isinstance(self.body, str):
            kind = "text/html" if self.body.lstrip().startswith("<") else "text/plain"
            return Response(self.body, self.status, dict(self.headers), media_type=kind)
        return JSONResponse(dict(self.body), self.status, dict(self.headers))


@dataclass
class Drop(Fault):
    """The connection is closed: before the app sees the request, when it answers, or after so many parts of the
    answer."""

    handled: bool = False
    after_events: int | None = None


@dataclass
class Stall(Fault):
    """The request waits for the gate: before the app sees it, or (`handled`) when it answers."""

    gate: anyio.Event = field(default_factory=anyio.Event)
    handled: bool = False


class Faults:
    """The ASGI app in front of `app`."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self.requests = Record[RecordedRequest]()
        self.registered: list[Fault] = []
        self._app = app
        self._password = password
        self._scopes: set[anyio.CancelScope] = set()
        self._connections: set[Connection] = set()

    def break_connections(self) -> None:
        """Cut off every request that is still answered."""
        for connection in self._connections:
            connection.cut_off()

    def reset(self) -> None:
        self.requests.clear()
        self.registered.clear()

    def close(self) -> None:
        """End every request that is still answered, open streams too."""
        for scope in self._scopes:
            scope.cancel()

    def check_used(self) -> None:
        unused = [fault for fault in self.registered if fault.hits == 0]
        if unused:
            raise AssertionError(
                f"registered but never hit: {unused}; requests: {[(r.method, r.path) for r in self.requests]}"
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as cancel:
            self._scopes.add(cancel)
            try:
                await self._answer(scope, receive, send)
            finally:
                self._scopes.discard(cancel)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        request = recorded(scope, body)
        self.requests.append(request)
        if (
            self._password
            and request.path != "/v1/health/"
            and request.headers.get("authorization") != f"Bearer {self._password}"
        ):
            await JSONResponse({"detail": "Unauthorized"}, 401)(scope, receive, send)
            return
        stall = self._hit(request, Stall)
        fault = self._hit(request, Failure, Drop)
        connection = Connection(scope, replay(body, receive), send)
        if isinstance(stall, Stall):
            connection.stall = stall if stall.handled else None
            if not stall.handled:
                await stall.gate.wait()
        if isinstance(fault, Failure):
            await fault.response()(scope, receive, connection.send)
        elif isinstance(fault, Drop) and not fault.handled and fault.after_events is None:
            await connection.close()
        else:
            connection.drop = fault if isinstance(fault, Drop) else None
            self._connections.add(connection)
            try:
                await connection.run(self._app)
            finally:
                self._connections.discard(connection)

    def _hit(self, request: RecordedRequest, *kinds: type[Fault]) -> Fault | None:
        for fault in self.registered:
            if isinstance(fault, kinds) and fault.matches(request):
                fault.hits += 1
                return fault
        return None


class Connection:
    """One request to the app whose answer may be held back or cut off."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.stall: Stall | None = None
        self.drop: Drop | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._events = 0
        self._closed = False
        self._cut = anyio.CancelScope()

    async def run(self, app: ASGIApp) -> None:
        with self._cut:
            await app(self._scope, self._receive, self.send)
        if self._closed:
            await self.close()

    def cut_off(self) -> None:
        self._closed = True
        self._cut.cancel()

    async def send(self, message: Message) -> None:
        if self.stall:
            await self.stall.gate.wait()
        if self.drop and self._is_due(self.drop, message):
            self.cut_off()
            await anyio.lowlevel.checkpoint()
        await self._send(message)

    def _is_due(self, drop: Drop, message: Message) -> bool:
        """Whether the connection ends before this part of the answer. A stream sends one event in each part."""
        if drop.after_events is None:
            return True
        due = message["type"] == "http.response.body" and self._events >= drop.after_events
        self._events += message["type"] == "http.response.body"
        return due

    async def close(self) -> None:
        """Close the TCP connection after what was sent so far, without the end of the answer."""
        # ASGI has no way to do this: the callable that uvicorn gives is a method of the object that owns the transport.
        cycle: Any = getattr(self._send, "__self__")  # noqa: B009
        cycle.transport.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an app when the body was already read."""
    waiting = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

    return again


def recorded(scope: Scope, body: bytes) -> RecordedRequest:
    try:
        content = json.loads(body) if body else None
    except ValueError:
        content = body.decode(errors="replace")
    return RecordedRequest(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
        json=content,
        headers={key.decode().lower(): value.decode() for key, value in scope["headers"]},
        client_port=scope["client"][1] if scope.get("client") else 0,
    )
