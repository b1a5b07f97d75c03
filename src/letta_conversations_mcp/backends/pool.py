"""Backends for callers with a Letta key of their own, one for each key. Opened at first use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakSet

import anyio
from pydantic import SecretStr

from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.settings import BackendSettings

MOST = 200
"""Backends that are open at the same time. Each takes a few MB once it is used."""

GRACE_SECONDS = 600
"""A backend is closed to make room only when it has been idle for the longest turn plus this."""


@dataclass
class _Open:
    backend: Backend
    closing: AsyncExitStack
    used_at: float
    users: WeakSet[Backend] = field(default_factory=WeakSet[Backend])
    """The views of callers that use it: each exists as long as a call, a turn or a subscription has it."""


class BackendPool:
    """Made by `open_pool`."""

    def __init__(
        self, open_with: Callable[[str], AbstractAsyncContextManager[Backend]], most: int, idle_seconds: float
    ) -> None:
        self._open_with = open_with
        self._most = most
        self._idle_seconds = idle_seconds
        self._opening = anyio.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    async def backend_of_key(self, key: str) -> Backend:
        """Raises Overloaded if too many backends are open and in use."""
        async with self._opening:
            if key not in self._open:
                await self._make_room()
                closing = AsyncExitStack()
                backend = await closing.enter_async_context(self._open_with(key))
                self._open[key] = _Open(backend, closing, 0)
            entry = self._open[key]
            entry.used_at = anyio.current_time()
            self._open.move_to_end(key)
            return entry.backend

    def keep_open_for(self, key: str, user: Backend) -> None:
        """Do not close the backend of this key as long as `user` exists."""
        self._open[key].users.add(user)

    async def _make_room(self) -> None:
        if len(self._open) < self._most:
            return
        unused = ((key, each) for key, each in self._open.items() if not each.users)
        key, oldest = next(unused, ("", None))
        if oldest is None or anyio.current_time() - oldest.used_at < self._idle_seconds:
            raise Overloaded(f"{len(self._open)} Letta keys are in use on this server")
        del self._open[key]
        await oldest.closing.aclose()

    async def close(self) -> None:
        while self._open:
            _, entry = self._open.popitem()
            await entry.closing.aclose()


@asynccontextmanager
async def open_pool(
    settings: BackendSettings, most: int = MOST, idle_seconds: float | None = None
) -> AsyncGenerator[BackendPool]:
    """A pool of backends that differ from the server's own only in the key; all are closed at the end of the
    context."""

    def open_with(key: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(settings.model_copy(update={"api_key": SecretStr(key)}), for_many=True)

    idle = settings.turn_timeout + GRACE_SECONDS if idle_seconds is None else idle_seconds
    pool = BackendPool(open_with, most, idle)
    try:
        yield pool
    finally:
        await pool.close()
