"""A client that asks to be told of changes, in the way of its era, and keeps what it was told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp import Client
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import (
    EmptyResult,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.servers import Caller, Way, http_server, stdio_server
from tests.rig.waiting import Record

LIST = "the list"
"""What is kept of being told that the list of resources changed."""


class Subscriber(Caller):
    """A caller that also keeps what it is told: URIs, and LIST."""

    def __init__(self, client: Client, way: Way, tasks: TaskGroup) -> None:
        super().__init__(client)
        self._way = way
        self._tasks = tasks
        self._told = Record[str]()
        self.acknowledged: list[str] = []

    def keep(self, what: str) -> None:
        self._told.append(what)

    async def subscribe(self, *uris: str, to_list: bool = False) -> None:
        """Ask to be told of these; of the list, clients of the older protocol are told anyway."""
        if self._way.era == "legacy":
            for uri in uris:
                request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
                await self.client.session.send_request(request, EmptyResult)
            self.acknowledged = list(uris)
            return
        self.acknowledged = await self._tasks.start(self._listen, uris, to_list)

    async def unsubscribe(self, uri: str) -> None:
        """Of the older protocol; a stream just ends."""
        request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
        await self.client.session.send_request(request, EmptyResult)

    async def _listen(self, uris: Sequence[str], to_list: bool, *, task_status: TaskStatus[list[str]]) -> None:
        async with self.client.listen(resource_subscriptions=uris, resources_list_changed=to_list) as stream:
            task_status.started(list(stream.honored.resource_subscriptions or ()))
            async for event in stream:
                assert isinstance(event, ResourceUpdated | ResourcesListChanged)
                self.keep(event.uri if isinstance(event, ResourceUpdated) else LIST)

    async def told(self, *expected: str) -> None:
        """Wait until each of these was told since the last time, and forget them."""
        for each in expected:
            await self._told.until(each.__eq__)
        self._told.clear()

    async def told_anything(self) -> None:
        """Wait until something was told."""
        await self._told.until()

    @property
    def unread(self) -> Sequence[str]:
        return tuple(self._told)


@asynccontextmanager
async def subscriber(way: Way, settings: Settings, url: str = "") -> AsyncGenerator[Subscriber]:
    """A subscriber to a server of its own with these settings, or over HTTP to the one at `url`."""
    async with AsyncExitStack() as servers:
        holder: list[Subscriber] = []

        async def on_message(message: object) -> None:
            if way.era == "legacy" and isinstance(message, ResourceUpdatedNotification):
                holder[0].keep(str(message.params.uri))
            if way.era == "legacy" and isinstance(message, ResourceListChangedNotification):
                holder[0].keep(LIST)

        if way.transport == "memory":
            target = build_server(settings)
        elif way.transport == "stdio":
            target = stdio_server(settings)
        else:
            target = f"{url or await servers.enter_async_context(http_server(settings))}/mcp"
        mode = "legacy" if way.era == "legacy" else "auto"
        client = await servers.enter_async_context(Client(target, mode=mode, message_handler=on_message))
        tasks = await servers.enter_async_context(anyio.create_task_group())
        holder.append(Subscriber(client, way, tasks))
        yield holder[0]
        tasks.cancel_scope.cancel()
