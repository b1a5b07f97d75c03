"""That a conversation has changed, told to the other replicas of this server, through Redis.

Nothing is kept there: news that is lost on the way is found by looking, as changes that others make are. So a Redis
that is away costs seconds, not truth: what is said here still reaches this process at once, and the connection is made
again.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio
from pydantic import BaseModel, Field, ValidationError

from letta_conversations_mcp.core.model import CONVERSATION_ID
from letta_conversations_mcp.notifications.events import Change, Changes, Listener, LocalChanges
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

OUTBOX = 1_000
"""Changes that may wait for Redis; after that they are left to be found."""

CONNECT_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""After so long without news the connection is asked whether it lives."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


class News(BaseModel):
    """A change on its way."""

    sender: str = Field(max_length=64)
    conversation_id: str = Field(pattern=f"^(?:{CONVERSATION_ID.pattern})$")
    relisted: bool


class RedisChanges:
    """Changes of all replicas. `run` it while it is used."""

    def __init__(self, redis: Any, channel: str) -> None:
        # Any: the client's own types are unfinished.
        self._redis = redis
        self._channel = channel
        self._local = LocalChanges()
        self._name = uuid.uuid4().hex
        self._outbox, self._to_send = anyio.create_memory_object_stream[Change](OUTBOX)

    def publish(self, change: Change) -> None:
        self._local.publish(change)
        try:
            self._outbox.send_nowait(change)
        except (anyio.WouldBlock, anyio.ClosedResourceError):
            logger.debug("a change is not told to other replicas: too many wait for Redis, or it is the end")

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._local.subscribe(listener)

    async def run(self) -> None:
        """Carry changes both ways, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_on, self._tell)
            tasks.start_soon(self._keep_on, self._hear)

    def close(self) -> None:
        self._outbox.close()
        self._to_send.close()

    async def _keep_on(self, work: Callable[[_Pause], Awaitable[None]]) -> None:
        """Begin again whenever the connection breaks, after longer and longer pauses."""
        from redis.exceptions import RedisError

        pause = _Pause()
        while True:
            try:
                await work(pause)
            except (RedisError, OSError) as error:
                logger.warning("Redis cannot be reached (%s); trying again", type(error).__name__)
            await pause.wait()

    async def _tell(self, pause: _Pause) -> None:
        async for change in self._to_send:
            news = News(sender=self._name, conversation_id=change.conversation_id, relisted=change.relisted)
            await self._redis.publish(self._channel, news.model_dump_json())
            pause.forget()

    async def _hear(self, pause: _Pause) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as told:
            await told.subscribe(self._channel)
            pause.forget()
            while True:
                message = await told.get_message(timeout=LOOK_SECONDS)
                if message is not None:
                    self._take(message["data"])

    def _take(self, data: bytes) -> None:
        try:
            news = News.model_validate_json(data)
        except ValidationError:
            logger.warning("what came over Redis is no news of a conversation; leaving it out")
            return
        if news.sender != self._name:
            self._local.publish(Change(news.conversation_id, relisted=news.relisted))


class _Pause:
    """Between two attempts: longer from one to the next, until one succeeds."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def forget(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    async def wait(self) -> None:
        await anyio.sleep(self._seconds)
        self._seconds = min(self._seconds * 2, LONGEST_PAUSE_SECONDS)


@asynccontextmanager
async def open_changes(settings: Settings) -> AsyncGenerator[Changes]:
    """What carries changes among all replicas that have this Redis, as long as this lasts."""
    # Late: an extra that not everybody has installed.
    from redis.asyncio import Redis

    place = hashlib.sha256(f"{settings.base_url}\n{settings.project}".encode()).hexdigest()[:12]
    redis: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  its types are unfinished
        settings.redis_url.get_secret_value(),
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=int(LOOK_SECONDS),
    )
    changes = RedisChanges(redis, f"letta-conversations-mcp:changes:{place}")
    with closing(changes):
        async with redis, anyio.create_task_group() as tasks:
            tasks.start_soon(changes.run)
            try:
                yield changes
            finally:
                tasks.cancel_scope.cancel()
