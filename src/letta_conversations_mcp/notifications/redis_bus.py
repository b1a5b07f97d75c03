"""The SDK's SubscriptionBus over Redis, for servers with replicas.

An event reaches this process at once, and the replicas through Redis. Nothing is stored there: the pollers find lost
changes of conversations, as they find changes made directly at Letta. While Redis is down, replicas learn of these some
seconds later, and of changes of lists once it is back; nothing else is affected, and the connection is restored.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ServerEvent
from pydantic import BaseModel, Field, ValidationError

from letta_conversations_mcp.core.model import AGENT_ID, CONVERSATION_ID
from letta_conversations_mcp.notifications.events import (
    LIST_CHANGED,
    AgentListChanged,
    changed_conversation,
    conversation_changed,
)
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

OUTBOX = 1_000
"""Events queued for Redis; further ones are dropped."""

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 1.0
HEALTH_CHECK_SECONDS = 5.0
"""Idle seconds after which the connection is checked."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


class _Wire(BaseModel):
    """An event in Redis, as JSON. `conversation_id` is "" for a change of the list."""

    sender: str = Field(max_length=64)
    conversation_id: str = Field(pattern=f"^(?:{CONVERSATION_ID.pattern})?$")
    agent_id: str = Field(default="", pattern=f"^(?:{AGENT_ID.pattern})?$")
    account: str = Field(default="", max_length=64)

    @classmethod
    def of(cls, sender: str, event: ServerEvent) -> _Wire:
        wire = cls(sender=sender, conversation_id=changed_conversation(event))
        if isinstance(event, AgentListChanged):
            return wire.model_copy(update={"agent_id": event.agent_id, "account": event.account})
        return wire

    def event(self) -> ServerEvent:
        if self.conversation_id:
            return conversation_changed(self.conversation_id)
        return AgentListChanged(self.agent_id, self.account) if self.agent_id else LIST_CHANGED


class RedisSubscriptionBus:
    """A SubscriptionBus for all replicas with the same Redis and the same Letta. `run` must be running while it is
    used."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        letta = hashlib.sha256(f"{settings.base_url}\n{settings.project}".encode()).hexdigest()[:12]
        self._channel = f"letta-conversations-mcp:changes:{letta}"
        self._local = InMemorySubscriptionBus()
        self._name = uuid.uuid4().hex
        self._outbox, self._to_send = anyio.create_memory_object_stream[str](OUTBOX)
        self._unsent = ""
        """The event that is on its way to Redis: sent again if the connection broke meanwhile."""
        self._missed_events = False
        self.is_connected = False
        self.counts = {"sent": 0, "received": 0, "dropped": 0}
        """Events sent to the replicas, received from them, and dropped because too many were waiting."""

    async def publish(self, event: ServerEvent) -> None:
        """Events for a client's own URIs stay in this process; the replicas derive theirs."""
        conversation_id = changed_conversation(event)
        if conversation_id or isinstance(event, ResourcesListChanged):
            try:
                self._outbox.send_nowait(_Wire.of(self._name, event).model_dump_json())
            except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
                self.counts["dropped"] += 1
                logger.debug("an event is not sent to the replicas: too many wait for Redis, or the server is stopping")
        await self._local.publish(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        return self._local.subscribe(listener)

    async def run(self) -> None:
        """Exchange events with the replicas until cancelled."""
        # Imported late: an optional extra.
        from redis.asyncio import Redis

        # Any: the client's own types are unfinished.
        redis: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            self._url, socket_connect_timeout=CONNECT_SECONDS, health_check_interval=int(HEALTH_CHECK_SECONDS)
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_keep_running, lambda: self._send(redis))
                tasks.start_soon(_keep_running, lambda: self._receive(redis))
        finally:
            self._outbox.close()
            self._to_send.close()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await redis.aclose()

    async def _send(self, redis: Any) -> None:
        while True:
            self._unsent = self._unsent or await self._to_send.receive()
            await redis.publish(self._channel, self._unsent)
            self._unsent = ""
            self.counts["sent"] += 1

    async def _receive(self, redis: Any) -> None:
        try:
            async with redis.pubsub() as subscription:
                await subscription.subscribe(self._channel)
                while True:
                    message = await subscription.get_message(timeout=HEALTH_CHECK_SECONDS)
                    if message is not None and message["type"] == "subscribe":
                        await self._subscribed()
                    elif message is not None:
                        await self._pass_on(message["data"])
        finally:
            self.is_connected, self._missed_events = False, True

    async def _subscribed(self) -> None:
        """Redis has confirmed the subscription; also after the client has connected again by itself. What replicas
        published meanwhile is lost: lists may have changed. Watched conversations are read by the poller anyway."""
        if self._missed_events:
            await self._local.publish(LIST_CHANGED)
        self.is_connected = self._missed_events = True

    async def _pass_on(self, data: bytes) -> None:
        try:
            event = _Wire.model_validate_json(data)
        except ValidationError:
            logger.warning("a message in Redis is no event of a conversation; ignored")
            return
        if event.sender != self._name:
            self.counts["received"] += 1
            await self._local.publish(event.event())


async def _keep_running(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` again whenever the connection breaks, after growing pauses."""
    from redis.exceptions import RedisError

    pause = FIRST_PAUSE_SECONDS
    while True:
        began = anyio.current_time()
        try:
            await work()
        except (RedisError, OSError) as error:
            logger.warning("Redis cannot be reached (%s); trying again", type(error).__name__)
        if anyio.current_time() - began > LONGEST_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await anyio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
