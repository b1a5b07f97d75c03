"""Authentication: every request needs a token, except those for the open paths.

A request is refused before its body is read. If tokens come from an OpenID provider, the refusal has what the MCP
specification requires for a client to get one: the URL of the metadata (RFC 9728) and the missing scopes (RFC 6750).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import AccessToken, TokenVerifier
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from letta_conversations_mcp.core import access
from letta_conversations_mcp.core.errors import RETRY_SECONDS
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.http.auth.open_requests import OpenRequests
from letta_conversations_mcp.http.refusal import refusal
from letta_conversations_mcp.server.caller_view import CallerToken

NOT_ACCEPTED = "Your token is unknown, has expired or is for another server. Send it as Authorization: Bearer."


class ProviderFailed(Exception):
    """A verifier cannot verify any token: the provider's keys cannot be fetched."""


class EitherVerifier:
    """Accepts the tokens of the file and those of the provider."""

    def __init__(self, own: TokenVerifier, provider: TokenVerifier) -> None:
        self._own = own
        self._provider = provider

    async def verify_token(self, token: str) -> AccessToken | None:
        return await self._own.verify_token(token) or await self._provider.verify_token(token)


class AuthMiddleware:
    """Passes requests with a valid token on, with their caller in the request's context.

    `metadata_url` is "" without a provider. `scope_of` returns the scope that a tool needs, None for an unknown one.
    """

    def __init__(
        self,
        app: ASGIApp,
        verifier: TokenVerifier,
        open_paths: Collection[str],
        metadata_url: str,
        scope_of: Callable[[str], access.Scope | None],
    ) -> None:
        self._app = AuthContextMiddleware(app)
        self._bearer = BearerAuthBackend(verifier)
        self._requests = OpenRequests(verifier)
        self._open_paths = frozenset(open_paths)
        self._metadata_url = metadata_url
        self._scope_of = scope_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            async with background_tasks() as tasks:
                tasks.start_soon(self._requests.watch)
                await self._app(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
        elif refused := await self._admit(scope):
            await refused(scope, receive, send)
        else:
            ended = self._refusal(401, "invalid_token", NOT_ACCEPTED)
            secret = Headers(scope=scope)["authorization"].partition(" ")[2]
            await self._requests.serve(self._app, ended, scope, receive, send, secret)

    async def _admit(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        try:
            verified = await self._bearer.authenticate(HTTPConnection(scope))
        except ProviderFailed:
            return refusal(
                503,
                "The provider of your token does not answer, so it cannot be checked. Nothing was done; "
                f"try again in {RETRY_SECONDS} seconds.",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        if verified is None:
            given = headers.get("authorization", "").lower().startswith("bearer ")
            problem = NOT_ACCEPTED if given else "A token is needed. Send it as Authorization: Bearer."
            return self._refusal(401, "invalid_token" if given else "", problem)
        scope["auth"], scope["user"] = verified
        missing = self._missing(headers, cast("CallerToken", verified[1].access_token))
        if missing:
            return self._refusal(
                403, "insufficient_scope", f"Nothing was done: your token lacks the scope {missing}.", missing
            )
        return None

    def _missing(self, headers: Headers, token: CallerToken) -> str:
        """The scopes that a client can ask the provider for, as far as a request shows it before it is read: one of
        2026 names the tool in a header. For a token of the file nobody can be asked; there the tool itself says it."""
        if token.claims is None:
            return ""
        if not token.access.scopes:
            return " ".join(access.SCOPES)
        if headers.get("mcp-method") != "tools/call":
            return ""
        needed = self._scope_of(headers.get("mcp-name", ""))
        return needed if needed and not token.access.may(needed) else ""

    def _refusal(self, status: int, error: str, problem: str, scopes: str = "") -> JSONResponse:
        facts = {"error": error, "error_description": problem if error else ""}
        if self._metadata_url:
            facts |= {"scope": scopes or " ".join(access.SCOPES), "resource_metadata": self._metadata_url}
        challenge = ", ".join(f'{name}="{value}"' for name, value in facts.items() if value)
        return refusal(status, problem, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()})
