"""All uses of private parts of the MCP SDK.

A test fails as soon as the SDK offers one of them publicly; then call that instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mcp.server import MCPServer, ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.context import HandlerResult
from mcp_types import RequestParams

Params = TypeVar("Params", bound=RequestParams)


def add_request_handler(
    server: MCPServer[Any],
    method: str,
    params: type[Params],
    handler: Callable[[ServerRequestContext[Any, Any], Params], Awaitable[HandlerResult]],
) -> None:
    """Answer a method of the protocol that MCPServer has no handler for."""
    server._lowlevel_server.add_request_handler(method, params, handler)  # pyright: ignore[reportPrivateUsage]


async def serve_over(server: MCPServer[Any], read: Any, write: Any) -> None:
    """Serve one client over these streams until it closes its side. MCPServer itself opens its streams."""
    lowlevel = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
    await lowlevel.run(read, write, lowlevel.create_initialization_options())


def connection_of(ctx: ServerRequestContext[Any, Any]) -> Connection:
    """The connection that a request came in on. It outlives the request, and only it has the session's id."""
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]
