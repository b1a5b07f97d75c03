"""`serve`: the MCP server, over stdio or over HTTP, until its client or a signal ends it."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import anyio

from letta_conversations_mcp.cli import loading
from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.program_name import SHORT
from letta_conversations_mcp.core.installation import install_command
from letta_conversations_mcp.observability.logs import configure_logging
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
    if http:
        return _serve_http(settings)
    with loading():
        from letta_conversations_mcp.server.stdio import serve_stdio

    with _traces(settings):
        return anyio.run(serve_stdio, settings)


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
    def announce(bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        _report(f"Serving MCP at http://{f'[{host}]' if ':' in host else host}:{port}/mcp", settings)

    if settings.workers == 1:
        return _serve_at(settings, lambda: _listen(settings), announce)
    # The supervisor of workers needs nothing of a server.
    from letta_conversations_mcp.cli.workers import supervise

    with _listen(settings) as bound:
        return supervise(settings, bound, announce)


def serve_worker(settings: Settings, bound: socket.socket, on_start: Callable[[], object]) -> int:
    """Serve at a socket that other processes accept connections at, too. Calls `on_start` when it begins. Raises
    CommandFailed when it cannot."""
    configure_logging(settings)

    def begin(bound: socket.socket) -> None:
        # Beginning to serve has shortened the queue of connections for all.
        bound.listen()
        on_start()

    return _serve_at(settings, lambda: bound, begin, accepted_at_once=1)


def _listen(settings: Settings) -> socket.socket:
    from letta_conversations_mcp.http.listening import listen

    try:
        return listen(settings)
    except OSError as error:
        raise CommandFailed(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port."
        ) from error


def _serve_at(
    settings: Settings,
    bind: Callable[[], socket.socket],
    on_start: Callable[[socket.socket], object],
    *,
    accepted_at_once: int | None = None,
) -> int:
    # Imported late: a client waits for the start of a stdio server, which needs none of this.
    with loading():
        import uvicorn

        from letta_conversations_mcp.http.app import KEEP_ALIVE_SECONDS, STOP_SECONDS, CannotServe, build_app
        from letta_conversations_mcp.http.connections import BACKLOG, Connections, most_connections
        from letta_conversations_mcp.http.shutdown import DrainingServer
        from letta_conversations_mcp.server.app import build_server

    server = build_server(settings)
    try:
        app = build_app(server, settings)
    except CannotServe as error:
        raise CommandFailed(str(error)) from error
    bound = bind()
    connections = Connections(most_connections(), answer_seconds=settings.body_timeout)
    config = uvicorn.Config(
        app,
        # Makes the connections; the type in uvicorn allows only a class.
        http=cast("Any", connections),
        ws="none",
        backlog=accepted_at_once or BACKLOG,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )

    async def settle() -> None:
        if server.services is not None:
            await server.services.scheduler.settle()

    with _traces(settings):
        serving = DrainingServer(
            config, server.drain, settle, settings.drain_seconds, connections, started=partial(on_start, bound)
        )
        # uvicorn's own `run` would leave it to every lock and deadline to find out that this is asyncio.
        anyio.run(serving.serve, [bound], backend_options={"loop_factory": config.get_loop_factory()})
    return 0


def _report(words: str, settings: Settings) -> None:
    """Report it whatever the log level, in the log's format: a reader of JSON lines must find nothing else."""
    if settings.log_format == "json":
        logger.setLevel(logging.INFO)
        logger.info(words)
    else:
        print(words, file=sys.stderr)
