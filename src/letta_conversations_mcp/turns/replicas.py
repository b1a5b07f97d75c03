"""What the replicas of this server share, in Redis: hints that expire, and never a store.

* A table of the calls that were not answered yet: under a hash of caller, target and call, where the message went and
  its otid. So a call that is made again at another replica finds its turn, also after the first replica was killed.
* Requests to the other replicas when a turn is cancelled: take back what waits in a conversation, and tell those who
  wait for a run that it was stopped.

A replica lives as long as it is subscribed to its own channel, which Redis sees end with the process. While Redis is
away, every operation does nothing, and calls are recognised within one process only.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import anyio
from pydantic import BaseModel, ValidationError

from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.idempotency import KEPT_SECONDS, NOTICE_SECONDS, CallIdentity, fingerprint

logger = logging.getLogger(__name__)

PREFIX = "letta-conversations-mcp"
OPERATION_SECONDS = 2.0
"""The longest that a call waits for one operation of Redis."""

STEPS = 20
"""How many steps that wait has. On a busy machine this process stands still for seconds at a time; that counts as one
step, so that Redis is not taken for silent while its answer is still unread."""

CONNECT_SECONDS = 10.0
"""The longest that a new connection to Redis may take. A call does not wait that long for it."""

PAUSE_SECONDS = 5.0
"""How long Redis is left alone after it could not be reached."""

ANSWERS_SECONDS = 1.0
"""How long the other replicas are waited for when a turn is cancelled."""

LOOK_SECONDS = 0.1
COPIED_SECONDS = 60.0
"""How long a copy of a request is recognised: a proxy makes one at once, or when it is tired of waiting."""

QUEUED_SECONDS = 60.0
"""How long a copied request waits for the first one's message to be handed over."""


class SharedCall(BaseModel):
    """A call that was not answered yet, as the replicas see it."""

    id: str
    replica: str
    request: str = ""
    """A hash of the request, the same for a verbatim copy of it; "" if it had no id of its own."""
    origin: str = ""
    abandoned: bool = False
    at: float = 0.0
    """When the message was handed over, in seconds since 1970; 0 before that."""
    is_copy: bool = False
    ref: ConversationRef | None = None
    branch_of: ConversationRef | None = None
    otid: str = ""


class _Request(BaseModel):
    """To all replicas: a conversation's turn was cancelled. `run_ids` are the runs that were stopped; without them, the
    messages that wait there are to be taken back."""

    id: str
    sender: str
    ref: ConversationRef
    run_ids: tuple[str, ...] = ()


class _Answer(BaseModel):
    id: str
    withdrawn: int


class Replicas:
    """All replicas with the same Redis and the same Letta. `run` it while it is used."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        letta = hashlib.sha256(f"{settings.base_url}\n{settings.project}".encode()).hexdigest()[:12]
        self._prefix = f"{PREFIX}:{letta}"
        self._everybody = f"{self._prefix}:turns"
        self.name = uuid.uuid4().hex
        self.take_back: Callable[[ConversationRef], int] = lambda _: 0
        """Takes back the messages that wait in a conversation here; how many there were."""
        self.stop_waiting: Callable[[ConversationRef, Collection[str]], object] = _nobody_waits
        """Answers those who wait here for runs that were stopped."""
        self._redis: Any = None
        self._paused_until = 0.0
        self._answers: dict[str, list[int]] = {}
        self._answered = anyio.Event()

    # The table of calls

    async def keep(self, identity: CallIdentity, call: SharedCall) -> None:
        """Write what is known of a call, before it is handed over."""
        key, written = self._key(identity), call.model_dump_json()

        async def write(redis: Any) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                pipeline.hset(key, call.id, written)
                pipeline.expire(key, int(KEPT_SECONDS))
                if call.request and not call.is_copy:
                    pipeline.set(self._copy_key(call.request), written, ex=int(COPIED_SECONDS))
                await pipeline.execute()

        await self._do(write)

    async def forget(self, identity: CallIdentity, call: SharedCall) -> bool:
        """Remove a call that was answered, or has nothing to join; True if it was there."""
        return bool(await self._do(lambda redis: redis.hdel(self._key(identity), call.id)))

    async def begin(self, identity: CallIdentity) -> tuple[SharedCall, SharedCall | None]:
        """Make a call known, and give the call at another replica that it repeats, if there is evidence of that: it is
        a verbatim copy of that request, or the same call from the same place whose client has left, or whose replica is
        gone. Only one call gets what was left; a copy follows the first.
        """
        call = SharedCall(id=uuid.uuid4().hex, replica=self.name, request=_request_of(identity), origin=identity.origin)
        # First of all: a copy may arrive at the same moment.
        call.is_copy = bool(call.request) and not await self._is_first(call)
        await self.keep(identity, call)
        looks = 0
        while True:
            copied = await self._copied(call.request) if call.is_copy else None
            if copied and (copied.at or not await self._is_alive(copied.replica)):
                return call, copied if copied.at else None
            waiting = False
            for other in await self._others(identity):
                if not other.abandoned and await self._is_alive(other.replica):
                    waiting = True
                elif await self.forget(identity, other) and other.at:
                    # Should this call end before it has found the message, the next one takes over from it.
                    call.at, call.otid, call.ref, call.branch_of = other.at, other.otid, other.ref, other.branch_of
                    await self.keep(identity, call)
                    return call, other
            # Looks are counted, and not the time: on a busy machine one of them may take as long as all.
            if looks * LOOK_SECONDS >= (QUEUED_SECONDS if copied else NOTICE_SECONDS if waiting else 0):
                return call, None
            looks += 1
            await anyio.sleep(LOOK_SECONDS)

    async def _is_first(self, call: SharedCall) -> bool:
        """True unless a copy of the request has come to a replica before. True too while Redis cannot be reached."""
        key, written = self._copy_key(call.request), call.model_dump_json()
        taken = await self._do(lambda redis: redis.set(key, written, nx=True, ex=int(COPIED_SECONDS), get=True))
        return taken is None

    async def _copied(self, request: str) -> SharedCall | None:
        data: bytes | None = await self._do(lambda redis: redis.get(self._copy_key(request)))
        return _read(data) if data else None

    async def _others(self, identity: CallIdentity) -> Sequence[SharedCall]:
        """The same call from the same place, at other replicas."""
        found: dict[bytes, bytes] = await self._do(lambda redis: redis.hgetall(self._key(identity))) or {}
        calls = filter(None, map(_read, found.values()))
        return [each for each in calls if each.replica != self.name and each.origin == identity.origin]

    async def _is_alive(self, replica: str) -> bool:
        channel = f"{self._prefix}:replica:{replica}"
        counted: list[tuple[bytes, int]] | None = await self._do(lambda redis: redis.pubsub_numsub(channel))
        return counted is None or any(count for _, count in counted)

    def _key(self, identity: CallIdentity) -> str:
        return f"{self._prefix}:call:{fingerprint(identity.caller, identity.target, identity.call)}"

    def _copy_key(self, request: str) -> str:
        return f"{self._prefix}:request:{request}"

    # Cancelling

    async def withdraw(self, ref: ConversationRef) -> int:
        """Have the other replicas take back what waits in a conversation; how many messages that were."""
        request = _Request(id=uuid.uuid4().hex, sender=self.name, ref=ref)
        answers = self._answers[request.id] = []
        try:
            heard = await self._publish(request)
            with anyio.move_on_after(ANSWERS_SECONDS):
                # This replica hears it too.
                while len(answers) < heard - 1:
                    await self._answered.wait()
        finally:
            del self._answers[request.id]
        return sum(answers)

    async def stopped(self, ref: ConversationRef, run_ids: Collection[str]) -> None:
        """Have the other replicas answer those who wait for these runs."""
        if run_ids:
            await self._publish(_Request(id="", sender=self.name, ref=ref, run_ids=tuple(run_ids)))

    async def _publish(self, request: _Request) -> int:
        return await self._do(lambda redis: redis.publish(self._everybody, request.model_dump_json())) or 0

    async def run(self) -> None:
        """Answer the other replicas until cancelled."""
        # Late: an extra that not everybody has installed.
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        # Any: the client's own types are unfinished.
        self._redis = Redis.from_url(self._url, socket_connect_timeout=CONNECT_SECONDS)  # pyright: ignore[reportUnknownMemberType]
        try:
            while True:
                try:
                    await self._listen()
                except (RedisError, OSError) as error:
                    logger.warning("Redis cannot be reached (%s); trying again", type(error).__name__)
                    await anyio.sleep(OPERATION_SECONDS)
        finally:
            redis, self._redis = self._redis, None
            with anyio.move_on_after(OPERATION_SECONDS, shield=True):
                await redis.aclose()

    async def _listen(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(self._everybody, f"{self._prefix}:replica:{self.name}")
            while True:
                message = await subscription.get_message(timeout=PAUSE_SECONDS)
                if message is not None:
                    try:
                        await self._hear(message["channel"].decode(), message["data"])
                    except ValidationError:
                        logger.warning("a message in Redis is none of a replica; ignored")

    async def _hear(self, channel: str, data: bytes) -> None:
        if channel != self._everybody:
            answer = _Answer.model_validate_json(data)
            if (answers := self._answers.get(answer.id)) is not None:
                answers.append(answer.withdrawn)
                self._answered.set()
                self._answered = anyio.Event()
            return
        request = _Request.model_validate_json(data)
        if request.sender == self.name:
            return
        if request.run_ids:
            self.stop_waiting(request.ref, request.run_ids)
            return
        answer = _Answer(id=request.id, withdrawn=self.take_back(request.ref)).model_dump_json()
        await self._do(lambda redis: redis.publish(f"{self._prefix}:replica:{request.sender}", answer))

    async def _do(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        """The result of an operation, None while Redis cannot be reached."""
        from redis.exceptions import RedisError

        if self._redis is None or time.monotonic() < self._paused_until:
            return None
        result: Any = None
        failure: str | None = TimeoutError.__name__

        async def work() -> None:
            nonlocal result, failure
            try:
                result, failure = await operation(self._redis), None
            except (RedisError, OSError) as error:
                failure = type(error).__name__
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            for _ in range(STEPS):
                await anyio.sleep(OPERATION_SECONDS / STEPS)
            tasks.cancel_scope.cancel()
        if failure:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning("what replicas share cannot be read or written (%s)", failure)
        return result


def _read(data: bytes) -> SharedCall | None:
    try:
        return SharedCall.model_validate_json(data)
    except ValidationError:
        logger.warning("an entry in Redis is no call; ignored")
        return None


def _request_of(identity: CallIdentity) -> str:
    parts = (identity.caller, identity.session, identity.request, identity.call)
    return fingerprint(*parts) if identity.request else ""


def _nobody_waits(ref: ConversationRef, run_ids: Collection[str]) -> None:
    """What a replica does that follows no turns."""
