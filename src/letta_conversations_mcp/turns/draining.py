"""The end of service: nothing new begins, and whoever waits is answered early with how far it has got.

Begun once, for the whole process; what runs at Letta is not touched by it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio


class Drain:
    """Whether the server is going down, known to all who wait. Used in one event loop."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self._working: set[anyio.CancelScope] = set()
        self._deadline: float | None = None
        self.requests = 0
        """How many are being answered."""
        self._idle = anyio.Event()

    @property
    def begun(self) -> bool:
        return self._deadline is not None

    @property
    def seconds_left(self) -> float:
        """Until the process ends; infinite as long as nothing has begun."""
        return float("inf") if self._deadline is None else max(0.0, self._deadline - anyio.current_time())

    def begin(self, seconds: float) -> None:
        """Wake all who wait; they have so long to give their answer."""
        if self._deadline is None:
            self._deadline = anyio.current_time() + seconds
        for scope in list(self._waiting):
            scope.cancel()

    @contextmanager
    def patience(self, seconds: float = float("inf")) -> Generator[anyio.CancelScope]:
        """What is awaited in here ends after so long, and at once when the server is going down."""
        with anyio.move_on_after(0 if self.begun else seconds) as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    @contextmanager
    def last_moment(self) -> Generator[anyio.CancelScope]:
        """What is awaited in here ends when `end` is called."""
        with anyio.CancelScope() as scope:
            self._working.add(scope)
            try:
                yield scope
            finally:
                self._working.discard(scope)

    def end(self) -> None:
        """End what is still at work."""
        for scope in list(self._working):
            scope.cancel()

    @contextmanager
    def request(self) -> Generator[None]:
        """A request that has to be answered before the process may end."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is being answered."""
        while self.requests:
            self._idle = anyio.Event()
            await self._idle.wait()
