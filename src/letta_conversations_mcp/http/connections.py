"""Connections: how many there are, how long one may stay without a whole request, and how long an answer may wait for
its client.

uvicorn has a deadline for idle connections only after their first request, none for a client that does not read, and no
bound for their number. Here the head of every request has a deadline; a client that takes nothing of its answer is
dropped; there are fewer connections than descriptors; and for a new one too many, the one that has been idle for
longest makes room.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""How long the head of a request may take to arrive, from the first connection or from its first byte on."""

MOST = 10_000

BACKLOG = 128
"""Connections that wait to be accepted. asyncio accepts so many before it looks at one of them."""

LOG_SECONDS = 60.0
"""No more than one line about refused connections in this time."""


def most_connections() -> int:
    """Half of the descriptors that this process may have, after raising that to what the system allows: the others are
    for the backlog, for Letta and for files."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems have a lower limit than they say.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 2)


class Connections:
    """Makes uvicorn's connections, instead of its protocol class, and keeps the idle ones in the order in which
    they became idle. A client may take nothing of its answer for `answer_seconds`."""

    def __init__(self, most: int, *, answer_seconds: float, head_seconds: float = HEAD_SECONDS) -> None:
        self.answer_seconds = answer_seconds
        self.head_seconds = head_seconds
        self._most = most
        self._idle: dict[_Connection, None] = {}
        self._logged_at = float("-inf")

    def __call__(self, **options: Any) -> _Connection:
        return _Connection(self, **options)

    def admit(self, connection: _Connection) -> None:
        """Count a new connection. If there are too many, close the one that has been idle longest, maybe this one."""
        self._idle[connection] = None
        if len(connection.connections) > self._most:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.transport.abort()
            self.warn(f"{self._most} connections are open, as many as may be: idle ones are closed for new ones")

    def set_idle(self, connection: _Connection, *, idle: bool) -> None:
        if not idle:
            self._idle.pop(connection, None)
        elif connection in connection.connections:
            self._idle.setdefault(connection)

    def warn(self, message: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at > LOG_SECONDS:
            self._logged_at = now
            logger.warning(message)

    def log_accept_errors_once(self) -> None:
        """asyncio reports a connection that could not be accepted with a traceback, thousands of times a second."""

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if str(context.get("message", "")).startswith("socket.accept()"):
                self.warn(f"connections cannot be accepted: {context.get('exception')}")
            else:
                loop.default_exception_handler(context)

        asyncio.get_running_loop().set_exception_handler(handle)


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, which says when it is idle and closes itself when a head is late, or when nothing
    of an answer is taken."""

    def __init__(self, owner: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._owner = owner
        self._head_is_due: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait_for_head()
        self._owner.admit(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        self._stop_looking()
        self._owner.set_idle(self, idle=False)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def _look(self, before: int | None) -> None:
        """Close the connection if as much of the answer waits as at the last look."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == before:
            address = self.client[0] if self.client else "unknown"
            logger.warning("a connection from %s was closed: the client did not take its answer", address)
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(self._owner.answer_seconds, self._look, waiting)

    def _stop_looking(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _update(self) -> None:
        is_answering = bool(self.cycle) and not self.cycle.response_complete
        self._owner.set_idle(self, idle=not is_answering)
        if is_answering:
            self._stop_waiting()
        elif self.conn.trailing_data[0]:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        # Not put off by more of the same head.
        if self._head_is_due is None:
            self._head_is_due = self.loop.call_later(self._owner.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_is_due is not None:
            self._head_is_due.cancel()
            self._head_is_due = None
