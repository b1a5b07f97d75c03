"""A backend for each Letta key: opened once, bounded in number, and closed for another when nothing uses it."""

from __future__ import annotations

import pytest

from letta_conversations_mcp.backends.forwarding import ForwardingBackend
from letta_conversations_mcp.backends.pool import open_pool
from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.settings import BackendSettings
from tests.rig.letta_server import Letta


async def test_a_backend_is_opened_once_for_a_key_and_only_so_many(letta: Letta) -> None:
    async with open_pool(BackendSettings(base_url=letta.base_url), most=2) as pool:
        first = await pool.backend_of_key("one")

        assert await pool.backend_of_key("one") is first
        assert await pool.backend_of_key("two") is not first
        with pytest.raises(Overloaded, match="2 Letta keys"):
            await pool.backend_of_key("three")
        assert await pool.backend_of_key("one") is first


async def test_a_backend_that_nobody_uses_makes_room(letta: Letta) -> None:
    settings = BackendSettings(base_url=letta.base_url)
    async with open_pool(settings, most=1, idle_seconds=0) as pool:
        first = await pool.backend_of_key("one")
        await first.list_models()
        second = await pool.backend_of_key("two")

        assert second is not first
        assert await second.list_models()


async def test_a_backend_that_a_subscription_works_through_makes_no_room(letta: Letta) -> None:
    settings = BackendSettings(base_url=letta.base_url)
    async with open_pool(settings, most=1, idle_seconds=0) as pool:
        first = await pool.backend_of_key("one")
        view = ForwardingBackend(first)
        pool.keep_open_for("one", view)
        with pytest.raises(Overloaded):
            await pool.backend_of_key("two")
        assert await view.list_models()
        del view

        assert await pool.backend_of_key("two") is not first
