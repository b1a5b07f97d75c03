"""One turn that this process follows, as the calls that wait for it see it.

    QUEUED ──▶ SENDING ──▶ RUNNING ──▶ ENDED(reason)
      ▲ │         │  └────────────────▶ ENDED   Letta refused the message, or its end came first
      │ │         └─▶ QUEUED                    not taken for now: the conversation is busy, Letta is restarting
      │ └──────────────▶ RUNNING                Letta has the message already: an earlier try, another process
      └─ start          QUEUED ──▶ ENDED        withdrawn, or it could not be addressed

`move` is the only method that changes the state. Only a QUEUED message can be withdrawn: from SENDING on Letta may have
it. Owns no task and does no I/O; the scheduler, delivery and recovery do that.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum

import anyio

from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import ConversationRef, Outgoing, Run, Turn
from letta_conversations_mcp.turns.aggregate import TurnBuilder

ASKING = "asking Letta for the reply"
HANDING_OVER = "handing the message over"
LOOKING_UP = "looking up where the message goes"
SEARCHING = "looking for an earlier message with this key"

WITHDRAWN = "withdrawn"
"""The stop reason of a message that was withdrawn before it was handed over."""

NO_TRACE = "no_trace"
"""The stop reason of a message with a key that Letta was searched for, and does not have."""


class State(StrEnum):
    """The state of a turn."""

    QUEUED = "queued"
    """Nothing was handed over: Letta does not have the message from this process."""
    SENDING = "sending"
    """Handed over; Letta has not named the run yet."""
    RUNNING = "running"
    """Letta has the message and has named its run."""
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a turn is ENDED."""

    FINISHED = "finished"
    """Letta said how the turn ended, or could not say what became of it. The outcome is a Turn."""
    REFUSED = "refused"
    """Letta did not accept the message. The outcome is an error."""
    WITHDRAWN = "withdrawn"
    """Withdrawn while it was QUEUED."""
    STOPPED = "stopped"
    """The run was cancelled; its stream may end later."""
    LEFT = "left"
    """This process stopped following the turn, because it shuts down. The turn itself may go on."""


_ALLOWED: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.QUEUED, State.SENDING, State.RUNNING, State.ENDED}),
    State.SENDING: frozenset({State.SENDING, State.QUEUED, State.RUNNING, State.ENDED}),
    State.RUNNING: frozenset({State.RUNNING, State.ENDED}),
    State.ENDED: frozenset[State](),
}


class TrackedTurn:
    """A turn: of a message that this process sends, or of a run that it found at Letta."""

    def __init__(
        self, ref: ConversationRef | None, message: Outgoing | None = None, *, run: Run | None = None, caller: str = ""
    ) -> None:
        self._ref = ref
        self.message = message
        self.caller = caller
        self.run = run
        """The run of a turn that this process did not send. It is followed only while somebody waits for it."""
        self.keeps_stream = True
        """False if Letta says that the stream of its run cannot be resumed."""
        self.builder = TurnBuilder()
        if run:
            self.builder.run_id = run.id
        self.state = State.RUNNING if run else State.QUEUED
        self.end_reason: EndReason | None = None
        self.ended = anyio.Event()
        """Set when the turn is ENDED."""
        self.drained = anyio.Event()
        """Set once the stream is drained. After a cancel this can be later than `ended`."""
        self.joined = False
        """True if another process or an earlier attempt handed the message over, and this one only follows the run."""
        self.branch_of: ConversationRef | None = None
        """The conversation that was busy, when the message went to a branch of it."""
        self.note = ""
        """A remark for the reader on how the message was sent, in a sentence."""
        self.waiting_calls = 0
        self.obstacle: ConversationError | None = None
        """Why a QUEUED message was not handed over yet."""
        self._waiting_for = ASKING if run else LOOKING_UP
        self._outcome: Turn | ConversationError | None = None
        self._queueing: anyio.CancelScope | None = None
        self._changed: anyio.Event | None = None
        """Exists only while somebody waits for news: most chunks arrive while nobody does."""

    @property
    def ref(self) -> ConversationRef:
        """Where the message goes. Known as soon as the message is queued in a conversation.

        Raises:
            RuntimeError: the conversation is still being looked up.
        """
        if self._ref is None:
            raise RuntimeError("the conversation of this turn is still being looked up")
        return self._ref

    @property
    def is_addressed(self) -> bool:
        return self._ref is not None

    def address(self, ref: ConversationRef, message: Outgoing) -> None:
        """Set the conversation and the message. A conversation that replaces another one is a branch of it."""
        if self._ref is not None and self._ref != ref:
            self.branch_of = self._ref
        self._ref, self.message = ref, message
        self._notify()

    def move(
        self,
        to: State,
        *,
        waiting_for: str = "",
        obstacle: ConversationError | None = None,
        reason: EndReason | None = None,
        outcome: Turn | ConversationError | None = None,
    ) -> None:
        """Change the state. A turn that is ENDED stays as it is: the first end counts.

        Raises:
            ValueError: the state cannot change like that.
        """
        if self.state is State.ENDED:
            return
        if to not in _ALLOWED[self.state]:
            raise ValueError(f"a turn does not go from {self.state} to {to}")
        self.state = to
        self.obstacle = obstacle
        self._waiting_for = waiting_for
        if to is State.ENDED:
            self.end_reason, self._outcome = reason, outcome
            self.ended.set()
            if self._queueing is not None:
                self._queueing.cancel()
        self._notify()

    # What delivery and recovery report

    def news(self, waiting_for: str = "") -> None:
        """Letta sent something, or the turn waits for something else now."""
        named = self.state is State.SENDING and self.builder.run_id
        self.move(State.RUNNING if named else self.state, waiting_for=waiting_for, obstacle=self.obstacle)

    def join(self, run: Run) -> None:
        """Follow a run that has the message already."""
        self.builder.run_id = run.id
        self.joined = True
        self.keeps_stream = run.keeps_stream
        self.move(State.RUNNING, waiting_for=ASKING)

    @contextmanager
    def queueing(self, why: str, obstacle: ConversationError | None = None) -> Generator[None]:
        """Marks the turn as QUEUED, and cancels its body when the message is withdrawn."""
        self.move(State.QUEUED, waiting_for=why, obstacle=obstacle)
        with anyio.CancelScope() as self._queueing:
            if self.state is State.ENDED:
                self._queueing.cancel()
            yield
        self._queueing = None

    def finish(self, outcome: Turn | ConversationError) -> None:
        """End the turn with what Letta said, or with why the message was not taken."""
        refused = isinstance(outcome, ConversationError)
        self.move(State.ENDED, reason=EndReason.REFUSED if refused else EndReason.FINISHED, outcome=outcome)

    def withdraw(self) -> bool:
        """Withdraw the message if it is QUEUED. True if it was."""
        if self.state is not State.QUEUED:
            return False
        self._stop(EndReason.WITHDRAWN, WITHDRAWN)
        return True

    def stopped(self) -> None:
        """The run was cancelled: answer the calls that wait, before the stream ends."""
        self._stop(EndReason.STOPPED, "cancelled")

    def _stop(self, reason: EndReason, stop_reason: str) -> None:
        result = self.builder.build().model_copy(update={"status": "cancelled", "stop_reason": stop_reason})
        self.move(State.ENDED, reason=reason, outcome=result)

    # What the calls that wait see

    @property
    def run_id(self) -> str:
        return self.builder.run_id

    @property
    def is_handed_over(self) -> bool:
        """True if Letta may have the message."""
        return self.state in (State.SENDING, State.RUNNING)

    @property
    def doing(self) -> str:
        """What the turn waits for, or what the agent does, in a few words."""
        return self._waiting_for or self.builder.doing

    async def changed(self) -> None:
        """Wait for the next news of this turn."""
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def result(self) -> Turn:
        """The turn as it stands: final once ENDED.

        Before that `running`; `not_confirmed` while Letta has not named a run for a message that was handed over.
        Raises what the send raised.
        """
        if isinstance(self._outcome, ConversationError):
            raise self._outcome
        if self._outcome is None:
            status = "not_confirmed" if self.state is State.SENDING else "running"
            return self.builder.build().model_copy(update={"status": status, "note": self.note})
        return self._outcome.model_copy(update={"note": self.note}) if self.note else self._outcome

    @property
    def ending(self) -> str:
        """How it ended, in a word, for logs and metrics: the turn's status, or the reason of the end."""
        if self.end_reason in (EndReason.REFUSED, EndReason.WITHDRAWN, EndReason.LEFT):
            return str(self.end_reason)
        return self.result().status

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
