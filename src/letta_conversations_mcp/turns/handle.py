"""One turn in flight, as the calls that wait for it see it: what it is doing, and how it ended."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio

from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import ConversationRef, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.turns.aggregate import TurnBuilder

ASKING = "asking Letta for the reply"
HANDING_OVER = "handing the message over"

WITHDRAWN = "withdrawn"
"""The stop reason of a message that was taken back before it was handed over."""


class Flight:
    """A turn: either of a message that this process sends, or of a run that it found at Letta."""

    def __init__(
        self,
        ref: ConversationRef,
        *,
        message: Outgoing | None = None,
        run: Run | None = None,
        waits_if_busy: bool = True,
        caller: str = "",
    ) -> None:
        self.ref = ref
        self.caller = caller
        self.message = message
        self.waits_if_busy = waits_if_busy
        """Whether the message waits for the end of a turn that somebody else has begun."""
        self.run = run
        """The run of a turn that this process did not send; it is asked after only while somebody waits."""
        self.builder = TurnBuilder()
        self.landed = anyio.Event()
        self.ended = anyio.Event()
        """Set when its stream is at its end too, which is later when somebody stopped it."""
        self.listeners = 0
        """Calls that wait for it."""
        self.told = False
        """Whether a call was given its outcome."""
        self.left = False
        """Whether its following ended before it did."""
        self.begun = run is not None
        """Whether the message is being handed over, or has been."""
        self.taken_up = False
        """Whether the turn is that of the same message, which another process has handed over."""
        self.withdrawn = False
        self.obstacle: ConversationError | None = None
        """Why the message has not been handed over yet."""
        self.waiting_for = ASKING if run else HANDING_OVER
        self._queueing: anyio.CancelScope | None = None
        self._outcome: Turn | ConversationError | None = None
        self._changed = anyio.Event()
        if run:
            self.builder.run_id = run.id

    def is_of(self, message: Outgoing, caller: str) -> bool:
        """Whether this is the turn of the same message, whose caller sends it once more without having got a reply."""
        if self.withdrawn or self.told or self.caller != caller:
            return False
        return isinstance(message, OutgoingMessage) and message.repeats(self.message)

    @property
    def opened(self) -> bool:
        """Whether its conversation was opened for its message."""
        return isinstance(self.message, OutgoingMessage) and self.message.opens

    @property
    def run_id(self) -> str:
        return self.builder.run_id

    @property
    def doing(self) -> str:
        return self.waiting_for or self.builder.doing

    async def changed(self) -> None:
        """Wait for the next news of this turn."""
        await self._changed.wait()

    def note(self, waiting_for: str = "") -> None:
        """Tell those who wait that there is news: what the turn waits for now, or that it goes on."""
        self.waiting_for = waiting_for
        self._changed.set()
        self._changed = anyio.Event()

    def begin(self) -> None:
        """From here on the message cannot be taken back."""
        self.begun = True
        self.obstacle = None
        self.note(HANDING_OVER)

    def take_up(self, run: Run) -> None:
        """Nor can it when another process has handed it over, and this run answers it."""
        self.begun = True
        self.obstacle = None
        self.taken_up = True
        self.builder.run_id = run.id
        self.note(ASKING)

    @contextmanager
    def queueing(self, why: str, obstacle: ConversationError | None = None) -> Generator[None]:
        """What is awaited in here ends when the message is withdrawn."""
        self.begun = False
        self.obstacle = obstacle
        self.note(why)
        with anyio.CancelScope() as self._queueing:
            yield
        self._queueing = None

    def withdraw(self) -> bool:
        """Take the message back if it has not been handed over; whether that was so."""
        if self.begun:
            return False
        self.withdrawn = True
        if self._queueing is not None:
            self._queueing.cancel()
        return True

    def land(self, outcome: Turn | ConversationError) -> None:
        """Tell how the turn ended. The first time counts."""
        if not self.landed.is_set():
            self._outcome = outcome
            self.landed.set()
            self.note()

    def land_early(self) -> None:
        """Tell of an end that the server has told already; not of one that is really a refusal of the message."""
        failure = self.builder.failure
        if failure is None or not failure.awaits_approval:
            self.land(self.builder.build())

    def land_stopped(self, stop_reason: str) -> None:
        """Tell that somebody stopped it, before its stream does."""
        self.land(self.builder.build().model_copy(update={"status": "cancelled", "stop_reason": stop_reason}))

    def result(self) -> Turn:
        """The turn as it stands: final once landed, else "running". Raises what the send raised."""
        if isinstance(self._outcome, ConversationError):
            raise self._outcome
        if self._outcome is not None:
            return self._outcome
        return self.builder.build().model_copy(update={"status": "running"})

    @property
    def ending(self) -> str:
        """How it ended, in a word: the turn's status; "withdrawn"; "refused" when Letta did not take the message; or
        "left" when the turn goes on without this process."""
        if self.withdrawn:
            return "withdrawn"
        if self.left:
            return "left"
        return "refused" if isinstance(self._outcome, ConversationError) else self.result().status
