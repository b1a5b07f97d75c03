"""The base of the API backend: the client, created at the first call, and a cache of facts about conversations.

Owns the HTTP connections; they are bound to the event loop in which the backend was opened.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Self

import anyio
import anyio.to_thread

from letta_conversations_mcp.backends.letta_api.client import Client
from letta_conversations_mcp.core.model import Conversation
from letta_conversations_mcp.settings import BackendSettings
from letta_conversations_mcp.turns.instrumentation import NO_METER, Meter

REMEMBERED = 10_000
"""Conversations in the cache of facts that never change; about 3 MB when it is full."""

AFTER_READING = "Nothing was changed; the same call can be made again."


@dataclass
class Known:
    """Facts about a conversation that never change. `is_fork` is None until it is first needed."""

    agent_id: str
    is_fork: bool | None = None


class ApiBase:
    """`async with` it; the SDK is loaded and connections are opened at the first request. `for_many`: calls of many
    clients are expected."""

    def __init__(self, settings: BackendSettings, meter: Meter = NO_METER, *, for_many: bool = False) -> None:
        self._settings = settings
        self._make_client = partial(Client, settings, meter, for_many=for_many)
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._loading = anyio.Lock()
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.once.close()

    async def _open(self) -> Client:
        # Skip the lock: hundreds of calls would pass through it one by one, each in an iteration of the event loop.
        if self._client is not None:
            return self._client
        async with self._loading:
            if self._client is None:
                # In a thread: the import takes half a second and must not block other calls.
                self._client = await anyio.to_thread.run_sync(self._make_client)
            return self._client

    def _forget_agent(self, agent_id: str) -> None:
        """Its conversations are gone with it."""
        for conversation_id in [each for each, known in self._known.items() if known.agent_id == agent_id]:
            del self._known[conversation_id]

    def _remember(self, conversation: Conversation) -> Conversation:
        self._known.setdefault(conversation.id, Known(conversation.agent_id))
        self._known.move_to_end(conversation.id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return conversation
