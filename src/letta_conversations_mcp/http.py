"""The ASGI application of `serve --http`: MCP at /mcp behind a bearer token, and a health route in front of it.

Only this machine may call unless a token is set. The Host and Origin headers of every MCP request are checked, against
names that the settings give: a page in somebody's browser must not reach a server on that person's machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from letta_conversations_mcp import __version__
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.tool import Services

MCP_PATH = "/mcp"
HEALTH_PATH = "/healthz"

BODY_BYTES = 32 * 1024 * 1024
"""The largest request: a message with a few images of the largest size, in base64."""

STOP_SECONDS = 2
"""How long open requests may take to end when the server is stopped; their turns go on at Letta."""


class TokenNeeded(Exception):
    """The server would be open to others without a token. Its text is for the person who starts it."""


def check_access(settings: Settings) -> None:
    """Raises TokenNeeded when the settings would leave the server open to others."""
    if settings.listens_beyond_loopback and not settings.token.get_secret_value():
        raise TokenNeeded(
            f"--host {settings.host} lets other machines in, so a token is needed: set LETTA_MCP_TOKEN to a long "
            "random text (python -c 'import secrets; print(secrets.token_urlsafe(32))') and give it to the clients "
            "as their bearer token. Or leave --host out: then only this machine can call."
        )


class RequireToken:
    """Lets through only requests that carry the token, and those for the health route."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH_PATH:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = JSONResponse(
                    {"error": "unauthorized", "message": "Send the server's token: Authorization: Bearer …"},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def build_app(server: MCPServer[Services], settings: Settings) -> Starlette:
    """The application for a server. Raises TokenNeeded."""
    check_access(settings)

    @server.custom_route(HEALTH_PATH, methods=["GET"])
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        max_request_body_size=BODY_BYTES,
        transport_security=_transport_security(settings),
    )
    if token := settings.token.get_secret_value():
        app.user_middleware.insert(0, Middleware(RequireToken, token=token))
    return app


def _transport_security(settings: Settings) -> TransportSecuritySettings:
    names = ["127.0.0.1", "localhost", "[::1]"]
    if settings.listens_beyond_loopback and not ip_is_unspecified(settings.host):
        names.append(settings.host)
    hosts = [*names, *(f"{name}:*" for name in names), *settings.allowed_hosts]
    origins = [f"http://{name}{port}" for name in names for port in ("", ":*")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[*origins, *settings.allowed_origins])


def ip_is_unspecified(host: str) -> bool:
    """Whether the host means every address of the machine, which no client names in its Host header."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def listen(settings: Settings) -> socket.socket:
    """A bound socket: bound before serving, so that a taken port is an error at the start and 0 has become a number."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, or asyncio would leave Nagle's algorithm on, which costs 40 ms for every answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError:
        bound.close()
        raise
    return bound
