"""The base of the local backend: the connection to the App Server.

Opened at the first request, in its own task, and reopened when it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from letta_conversations_mcp.backends.app_server.connection import Connection, ConnectionBroken, Frame, open_connection
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.supervisor import POLL_SECONDS
from letta_conversations_mcp.core.errors import ConversationError, TimedOut
from letta_conversations_mcp.settings import BackendSettings

ServerContext = Callable[[], AbstractAsyncContextManager[AppServer]]

LOOK_SECONDS = 5.0

CLOSE_SECONDS = 1
"""Timeout for closing an abandoned connection, which takes an iteration of the event loop."""


class LocalBase:
    """`server` provides an App Server for as long as its context lasts; `tasks` holds the connection. `look_seconds` is
    how long a turn may be silent before the server is asked whether it still runs."""

    def __init__(
        self, server: ServerContext, tasks: TaskGroup, settings: BackendSettings, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._server = server
        self._tasks = tasks
        self._settings = settings
        self._look_seconds = look_seconds
        tools = settings.local_tools
        # Without a mode the server is "unrestricted": the agent runs shell commands unasked (measured).
        self._mode = "unrestricted" if tools == "on" else "strict"
        self._offers: dict[str, object] = {"client_tool_allowlist": []} if tools == "off" else {}
        self._opening = anyio.Lock()
        self._connection: Connection | None = None

    async def _open(self) -> Connection:
        connection = self._connection
        if connection is None or connection.closed or not connection.keep():
            connection = await self._reopen()
        connection.server.check_in_place()
        return connection

    async def _reopen(self) -> Connection:
        async with self._opening:
            while self._connection and not self._connection.closed and not self._connection.keep():
                with anyio.move_on_after(POLL_SECONDS):
                    await self._connection.ended.wait()
            if self._connection is None or self._connection.closed:
                self._connection = cast("Connection", await self._tasks.start(self._hold_connection))
            return self._connection

    async def _read(self, command: str, *, what: str, **fields: object) -> Frame:
        """Send a command that changes nothing. It is sent again over a new connection if the server ended in between or
        does not answer, since the connection may be dead."""
        connection = await self._open()
        try:
            return await connection.request(command, what=what, seconds=None, **fields)
        except ConnectionBroken:
            pass
        except TimedOut:
            connection.abandon()
            with anyio.move_on_after(CLOSE_SECONDS):
                await connection.ended.wait()
        return await (await self._open()).request(command, what=what, seconds=None, **fields)

    async def _hold_connection(self, *, task_status: TaskStatus[Connection]) -> None:
        """Hold a connection until it breaks. A failure to open it is raised to the caller of `start`."""
        connection: Connection | None = None
        try:
            async with (
                self._server() as server,
                open_connection(
                    server,
                    connect_seconds=self._settings.connect_timeout,
                    request_seconds=self._settings.request_timeout,
                ) as connection,
            ):
                task_status.started(connection)
                await anyio.sleep_forever()
        except ConversationError:
            if connection is None:
                raise
