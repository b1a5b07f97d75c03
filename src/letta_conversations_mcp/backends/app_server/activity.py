"""Tells the supervisor that this process is using its server, so that the server is not stopped meanwhile."""

from __future__ import annotations

from letta_conversations_mcp.backends.app_server import supervisor


class ActivityLock:
    """A shared lock on the file `active`, which the supervisor takes exclusively before it ends a server that has grown
    too large. `descriptor` is that file, opened by `app_server` for as long as it provides the server."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = False

    def hold(self) -> bool:
        """Take the lock. False if the server is being ended."""
        self._held = self._held or supervisor.lock(self._descriptor, shared=True)
        return self._held

    def release(self) -> None:
        supervisor.release(self._descriptor)
        self._held = False
