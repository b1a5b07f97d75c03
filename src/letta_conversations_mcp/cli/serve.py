"""`serve`: the MCP server, over stdio or over HTTP, until its client or a signal ends it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import anyio

from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.program_name import SHORT
from letta_conversations_mcp.core.installation import install_command
from letta_conversations_mcp.observability.logs import configure_logging
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.server.stdio import serve_stdio
from letta_conversations_mcp.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)

AT_A_TERMINAL = f"""\
This is an MCP server. It waits on its standard input for the messages of an MCP client, which usually starts it itself;
Ctrl-C ends it. At a terminal you may want one of these instead:

  {SHORT} doctor        what is connected, and the configuration for your client
  {SHORT} --help        all commands, such as {SHORT} list-agents and {SHORT} send-message
  {SHORT} serve --http  the same server over HTTP, with a page to read and write in
"""


def serve(settings: Settings, *, http: bool) -> int:
    """Serve until the end. Raises CommandFailed when it cannot begin."""
    configure_logging(settings)
    for name, meant in unknown_variables(os.environ).items():
        logger.warning("no option reads the variable %s%s", name, f"; did you mean {meant}?" if meant else "")
    if settings.redis_url.get_secret_value() and not find_spec("redis"):
        raise CommandFailed(f"--redis-url needs the client of Redis. Install it with: {install_command('redis')}")
    if not http and sys.stdin.isatty():
        print(AT_A_TERMINAL, file=sys.stderr)
    with _traces(settings):
        return _serve_http(settings) if http else anyio.run(serve_stdio, settings)


@contextmanager
def _traces(settings: Settings) -> Generator[None]:
    if not settings.traces:
        yield
        return
    try:
        from letta_conversations_mcp.observability.traces import otlp_exporter, tracing

        exporter = otlp_exporter()
    except ImportError as error:
        raise CommandFailed(
            f"--traces needs OpenTelemetry's SDK. Install it with: {install_command('otel')}"
        ) from error
    with tracing(exporter):
        yield


def _serve_http(settings: Settings) -> int:
    # Imported late: a client waits for the start of a stdio server, which needs neither.
    import uvicorn

    from letta_conversations_mcp.http import KEEP_ALIVE_SECONDS, STOP_SECONDS, CannotServe, build_app, listen
    from letta_conversations_mcp.http.connections import BACKLOG, Connections, most_connections
    from letta_conversations_mcp.http.shutdown import DrainingServer

    server = build_server(settings)
    try:
        app = build_app(server, settings)
    except CannotServe as error:
        raise CommandFailed(str(error)) from error
    try:
        bound = listen(settings)
    except OSError as error:
        raise CommandFailed(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port."
        ) from error
    host, port = bound.getsockname()[:2]
    words = f"Serving MCP at http://{f'[{host}]' if ':' in host else host}:{port}/mcp"
    connections = Connections(most_connections())
    config = uvicorn.Config(
        app,
        # Makes the connections; the type in uvicorn allows only a class.
        http=cast("Any", connections),
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )

    async def settle() -> None:
        if server.services is not None:
            await server.services.scheduler.settle()

    DrainingServer(
        config, server.drain, settle, settings.drain_seconds, connections, started=lambda: _report(words, settings)
    ).run(sockets=[bound])
    return 0


def _report(words: str, settings: Settings) -> None:
    """Report it whatever the log level, in the log's format: a reader of JSON lines must find nothing else."""
    if settings.log_format == "json":
        logger.setLevel(logging.INFO)
        logger.info(words)
    else:
        print(words, file=sys.stderr)
