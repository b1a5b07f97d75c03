"""Shutting down: nothing new is started, and calls that wait are answered early with the state of their turn.

Begins once per process. Runs at Letta continue.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio


class Drain:
    """Whether the server is shutting down. Beginning a shutdown wakes the waiting calls. For one event loop."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self._working: set[anyio.CancelScope] = set()
        self._deadline: float | None = None
        self.requests = 0
        """Requests in progress."""
        self._idle = anyio.Event()

    @property
    def begun(self) -> bool:
        return self._deadline is not None

    @property
    def seconds_left(self) -> float:
        """Seconds until the process ends; infinite before the shutdown begins."""
        return float("inf") if self._deadline is None else max(0.0, self._deadline - anyio.current_time())

    def begin(self, seconds: float) -> None:
        """Wake all waiting calls; they have `seconds` to send their answers."""
        if self._deadline is None:
            self._deadline = anyio.current_time() + seconds
        for scope in list(self._waiting):
            scope.cancel()

    @contextmanager
    def until_draining(self, seconds: float = float("inf")) -> Generator[anyio.CancelScope]:
        """Cancels its body after `seconds`, and at once when the shutdown begins."""
        with anyio.move_on_after(0 if self.begun else seconds) as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    @contextmanager
    def until_end(self) -> Generator[anyio.CancelScope]:
        """Cancels its body when `end` is called."""
        with anyio.CancelScope() as scope:
            self._working.add(scope)
            try:
                yield scope
            finally:
                self._working.discard(scope)

    def end(self) -> None:
        """Cancel the work that is still in progress."""
        for scope in list(self._working):
            scope.cancel()

    @contextmanager
    def request(self) -> Generator[None]:
        """Counts a request that must be answered before the process ends."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is in progress."""
        while self.requests:
            self._idle = anyio.Event()
            await self._idle.wait()
