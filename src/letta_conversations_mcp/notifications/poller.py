"""Conversations that somebody wants to be told about: looked at while they are wanted, and no longer.

A change that this server hears of is told at once. Others talk with the same agents past it, so each watched
conversation is also looked at every few seconds, once for all who watch it. Somebody who was told may read at once:
the look that later changes are compared with is therefore taken before telling.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, NotFound, Refused
from letta_conversations_mcp.core.model import Conversation
from letta_conversations_mcp.notifications.events import Change, Changes

logger = logging.getLogger(__name__)

MOST_WATCHED = 200
"""Conversations: at one look every five seconds, forty small requests a second."""


class _Watch:
    """One conversation: what of it is watched, and through whose eyes."""

    def __init__(self, conversation_id: str, seen: Conversation) -> None:
        self.conversation_id = conversation_id
        self.seen: Conversation | None = seen
        self.watchers: dict[object, tuple[str, Backend]] = {}
        self.changed = anyio.Event()
        self.ending = anyio.CancelScope()

    @property
    def topics(self) -> list[str]:
        return list(dict.fromkeys(topic for topic, _ in self.watchers.values()))

    @property
    def backend(self) -> Backend:
        """That of somebody who watches now: what another one may see may have ended."""
        return next(reversed(self.watchers.values()))[1]


class Watcher:
    """Made by `open_watcher`."""

    def __init__(self, tasks: TaskGroup, tell: Callable[[str], Awaitable[None]], every: float) -> None:
        self._tasks = tasks
        self._tell = tell
        self._every = every
        self._watches: dict[str, _Watch] = {}

    async def watch(self, conversation_id: str, topic: str, backend: Backend) -> Callable[[], None]:
        """Have `topic` told whenever the conversation changes, until what comes back is called.

        Raises:
            NotFound: there is no such conversation, as `backend` sees it.
            Refused: too many are watched already.
        """
        seen = await backend.get_conversation(conversation_id)
        watch = self._watches.get(conversation_id)
        if watch is None:
            if len(self._watches) >= MOST_WATCHED:
                raise Refused(
                    "watch a conversation", f"{MOST_WATCHED} are watched already", "Read it again now and then instead."
                )
            watch = self._watches[conversation_id] = _Watch(conversation_id, seen)
            self._tasks.start_soon(self._look, watch)
        key = object()
        watch.watchers[key] = (topic, backend)

        def stop() -> None:
            watch.watchers.pop(key, None)
            if not watch.watchers and self._watches.get(conversation_id) is watch:
                del self._watches[conversation_id]
                watch.ending.cancel()

        return stop

    def note(self, change: Change) -> None:
        """A listener of changes."""
        if watch := self._watches.get(change.conversation_id):
            watch.changed.set()

    async def _look(self, watch: _Watch) -> None:
        with watch.ending:
            while True:
                with anyio.move_on_after(self._every):
                    await watch.changed.wait()
                heard = watch.changed.is_set()
                watch.changed = anyio.Event()
                try:
                    if await self._is_different(watch) or heard:
                        for topic in watch.topics:
                            await self._tell(topic)
                except Exception:
                    # An exception that left this would end every other watch in the group.
                    logger.exception("watching conversation %s failed; going on", watch.conversation_id)

    async def _is_different(self, watch: _Watch) -> bool:
        try:
            now = await watch.backend.get_conversation(watch.conversation_id)
        except NotFound:
            now = None
        except ConversationError as error:
            logger.info("conversation %s could not be looked at: %s", watch.conversation_id, error)
            return False
        if now == watch.seen:
            return False
        watch.seen = now
        return True


@asynccontextmanager
async def open_watcher(
    changes: Changes, tell: Callable[[str], Awaitable[None]], *, every: float
) -> AsyncGenerator[Watcher]:
    """A watcher that looks `every` so many seconds, and listens to `changes`, as long as this context lasts."""
    async with anyio.create_task_group() as tasks:
        watcher = Watcher(tasks, tell, every)
        stop = changes.subscribe(watcher.note)
        try:
            yield watcher
        finally:
            stop()
            tasks.cancel_scope.cancel()
