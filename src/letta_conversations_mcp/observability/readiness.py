"""Readiness: Letta answers and accepts the key. Checked rarely, however often it is requested."""

from __future__ import annotations

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, TimedOut, Unauthorized, Unreachable

KEPT_SECONDS = 5.0
"""How long an answer is reused: several load balancers may each ask every few seconds."""

LONGEST_SECONDS = 4.0
"""Timeout for Letta's answer: health checks commonly give up after five seconds."""


class Readiness:
    """The reason why the server is not ready, "" if it is. Contains no address, key or text from Letta, since anybody
    can ask."""

    def __init__(self, *, key_of_its_own: bool = True) -> None:
        self._asking = anyio.Lock()
        self._key_of_its_own = key_of_its_own
        self._asked_at = float("-inf")
        self._reason = ""

    async def reason(self, backend: Backend) -> str:
        """Concurrent callers share one check."""
        async with self._asking:
            if anyio.current_time() - self._asked_at > KEPT_SECONDS:
                self._reason = await self._ask(backend)
                self._asked_at = anyio.current_time()
            return self._reason

    async def _ask(self, backend: Backend) -> str:
        try:
            with anyio.fail_after(LONGEST_SECONDS):
                await backend.list_agents(limit=1)
        except Unauthorized:
            return "Letta does not take the key of this server." if self._key_of_its_own else ""
        except Unreachable:
            return "Letta cannot be reached."
        except (TimedOut, TimeoutError):
            return "Letta does not answer in time."
        except ConversationError:
            return "Letta answers with an error."
        return ""
