"""The command line: `serve`, which is what a client's configuration starts when it names no command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import anyio
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.open import NoBackend, check_backend
from letta_conversations_mcp.server import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.stdio import serve_stdio


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the arguments default to the process's. Returns the exit status: 0, or 2 for unusable options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="letta-conversations-mcp",
        description="An MCP server for the conversations of Letta agents. Without a command: serve over stdio.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve MCP over stdio, or over HTTP with --http")
    serve.add_argument("--http", action="store_true", help="serve over streamable HTTP instead of stdio")
    options: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings, root_parser=serve, cli_kebab_case=True, cli_implicit_flags=True, cli_avoid_json=True
    )
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    parsed = parser.parse_args(arguments)
    try:
        # The argument is pydantic-settings' own, and not among the fields that a type checker sees.
        settings = Settings(_cli_settings_source=options(parsed_args=parsed))  # pyright: ignore[reportCallIssue]
        check_backend(settings)
        return _serve_http(settings) if parsed.http else _serve_stdio(settings)
    except ValidationError as error:
        return _fail("\n".join(_option_problem(each) for each in error.errors(include_url=False, include_input=False)))
    except NoBackend as error:
        return _fail(str(error))


def _option_problem(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    variable = name.upper() if name.startswith("letta_") else f"LETTA_MCP_{name.upper()}"
    place = f"--{name.replace('_', '-')} (or {variable})" if name else "options"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _fail(message: str) -> int:
    print(f"letta-conversations-mcp: {message}", file=sys.stderr)
    return 2


def _serve_stdio(settings: Settings) -> int:
    return anyio.run(serve_stdio, settings)


def _serve_http(settings: Settings) -> int:
    # Late, because a server over stdio, which somebody waits for to start, needs neither.
    import uvicorn

    from letta_conversations_mcp.http import STOP_SECONDS, TokenNeeded, build_app, listen

    try:
        app = build_app(build_server(settings), settings)
    except TokenNeeded as error:
        return _fail(str(error))
    try:
        bound = listen(settings)
    except OSError as error:
        return _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port.")
    host, port = bound.getsockname()[:2]
    print(f"Serving MCP at http://{f'[{host}]' if ':' in host else host}:{port}/mcp", file=sys.stderr)
    config = uvicorn.Config(
        app, log_level=settings.log_level.lower(), access_log=False, timeout_graceful_shutdown=STOP_SECONDS
    )
    uvicorn.Server(config).run(sockets=[bound])
    return 0
