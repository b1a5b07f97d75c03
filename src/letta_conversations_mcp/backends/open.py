"""Which backend the settings ask for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from letta_conversations_mcp.backends.api import ApiBackend, ApiOptions
from letta_conversations_mcp.backends.api.backend import CLOUD_URL
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.settings import Settings


class NoBackend(Exception):
    """The settings name no place where conversations could live. Its text is for the person who starts the server."""


def check_backend(settings: Settings) -> None:
    """Raises NoBackend when `open_backend` would have nowhere to go; called at the start, before anything is served."""
    if settings.backend == "auto" and not (settings.api_key.get_secret_value() or settings.base_url):
        raise NoBackend(
            "Where do your Letta agents live? Set one of these and start again:\n"
            "  LETTA_API_KEY=…    for Letta Cloud (make a key at https://app.letta.com)\n"
            "  LETTA_BASE_URL=…   for a Letta server of your own, such as http://localhost:8283"
        )


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncGenerator[Backend]:
    """The backend, for as long as the context lasts."""
    options = ApiOptions(
        base_url=settings.base_url or CLOUD_URL,
        api_key=settings.api_key.get_secret_value(),
        project=settings.project,
        connect_seconds=settings.connect_timeout,
        request_seconds=settings.request_timeout,
        silence_seconds=settings.silence_timeout,
        compact_seconds=settings.compact_timeout,
    )
    async with ApiBackend(options) as backend:
        yield backend
