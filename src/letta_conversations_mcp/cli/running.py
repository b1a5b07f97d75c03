"""Runs a command with the backend that its settings select."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from letta_conversations_mcp.backends.open import check_backend, open_backend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.settings import BackendSettings


def run_with_backend(settings: BackendSettings, work: Callable[[Backend], Awaitable[int]]) -> int:
    """The exit status that `work` gives. Raises NotConfigured, and what `work` raises."""
    check_backend(settings)

    async def main() -> int:
        async with open_backend(settings) as backend:
            return await work(backend)

    return anyio.run(main)
