"""Publishes the calls whose turns this process follows, so that other replicas recognise them.

Does nothing without `--redis-url`. What replicas share, and how, is in `replicas`.
"""

from __future__ import annotations

from time import time
from weakref import WeakKeyDictionary

from anyio.abc import TaskGroup

from letta_conversations_mcp.core.model import OutgoingMessage
from letta_conversations_mcp.turns.idempotency import CallIdentity
from letta_conversations_mcp.turns.replicas import Replicas, SharedCall
from letta_conversations_mcp.turns.turn import TrackedTurn


class SharedTurns:
    """The turns of this process whose calls are published, for as long as those calls may be repeated."""

    def __init__(self, replicas: Replicas | None, tasks: TaskGroup) -> None:
        self._replicas = replicas
        self._tasks = tasks
        self._calls: WeakKeyDictionary[TrackedTurn, SharedCall] = WeakKeyDictionary()

    async def begin(self, identity: CallIdentity) -> tuple[SharedCall | None, SharedCall | None]:
        """Publish a call. Returns it, and the call at another replica that it repeats, if any. Does nothing for a
        message with a key, which Letta itself recognises."""
        if self._replicas is None or not identity.call or identity.key:
            return None, None
        return await self._replicas.begin(identity)

    def add(self, turn: TrackedTurn, call: SharedCall) -> None:
        """Note the turn that a call has begun."""
        self._calls[turn] = call

    async def handed_over(self, turn: TrackedTurn, identity: CallIdentity) -> None:
        """Publish where a message goes. Must be done before it is handed over."""
        call = self._calls.get(turn)
        if self._replicas is not None and call is not None and isinstance(turn.message, OutgoingMessage):
            call.at, call.otid = time(), turn.message.otid
            call.ref, call.branch_of = turn.ref, turn.branch_of
            await self._replicas.store(identity, call)

    def ended(self, turn: TrackedTurn, identity: CallIdentity, *, answered: bool) -> None:
        """Publish that a call was answered, or given up by its client. If its message was not handed over, the call is
        forgotten, because there is nothing to join."""
        call = self._calls.get(turn)
        if self._replicas is None or call is None:
            return
        if answered or not call.at:
            self._calls.pop(turn)
            self._tasks.start_soon(self._replicas.forget, identity, call)
        else:
            call.abandoned = True
            self._tasks.start_soon(self._replicas.store, identity, call)
