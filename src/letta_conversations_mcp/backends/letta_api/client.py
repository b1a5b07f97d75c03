"""The SDK as the API backend uses it: imported late, with raw responses and retries for reads only.

Making a `Client` imports `letta_client`, which takes half a second: that is done in a thread, at the first call.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json

from letta_conversations_mcp.backends.letta_api.letta_json import Json
from letta_conversations_mcp.backends.letta_api.network_variables import check_network
from letta_conversations_mcp.core.errors import Unreachable
from letta_conversations_mcp.core.imports import without
from letta_conversations_mcp.settings import BackendSettings
from letta_conversations_mcp.turns.instrumentation import NO_METER, Meter

if TYPE_CHECKING:
    import httpx
    from letta_client import AsyncLetta
    from letta_client._response import AsyncAPIResponse

    from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking


UNUSED = ("httpx._main", "httpx_aiohttp")
"""What httpx and letta-client import if it happens to be there: httpx's command line, with rich and pygments (3 MB),
and aiohttp (6 MB), which this server loads itself where it uses it."""


class Client:
    """The SDK with one set of connections: `retrying` for reads, `once` for everything else."""

    once: AsyncLetta
    retrying: AsyncLetta
    asking: Asking

    def __init__(self, settings: BackendSettings, meter: Meter = NO_METER, *, for_many: bool = False) -> None:
        """Raises NotConfigured for unusable proxy or certificate variables."""
        with without(*UNUSED):
            import httpx
            import letta_client

        check_network(os.environ)
        # The SDK imports its resources when they are first touched: here, in the thread, and not in the event loop.
        for resource in ("agents", "blocks", "conversations", "messages", "models", "runs"):
            import_module(f"letta_client.resources.{resource}")

        from letta_conversations_mcp.backends.letta_api.http_client import CountingClient, release
        from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking

        self._httpx = httpx
        self._release = release
        self._connect_seconds = settings.connect_timeout
        self._base_url = settings.api_url
        api_key = settings.api_key.get_secret_value()
        self.asking = Asking(self._base_url, key_given=bool(api_key))
        # Without a key, omit the header explicitly: the SDK would look for a key in the environment.
        headers = {} if api_key else {"Authorization": letta_client.omit}
        self.once = letta_client.AsyncLetta(
            api_key=api_key or "none",
            base_url=self._base_url,
            project=settings.project or None,
            max_retries=0,
            timeout=self.timeout(settings.request_timeout),
            default_headers=cast("dict[str, str]", headers),
            http_client=CountingClient(meter, for_many=for_many),
        )
        self.retrying = self.once.with_options(max_retries=2)

    def timeout(self, seconds: float) -> httpx.Timeout:
        return self._httpx.Timeout(seconds, connect=self._connect_seconds)

    async def json(self, request: Awaitable[AsyncAPIResponse[Any]]) -> object:
        """The JSON of an answer. Raises Unreachable for anything else, such as a web page."""
        response = (await request).http_response
        self._release(response)
        try:
            # By default the parser also keeps texts of messages, thousands of them, scattered over the heap.
            return cast("object", from_json(response.content, cache_strings="keys"))
        except ValueError as error:
            raise Unreachable.no_letta_server(self._base_url) from error

    def object(self, data: object) -> Json:
        if not isinstance(data, dict):
            raise Unreachable.no_letta_server(self._base_url)
        return cast("Json", data)
