"""Time that passes at once, for what happens only after seconds or minutes without a sound."""

from __future__ import annotations

import asyncio


def let_pass(seconds: float) -> None:
    """Set the clock of this event loop forward. Only for a loop that ends with its test: all its timers see it."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds
