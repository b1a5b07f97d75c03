"""The ASGI application of `serve --http`: MCP at /mcp behind authentication and limits, and the operators' endpoints in
front of them.

Only this machine may call unless callers have tokens. The Host and Origin headers of every MCP request are checked,
against names that the settings give: a page in somebody's browser must not reach a server on that person's machine.
"""

from __future__ import annotations

import logging

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.auth.settings import AuthSettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from letta_conversations_mcp.core.access import SCOPES
from letta_conversations_mcp.http.auth.middleware import AuthMiddleware, EitherVerifier
from letta_conversations_mcp.http.auth.token_file import BadTokensFile, OneToken, TokensFile
from letta_conversations_mcp.http.endpoints import Endpoints
from letta_conversations_mcp.http.host_check import host_and_origin_check, known_host
from letta_conversations_mcp.http.limits import Limits
from letta_conversations_mcp.http.unread_body import CloseUnread
from letta_conversations_mcp.http.viewer_page import VIEWER_PATH, viewer_route
from letta_conversations_mcp.observability.metrics import PrometheusMeter
from letta_conversations_mcp.observability.readiness import Readiness
from letta_conversations_mcp.server.app import ConversationServer
from letta_conversations_mcp.server.caller_view import Callers
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

MCP_PATH = "/mcp"

AUTHORIZED_PATH = "/authorized"
"""204 for a caller with a valid token: a proxy can ask before it reads a body (deploy/nginx.conf does)."""

TOKEN_CHARS = 20
"""The shortest LETTA_MCP_TOKEN that other machines may try to guess."""

SESSION_IDLE_SECONDS = 1800
"""How long an unused session is kept."""

KEEP_ALIVE_SECONDS = 620
"""How long an idle connection is kept: longer than balancers keep theirs (nginx and AWS 60 s, Google 600 s), or they
would now and then send a request into one that is just being closed, and it would fail."""

STOP_SECONDS = 2
"""How long connections may take to end when the server is stopped, after its calls have been answered."""


class CannotServe(Exception):
    """The settings would not make a safe server. The text is for the person who starts it."""


def open_verifier(settings: Settings) -> TokenVerifier | None:
    """The verifier of tokens; None if no token is needed, because only this machine can call. Raises CannotServe."""
    if settings.is_reachable_by_others and not settings.knows_callers:
        cause = f"--host {settings.host}" if settings.listens_beyond_loopback else "--allowed-hosts or --public-url"
        raise CannotServe(
            f"{cause} lets other machines in, so a token is needed: set LETTA_MCP_TOKEN to a long random text "
            "(python -c 'import secrets; print(secrets.token_urlsafe(32))') and give it to the clients as their bearer "
            "token, or give each caller their own with --tokens-file or --oidc-issuer. "
            f"Or leave {cause} out: then only this machine can call."
        )
    token = settings.token.get_secret_value()
    if settings.is_reachable_by_others and token and len(token) < TOKEN_CHARS:
        raise CannotServe(
            f"LETTA_MCP_TOKEN has {len(token)} characters and other machines can try to guess it: {TOKEN_CHARS} or "
            "more are needed (python -c 'import secrets; print(secrets.token_urlsafe(32))')."
        )
    if settings.uses_local and not settings.knows_callers:
        if settings.local_tools != "off":
            raise CannotServe(
                f"--local-tools {settings.local_tools} lets agents run shell commands as you, and without a token any "
                "user and any program of this machine can make them: set LETTA_MCP_TOKEN to a long random text, or "
                "leave --local-tools off."
            )
        logger.warning(
            "No token is set, so every user and every program of this machine can read and use the agents of this user."
        )
    own = _own_tokens(settings)
    if not settings.oidc_issuer:
        return own
    # Late: it needs cryptography, which takes 10 MB.
    from letta_conversations_mcp.http.auth.oidc import OidcTokens

    provider = OidcTokens(settings)
    return EitherVerifier(own, provider) if own else provider


def _own_tokens(settings: Settings) -> TokenVerifier | None:
    if token := settings.token.get_secret_value():
        return OneToken(token)
    if settings.tokens_file is None:
        return None
    try:
        file = TokensFile(settings.tokens_file)
    except BadTokensFile as error:
        raise CannotServe(str(error)) from error
    keyed = [each.name for each in file.entries if each.letta_api_key.get_secret_value()]
    if keyed and settings.uses_local:
        raise CannotServe(
            f"--tokens-file gives {keyed[0]!r} a letta_api_key, and the agents of this machine (--backend local) "
            "need no key: take it out, or serve the agents of a Letta server."
        )
    return file


def build_app(server: ConversationServer, settings: Settings) -> Starlette:
    """The application for a server, which from then on answers only callers with a token, if one is needed.
    Raises CannotServe."""
    verifier = open_verifier(settings)
    if verifier is not None:
        server.know_callers(Callers())

    security = host_and_origin_check(settings)
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        stateless_http=settings.is_stateless,
        max_request_body_size=settings.max_body_bytes,
        session_idle_timeout=SESSION_IDLE_SECONDS,
        max_sessions=None,  # Limits has a bound with shares.
        transport_security=security,
    )
    app.router.routes.append(viewer_route(security))
    app.router.routes.append(Route(AUTHORIZED_PATH, _authorized, methods=["GET"]))
    app.user_middleware.insert(0, Middleware(Limits, path=MCP_PATH, settings=settings))
    if verifier is not None:
        open_paths, metadata_url = _publish_metadata(app, settings)
        app.user_middleware.insert(
            0,
            Middleware(
                AuthMiddleware,
                verifier=verifier,
                # The page has no content of its own; its requests need the token, which it asks the reader for.
                open_paths=(VIEWER_PATH, *open_paths),
                metadata_url=metadata_url,
                scope_of=server.scope_of,
            ),
        )
    endpoints = _endpoints(
        server,
        settings,
        calls_need_token=verifier is not None,
        callers_bring_keys=isinstance(verifier, TokensFile) and verifier.all_have_keys,
    )
    app.user_middleware.insert(0, endpoints)
    app.user_middleware.insert(0, Middleware(CloseUnread, most=2 * settings.max_body_bytes))
    return app


async def _authorized(_: Request) -> Response:
    return Response(status_code=204)


def _endpoints(
    server: ConversationServer, settings: Settings, *, calls_need_token: bool, callers_bring_keys: bool
) -> Middleware:
    meter = server.meter = PrometheusMeter()
    server.serves_many = True
    if server.shared_bus is not None:
        meter.watch_bus(server.shared_bus)
    readiness = Readiness(key_of_its_own=not callers_bring_keys)

    async def unready() -> str:
        return await readiness.reason(server.services.backend) if server.services else "The server is starting."

    metrics_token = settings.metrics_token.get_secret_value()
    # One worker's would pass for those of all.
    has_metrics = settings.workers == 1 and (bool(metrics_token) or not calls_need_token)
    return Middleware(
        Endpoints,
        mcp_path=MCP_PATH,
        unready=unready,
        meter=meter,
        is_known_host=known_host(settings),
        metrics_token=metrics_token if has_metrics else None,
        drain=server.drain,
    )


def _publish_metadata(app: Starlette, settings: Settings) -> tuple[list[str], str]:
    """Serve the metadata that tells a client where to get a token (RFC 9728). Returns its paths and its URL."""
    if not settings.oidc_issuer:
        return [], ""
    # Validated from text: a URL object would get a trailing slash, and issuers are compared as texts.
    auth = AuthSettings.model_validate(
        {
            "issuer_url": settings.oidc_issuer,
            "resource_server_url": settings.public_url,
            # The verifier has checked the audience.
            "validate_token_resource": False,
        }
    )
    resource = auth.resource_server_url or auth.issuer_url
    routes = create_protected_resource_routes(
        resource_url=resource,
        authorization_servers=[auth.issuer_url],
        scopes_supported=list(SCOPES),
        resource_name="Letta conversations",
    )
    app.router.routes.extend(routes)
    return [route.path for route in routes], str(build_resource_metadata_url(resource))
