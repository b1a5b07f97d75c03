"""The server as one caller sees it.

`http/auth/middleware.py` verifies the token and stores the caller in the context of the request. Here each request gets
its caller's view of the services: a backend with their agents and their key, and their turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp.server import ServerRequestContext
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_REQUEST,
    CompleteResult,
    Completion,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
)
from pydantic import SkipValidation

from letta_conversations_mcp.backends.scoped import ScopedBackend
from letta_conversations_mcp.core.access import EVERYTHING, Access
from letta_conversations_mcp.core.errors import Forbidden
from letta_conversations_mcp.tools.base import Services
from letta_conversations_mcp.tools.mcp_errors import raising_mcp_errors, to_mcp_error

_NOTHING_TO_READ: Mapping[str, HandlerResult] = {
    "resources/list": ListResourcesResult(resources=[]),
    "resources/templates/list": ListResourceTemplatesResult(resource_templates=[]),
    "prompts/list": ListPromptsResult(prompts=[]),
    "completion/complete": CompleteResult(completion=Completion(values=[])),
}
"""The answers to a caller without the scope read."""

_READING = ("resources/", "prompts/", "completion/", "subscriptions/", "tasks/get")
_WRITING = ("tasks/cancel", "tasks/update")
"""Requests that need the scope read or write. Tools have scopes of their own."""


class CallerToken(AccessToken):
    """The facts of a verified token, without the token itself, which is no longer needed."""

    token: str = ""
    access: SkipValidation[Access]

    @classmethod
    def of(cls, access: Access, **claims: Any) -> CallerToken:
        return cls(client_id=access.name, scopes=sorted(access.scopes), access=access, **claims)


def current_access() -> Access | None:
    """The caller of the current request; None if the server needs no token."""
    token = get_access_token()
    return token.access if isinstance(token, CallerToken) else None


class Callers:
    """A middleware of the MCP server. A request without a verified caller is not answered."""

    def access(self) -> Access:
        """The rights of the current caller."""
        access = current_access()
        if access is None:
            raise MCPError(code=INVALID_REQUEST, message="This server answers only callers that it knows.")
        return access

    async def __call__(self, ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
        access = self.access()
        if not access.may("read") and ctx.method.startswith(_READING):
            if ctx.method in _NOTHING_TO_READ:
                return _NOTHING_TO_READ[ctx.method]
            raise to_mcp_error(Forbidden(ctx.method, "read"))
        if not access.may("write") and ctx.method in _WRITING:
            raise to_mcp_error(Forbidden(ctx.method, "write"))
        if access == EVERYTHING:
            return await call_next(ctx)
        with raising_mcp_errors():
            services = await _view(ctx.lifespan_context, access)
        return await call_next(replace(ctx, lifespan_context=services))


async def _view(services: Services, access: Access) -> Services:
    backend = await services.backend_of_key(access.letta_key) if access.letta_key else services.backend
    if access.agents is not None:
        backend = ScopedBackend(backend, access.agents)
    return replace(services, backend=backend, scheduler=services.scheduler.on_behalf_of(access.name, backend))
