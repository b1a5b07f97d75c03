"""What this process lets the other replicas know of the calls whose turns it follows.

Does nothing without `--redis-url`. What they share, and how, is in `replicas`.
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
    """The turns here whose calls other replicas know of, for as long as these may be made again."""

    def __init__(self, replicas: Replicas | None, tasks: TaskGroup) -> None:
        self._replicas = replicas
        self._tasks = tasks
        self._calls: WeakKeyDictionary[TrackedTurn, SharedCall] = WeakKeyDictionary()

    async def begin(self, identity: CallIdentity) -> tuple[SharedCall | None, SharedCall | None]:
        """Make a call known to the other replicas. Returns it, and the call at another replica that it repeats, if any.
        Does nothing for a message with a key, which Letta itself can find."""
        if self._replicas is None or not identity.call or identity.key:
            return None, None
        return await self._replicas.begin(identity)

    def add(self, turn: TrackedTurn, call: SharedCall) -> None:
        """Note the turn that a call has begun."""
        self._calls[turn] = call

    async def handed_over(self, turn: TrackedTurn, identity: CallIdentity) -> None:
        """Let the replicas know where a message goes, before it is handed over."""
        call = self._calls.get(turn)
        if self._replicas is not None and call is not None and isinstance(turn.message, OutgoingMessage):
            call.at, call.otid = time(), turn.message.otid
            call.ref, call.branch_of = turn.ref, turn.branch_of
            await self._replicas.keep(identity, call)

    def ended(self, turn: TrackedTurn, identity: CallIdentity, *, answered: bool) -> None:
        """A call was answered, or given up by its client. One whose message was not handed over is forgotten, because
        nobody can join it."""
        call = self._calls.get(turn)
        if self._replicas is None or call is None:
            return
        if answered or not call.at:
            self._calls.pop(turn)
            self._tasks.start_soon(self._replicas.forget, identity, call)
        else:
            call.abandoned = True
            self._tasks.start_soon(self._replicas.keep, identity, call)
