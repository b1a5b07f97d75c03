"""The endpoints for operators, in front of everything else: /healthz, /readyz and /metrics.

The first two are for anybody: they tell nothing but whether it is so. Metrics tell how much a team works with its
agents, so they need a token of their own wherever calls need one: the one for calls is worth as much as the key for
Letta, and does not belong into the configuration of a monitoring system.

While the server goes down, new calls are refused here, and requests that are being answered are counted.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from mcp_types import INTERNAL_ERROR
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letta_conversations_mcp import __version__
from letta_conversations_mcp.core.errors import RETRY_SECONDS, ShuttingDown
from letta_conversations_mcp.observability.metrics import PrometheusMeter
from letta_conversations_mcp.observability.request_id import name_request
from letta_conversations_mcp.turns.draining import Drain

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"

PEEKED_BYTES = 65_536
"""How much of a request is read to find out what it is: those that are let through are short."""


class Endpoints:
    """The outermost middleware. `unready` gives the reason why the server cannot work now, "" when it can.
    `metrics_token` is what /metrics asks for: "" for nothing, None to offer no metrics at all."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        mcp_path: str,
        unready: Callable[[], Awaitable[str]],
        meter: PrometheusMeter,
        metrics_token: str | None,
        is_known_host: Callable[[str], bool],
        drain: Drain,
    ) -> None:
        self._app = app
        self._mcp_path = mcp_path
        self._unready = unready
        self._meter = meter
        self._metrics_token = metrics_token
        self._is_known_host = is_known_host
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = self._closing(send)
        own = await self._own_response(scope)
        if own is not None:
            await own(scope, receive, send)
            return
        try:
            await self._pass_on(scope, receive, name_request(scope, send))
        except ClientDisconnect:
            logger.info("a client left before its request had arrived")

    def _closing(self, send: Send) -> Send:
        """A `send` that closes the connection after the answer once the server shuts down: what a proxy sends next goes
        to another replica."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return closing

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != self._mcp_path:
            await self._app(scope, receive, send)
        elif scope["method"] == "GET":
            # Stays open to tell a client of changes, and ends without an answer.
            await (_refusal() if self._drain.begun else self._app)(scope, receive, send)
        else:
            with self._drain.request():
                arriving = self._arriving(receive)
                try:
                    if self._drain.begun:
                        message, arriving = await _peek(arriving)
                        if _begins_something(message):
                            raise ShuttingDown
                    await self._app(scope, arriving, send)
                except ShuttingDown:
                    await _refusal()(scope, receive, send)

    def _arriving(self, receive: Receive) -> Receive:
        """A `receive` that raises ShuttingDown for a request of which a part is still missing when the shutdown begins
        or, for a request that began during the shutdown, when it ends."""
        has_arrived = False

        async def arriving() -> Message:
            nonlocal has_arrived
            if has_arrived:
                return await receive()
            with self._drain.until_end() if self._drain.begun else self._drain.until_draining():
                message = await receive()
                has_arrived = not message.get("more_body", False)
                return message
            raise ShuttingDown

        return arriving

    async def _own_response(self, scope: Scope) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if scope["path"] == HEALTH_PATH:
            return JSONResponse({"status": "ok", "version": __version__})
        if scope["path"] not in (READY_PATH, METRICS_PATH):
            return None
        # As at /mcp: a page in somebody's browser must not read them under a name of its own.
        if not self._is_known_host(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("This Host header is not known here.\n", 421)
        if scope["path"] == READY_PATH:
            return await self._readiness()
        return self._metrics(Headers(scope=scope))

    async def _readiness(self) -> Response:
        reason = "This server is shutting down." if self._drain.begun else await self._unready()
        if reason:
            return JSONResponse({"status": "unready", "reason": reason}, 503, {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse({"status": "ready"})

    def _metrics(self, headers: Headers) -> Response:
        if self._metrics_token is None:
            return PlainTextResponse("There are no metrics without --metrics-token, and none with --workers.\n", 404)
        given = headers.get("authorization", "").encode()
        if self._metrics_token and not hmac.compare_digest(given, f"Bearer {self._metrics_token}".encode()):
            return PlainTextResponse(
                "Send the token for metrics: Authorization: Bearer …\n", 401, {"WWW-Authenticate": "Bearer"}
            )
        return Response(self._meter.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _peek(receive: Receive) -> tuple[object, Receive]:
    """The JSON of a request's body, and a `receive` that returns the body again."""
    messages: list[Message] = []
    size = 0
    while size <= PEEKED_BYTES:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if not messages[-1].get("more_body", False):
            break
    again = iter(messages)

    async def replay() -> Message:
        return next(again, None) or await receive()

    try:
        return from_json(b"".join(each.get("body", b"") for each in messages)), replay
    except ValueError:
        return None, replay


def _begins_something(message: object) -> bool:
    """Whether a message is more than what a client says and asks while it takes the answers of its running calls: the
    Python SDK looks up a tool's schema after it has been called."""
    if not isinstance(message, Mapping):
        return True
    fields = cast("Mapping[str, object]", message)
    return "id" in fields and fields.get("method") not in (None, "ping", "tools/list")


def _refusal() -> JSONResponse:
    error = {"code": INTERNAL_ERROR, "message": str(ShuttingDown())}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 503, {"Retry-After": str(RETRY_SECONDS)})
