"""The SDK's HTTP client, which reports the status of each response to the meter. Importing this imports the SDK."""

from __future__ import annotations

from typing import Any

import httpx
import letta_client

from letta_conversations_mcp.turns.instrumentation import Meter


class CountingClient(letta_client.DefaultAsyncHttpxClient):
    """Counts attempts: a request that is retried counts twice."""

    def __init__(self, meter: Meter, **options: Any) -> None:
        super().__init__(**options)
        self._meter = meter

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            response = await super().send(request, **options)
        except httpx.TransportError:
            self._meter.letta_answered(0)
            raise
        self._meter.letta_answered(response.status_code)
        return response
