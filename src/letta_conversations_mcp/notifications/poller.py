"""Detects changes of the conversations that clients have subscribed to.

A change made through this server or a replica arrives as an event. Others change conversations at Letta directly, so
each subscribed conversation is also polled, once for all its subscribers. Before an event is published the conversation
is read again: later polls compare with that state, and a client may read at once.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup
from mcp.server.subscriptions import ResourceUpdated, ServerEvent, SubscriptionBus

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, NotFound
from letta_conversations_mcp.core.fair_share import FairShare
from letta_conversations_mcp.core.model import Conversation
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.notifications.events import changed_conversation

logger = logging.getLogger(__name__)

MOST_WATCHED = 200
"""Watched conversations: polled every five seconds, they cause forty small requests a second. One that several callers
watch is polled once, and counts for each of them."""


@dataclass(frozen=True)
class _Watcher:
    """One subscription: its URI and its caller."""

    uri: str
    caller: str
    backend: Backend


class _Watch:
    """One conversation that clients are subscribed to. `seen` is the conversation as it was last read, None once it is
    deleted."""

    def __init__(self, conversation_id: str, seen: Conversation) -> None:
        self.conversation_id = conversation_id
        self.seen: Conversation | None = seen
        self.watchers: dict[object, _Watcher] = {}
        self.changed = anyio.Event()
        self.ending = anyio.CancelScope()

    @property
    def uris(self) -> list[str]:
        return list(dict.fromkeys(each.uri for each in self.watchers.values()))

    @property
    def backend(self) -> Backend:
        """The latest subscriber's: an earlier one may have lost access."""
        return next(reversed(self.watchers.values())).backend

    def is_watched_by(self, caller: str) -> bool:
        return any(each.caller == caller for each in self.watchers.values())


class Poller:
    """Made by `open_poller`."""

    def __init__(self, tasks: TaskGroup, bus: SubscriptionBus, interval: float) -> None:
        self._tasks = tasks
        self._bus = bus
        self._interval = interval
        self._watches: dict[str, _Watch] = {}
        self._places = FairShare("watched conversations", MOST_WATCHED)

    async def watch(self, conversation_id: str, uri: str, backend: Backend, caller: str = "") -> Callable[[], None]:
        """Publish a ResourceUpdated for `uri` whenever the conversation changes, until the returned function is called.

        Raises:
            NotFound: `backend` has no such conversation.
            Overloaded: too many conversations are watched already, by this caller or in all.
        """
        seen = await backend.get_conversation(conversation_id)
        watch = self._watches.get(conversation_id) or _Watch(conversation_id, seen)
        if not watch.is_watched_by(caller):
            self._places.take(caller)
        if not watch.watchers:
            self._watches[conversation_id] = watch
            self._tasks.start_soon(self._poll, watch)
        key = object()
        watch.watchers[key] = _Watcher(uri, caller, backend)

        def stop() -> None:
            if watch.watchers.pop(key, None) is None:
                return
            if not watch.is_watched_by(caller):
                self._places.give_back(caller)
            if not watch.watchers:
                del self._watches[conversation_id]
                watch.ending.cancel()

        return stop

    def on_event(self, event: ServerEvent) -> None:
        """A listener of the bus."""
        if watch := self._watches.get(changed_conversation(event)):
            watch.changed.set()

    async def _poll(self, watch: _Watch) -> None:
        with watch.ending:
            while True:
                with anyio.move_on_after(self._interval):
                    await watch.changed.wait()
                heard = watch.changed.is_set()
                watch.changed = anyio.Event()
                try:
                    if await self._is_different(watch) or heard:
                        for uri in watch.uris:
                            await self._bus.publish(ResourceUpdated(uri))
                except Exception:
                    # An exception that escaped would end every other watch in the group.
                    logger.exception("polling conversation %s failed; going on", watch.conversation_id)

    async def _is_different(self, watch: _Watch) -> bool:
        try:
            now = await watch.backend.get_conversation(watch.conversation_id)
        except NotFound:
            now = None
        except ConversationError as error:
            logger.info("conversation %s could not be read: %s", watch.conversation_id, error)
            return False
        if now == watch.seen:
            return False
        watch.seen = now
        return True


@asynccontextmanager
async def open_poller(bus: SubscriptionBus, *, interval: float) -> AsyncGenerator[Poller]:
    """A poller that reads each watched conversation every `interval` seconds, and when `bus` says that it changed."""
    async with background_tasks() as tasks:
        poller = Poller(tasks, bus, interval)
        stop = bus.subscribe(poller.on_event)
        try:
            yield poller
        finally:
            stop()
