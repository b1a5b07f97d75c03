"""What the replicas of this server share in Redis: hints that expire, never a store.

* A table of unanswered calls. The key hashes caller, target and call; the value holds the otid of the message and where
  it went. A call that is repeated at another replica finds its turn there, even after the first replica was killed.
* Requests to the other replicas when a turn is cancelled: withdraw the messages that are queued in a conversation, and
  answer the calls that wait for a run that was stopped.

A replica counts as alive while it is subscribed to its own channel: Redis ends the subscription with the process. While
Redis cannot be reached, every operation does nothing, and repeated calls are recognised within one process only.
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
"""Timeout for one Redis operation."""

STEPS = 20
"""That timeout is counted in so many short sleeps. On a busy machine this process may stall for seconds; a stall
counts as one sleep, so that Redis is not declared silent while its answer is still unread."""

CONNECT_SECONDS = 10.0
"""Timeout for connecting to Redis. A call does not wait that long: OPERATION_SECONDS ends its wait."""

PAUSE_SECONDS = 5.0
"""Pause after a failure, before Redis is tried again."""

ANSWERS_SECONDS = 1.0
"""How long a cancel waits for the answers of the other replicas."""

LOOK_SECONDS = 0.1
"""Pause between looks at the table of calls."""

COPIED_SECONDS = 60.0
"""How long a copy of a request is recognised: a proxy makes one at once, or after a timeout of its own."""

QUEUED_SECONDS = 60.0
"""How long a copied request waits for the first one's message to be handed over."""


class SharedCall(BaseModel):
    """An unanswered call, as it is stored in Redis."""

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
    """Sent to all replicas when a turn was cancelled. `run_ids` are the runs that were stopped; without any, it asks to
    withdraw the messages that are queued in the conversation."""

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
        self._common_channel = f"{self._prefix}:turns"
        self.name = uuid.uuid4().hex
        self.withdraw_here: Callable[[ConversationRef], int] = lambda _: 0
        """Withdraws the messages that are queued in a conversation here; returns how many."""
        self.report_stopped_here: Callable[[ConversationRef, Collection[str]], object] = _ignore
        """Answers the calls that wait here for runs that were stopped."""
        self._redis: Any = None
        self._paused_until = 0.0
        self._answers: dict[str, list[int]] = {}
        self._answered = anyio.Event()

    # The table of calls

    async def store(self, identity: CallIdentity, call: SharedCall) -> None:
        """Store a call. Must be done before its message is handed over."""
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
        """Store a new call. Returns it, and the call at another replica that it repeats, if there is evidence of that:
        this request is a verbatim copy of that one, or it is the same call from the same origin, and the other's client
        has left or its replica is gone. Only one call takes over what was left; a copy follows the original.
        """
        call = SharedCall(id=uuid.uuid4().hex, replica=self.name, request=_request_of(identity), origin=identity.origin)
        # Before all else: a copy may arrive at the same moment.
        call.is_copy = bool(call.request) and not await self._is_first(call)
        await self.store(identity, call)
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
                    # If this call ends before it has found the message, the next one takes over from it.
                    call.at, call.otid, call.ref, call.branch_of = other.at, other.otid, other.ref, other.branch_of
                    await self.store(identity, call)
                    return call, other
            # Counts looks instead of time: on a busy machine one look may take longer than the limit.
            if looks * LOOK_SECONDS >= (QUEUED_SECONDS if copied else NOTICE_SECONDS if waiting else 0):
                return call, None
            looks += 1
            await anyio.sleep(LOOK_SECONDS)

    async def _is_first(self, call: SharedCall) -> bool:
        """True if no replica has received this request before, or if Redis cannot be reached."""
        key, written = self._copy_key(call.request), call.model_dump_json()
        taken = await self._do(lambda redis: redis.set(key, written, nx=True, ex=int(COPIED_SECONDS), get=True))
        return taken is None

    async def _copied(self, request: str) -> SharedCall | None:
        data: bytes | None = await self._do(lambda redis: redis.get(self._copy_key(request)))
        return _read(data) if data else None

    async def _others(self, identity: CallIdentity) -> Sequence[SharedCall]:
        """The same call from the same origin, at other replicas."""
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
        """Have the other replicas withdraw the messages that are queued in a conversation. Returns how many."""
        request = _Request(id=uuid.uuid4().hex, sender=self.name, ref=ref)
        answers = self._answers[request.id] = []
        try:
            receivers = await self._publish(request)
            with anyio.move_on_after(ANSWERS_SECONDS):
                # One of those that received it is this replica.
                while len(answers) < receivers - 1:
                    await self._answered.wait()
        finally:
            del self._answers[request.id]
        return sum(answers)

    async def stopped(self, ref: ConversationRef, run_ids: Collection[str]) -> None:
        """Have the other replicas answer the calls that wait for these runs."""
        if run_ids:
            await self._publish(_Request(id="", sender=self.name, ref=ref, run_ids=tuple(run_ids)))

    async def _publish(self, request: _Request) -> int:
        return await self._do(lambda redis: redis.publish(self._common_channel, request.model_dump_json())) or 0

    async def run(self) -> None:
        """Answer the other replicas until cancelled."""
        # Imported here because it is an extra.
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
            await subscription.subscribe(self._common_channel, f"{self._prefix}:replica:{self.name}")
            while True:
                message = await subscription.get_message(timeout=PAUSE_SECONDS)
                if message is not None:
                    try:
                        await self._handle(message["channel"].decode(), message["data"])
                    except ValidationError:
                        logger.warning("ignored a message in Redis that is not from a replica")

    async def _handle(self, channel: str, data: bytes) -> None:
        if channel != self._common_channel:
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
            self.report_stopped_here(request.ref, request.run_ids)
            return
        answer = _Answer(id=request.id, withdrawn=self.withdraw_here(request.ref)).model_dump_json()
        await self._do(lambda redis: redis.publish(f"{self._prefix}:replica:{request.sender}", answer))

    async def _do(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        """The result of an operation; None if Redis cannot be reached, or fails."""
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
            logger.warning("cannot read or write what replicas share in Redis (%s)", failure)
        return result


def _read(data: bytes) -> SharedCall | None:
    try:
        return SharedCall.model_validate_json(data)
    except ValidationError:
        logger.warning("ignored an entry in Redis that is not a call")
        return None


def _request_of(identity: CallIdentity) -> str:
    parts = (identity.caller, identity.session, identity.request, identity.call)
    return fingerprint(*parts) if identity.request else ""


def _ignore(ref: ConversationRef, run_ids: Collection[str]) -> None:
    """The default, for a process that follows no turns."""
