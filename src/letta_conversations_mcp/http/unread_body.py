"""Completes responses, and closes a connection whose request was answered before it was read completely, as every
refusal is."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_SECONDS = 5.0
"""How long a client may go on sending after its answer."""

SILENT_SECONDS = 1.0
"""How long it may send nothing meanwhile."""


class CloseUnread:
    """The outermost middleware. A response that was begun is completed. The rest of a request that was answered early
    is thrown away, up to `most` bytes, and then the connection is closed.

    Closed at once, the client's system would throw the answer away: it learns of unread bytes first. Never closed, a
    body without end would keep a connection and a core busy.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        closes = has_begun = has_ended = False

        async def watched_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def drain() -> None:
            left = self._most
            due = anyio.current_time() + LINGER_SECONDS
            while not is_read and left > 0:
                message = None
                with anyio.move_on_after(min(SILENT_SECONDS, due - anyio.current_time())):
                    message = await watched_receive()
                if message is None:
                    return
                left -= len(message.get("body", b""))

        async def watched_send(message: Message) -> None:
            nonlocal closes, has_begun, has_ended
            has_begun = True
            has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start" and not is_read:
                closes = True
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            elif closes and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await drain()
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, watched_receive, watched_send)
        if has_begun and not has_ended:
            await send({"type": "http.response.body"})
