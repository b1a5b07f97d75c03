"""Ends requests whose token is no longer accepted: an open stream would otherwise outlive it.

A token of the file is looked up again, so a revoked one ends, and one whose rights have changed: its client connects
again with the new ones. A provider's token cannot be revoked, so only its expiry counts. One task looks at all
requests, because a task for each would cost every call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
from mcp.server.auth.provider import TokenVerifier
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letta_conversations_mcp.server.caller_view import CallerToken

LOOK_SECONDS = 0.5


@dataclass(eq=False)
class _Request:
    secret: str
    token: CallerToken
    working: anyio.CancelScope


class OpenRequests:
    """The requests that are being answered. `watch` runs as long as the application."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self._open: set[_Request] = set()

    async def watch(self) -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            for request in list(self._open):
                if not await self._is_accepted(request):
                    request.working.cancel()

    async def serve(
        self, app: ASGIApp, refusal: ASGIApp, scope: Scope, receive: Receive, send: Send, secret: str
    ) -> None:
        """Answer a request whose token was accepted. If the token becomes invalid meanwhile, the response ends; if it
        has not begun, `refusal` is sent instead."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        with anyio.CancelScope() as working:
            request = _Request(secret, scope["user"].access_token, working)
            self._open.add(request)
            try:
                await app(scope, receive, watched)
            finally:
                self._open.discard(request)
        if working.cancelled_caught and not has_begun:
            await refusal(scope, receive, send)

    async def _is_accepted(self, request: _Request) -> bool:
        expires_at = request.token.expires_at
        if expires_at is not None and expires_at <= time.time():
            return False
        if request.token.claims is not None:
            return True
        again = await self._verifier.verify_token(request.secret)
        return isinstance(again, CallerToken) and again.access == request.token.access
