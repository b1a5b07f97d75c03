"""Sends one message: find its conversation, queue it there, wait for a free slot on this server, deliver it.

Leaves to others: when it begins and which calls wait for it (`scheduler`), handing it over (`delivery`), and finding a
turn again (`recovery`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy, ConversationError, Overloaded, ServerFault
from letta_conversations_mcp.core.model import ConversationRef, OnBusy, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.delivery import Delivery
from letta_conversations_mcp.turns.idempotency import CallIdentity
from letta_conversations_mcp.turns.instrumentation import Meter
from letta_conversations_mcp.turns.recovery import find_by_key, find_run, run_of_same_message, until_free
from letta_conversations_mcp.turns.replicas import SharedCall
from letta_conversations_mcp.turns.sharing import SharedTurns
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import HANDING_OVER, LOOKING_UP, SEARCHING, EndReason, State, TrackedTurn

logger = logging.getLogger(__name__)

Fork = Callable[[ConversationRef], Awaitable[ConversationRef]]
"""Makes a branch of a busy conversation, for a message that does not wait."""

QUEUED = "waiting for the turn before it in this conversation"
FULL = "waiting for one of the turns on this server to end"

NOT_SEARCHED = "The conversation is long: an earlier message with this key was looked for in its newest part only."


@dataclass(frozen=True)
class Send:
    """A message to be sent. `prepare` finds or opens the conversation and returns it with the message; an error that it
    raises is the outcome. Its argument is the conversation that another replica has found or opened for the message.
    With `on_busy="fork"`, `fork` makes the branch."""

    prepare: Callable[[ConversationRef | None], Awaitable[tuple[ConversationRef, Outgoing]]]
    identity: CallIdentity = field(default_factory=CallIdentity)
    on_busy: OnBusy = "wait"
    fork: Fork | None = None


class Queue:
    """The messages to one conversation, in the order of their arrival."""

    def __init__(self) -> None:
        self.lock = anyio.Lock(fast_acquire=True)
        self.turns: list[TrackedTurn] = []


@dataclass(frozen=True)
class Sending:
    """Sends messages. All callers share the queues and slots; `started_at` is when this process started."""

    backend: Backend
    settings: Settings
    timing: Timing
    meter: Meter
    shared: SharedTurns
    queues: dict[ConversationRef, Queue]
    slots: anyio.Semaphore
    started_at: datetime

    async def run(self, turn: TrackedTurn, send: Send, left: SharedCall | None) -> None:
        """Run one turn from the lookup of its conversation to its end. `left` is the same message, left by another
        replica."""
        with _ending(turn):
            await self._prepare(turn, send, left)
        if turn.state is not State.ENDED:
            with self.meter.turn(turn), _ending(turn):
                if left is None or (result := await self._take_over(turn, left)) is None:
                    while (result := await self._in_order(turn, send)) is None:
                        # Once forked, a message waits in the branch.
                        send = replace(send, on_busy="wait")
                turn.finish(result)

    async def _prepare(self, turn: TrackedTurn, send: Send, left: SharedCall | None) -> None:
        with turn.queueing(LOOKING_UP):
            ref, message = await send.prepare(left.ref if left else None)
            if isinstance(message, OutgoingMessage) and not message.otid:
                message = message.model_copy(update={"otid": left.otid if left else send.identity.otid(ref)})
            if left and left.branch_of:
                turn.address(left.branch_of, message)
            turn.address(ref, message)

    async def _take_over(self, turn: TrackedTurn, left: SharedCall) -> Turn | None:
        """Follow the turn of a message that another replica has handed over. None if it never arrived, or failed."""
        message = turn.message
        if not isinstance(message, OutgoingMessage):
            return None
        with turn.queueing(SEARCHING):
            since = datetime.fromtimestamp(left.at, UTC)
            run = await find_run(self.backend, turn.ref, message, since, self.timing)
            if run is not None and run.status not in ("failed", "cancelled"):
                turn.join(run)
            elif run is not None:
                # Letta answers an otid that it knows with the old run.
                turn.address(turn.ref, message.model_copy(update={"otid": CallIdentity().otid(turn.ref)}))
        if turn.state is State.ENDED:
            return turn.result()
        return await self._delivery(turn).follow() if turn.joined else None

    async def _in_order(self, turn: TrackedTurn, send: Send) -> Turn | None:
        """Wait until the message is first in its conversation and there is a free slot, then deliver it. None if the
        message now goes to a branch."""
        ref = turn.ref
        queue = self.queues.setdefault(ref, Queue())
        try:
            # One that was withdrawn leaves the queue in a moment.
            ahead = next((each for each in queue.turns if each.end_reason is not EndReason.WITHDRAWN), None)
            if ahead is not None and send.on_busy != "wait":
                return await self._branch_or_fail(turn, send, Busy(ref.conversation_id, ahead.run_id))
            queue.turns.append(turn)
            with ExitStack() as held:
                await _take(held, queue.lock, turn, QUEUED)
                await _take(held, self.slots, turn, FULL, Overloaded("this server is running as many turns as it may"))
                return turn.result() if turn.state is State.ENDED else await self._deliver(turn, send)
        finally:
            if turn in queue.turns:
                queue.turns.remove(turn)
            if not queue.turns:
                self.queues.pop(ref, None)

    async def _branch_or_fail(self, turn: TrackedTurn, send: Send, busy: Busy) -> None:
        """Redirect a message that does not wait for its conversation to a branch, or raise `busy`."""
        message = turn.message
        if send.on_busy == "fail" or send.fork is None or message is None:
            raise busy
        with turn.queueing("making a branch of the conversation", busy):
            turn.address(await send.fork(turn.ref), message)

    async def _deliver(self, turn: TrackedTurn, send: Send) -> Turn | None:
        """Deliver the message as soon as its conversation is free. Retries once if Letta could not be reached."""
        if send.identity.key and isinstance(turn.message, OutgoingMessage):
            with turn.queueing(SEARCHING):
                found = await find_by_key(self.backend, turn.ref, send.identity, turn.message, self.timing)
                turn.address(turn.ref, found.message)
                if found.run is not None:
                    turn.join(found.run)
                turn.note = "" if found.is_whole else NOT_SEARCHED
            if turn.joined:
                return await self._delivery(turn).follow()
        patient = True
        while turn.state is not State.ENDED:
            with turn.queueing(HANDING_OVER, turn.obstacle):
                await self.shared.handed_over(turn, send.identity)
            if turn.end_reason is not None:
                break
            turn.move(State.SENDING, waiting_for=HANDING_OVER)
            try:
                return await self._delivery(turn).run()
            except Busy as busy:
                with turn.queueing("waiting for somebody else's turn in this conversation", busy):
                    if run := await self._run_of_same_message(turn, send, busy):
                        turn.join(run)
                    elif send.on_busy == "wait":
                        await until_free(self.backend, turn.ref, busy, self.timing)
                        # The turn that just ended may have been that of this message, sent by another process.
                        if run := await self._run_of_same_message(turn, send, busy):
                            turn.join(run)
                if turn.joined:
                    return await self._delivery(turn).follow()
                if send.on_busy != "wait":
                    return await self._branch_or_fail(turn, send, busy)
            except ConversationError as error:
                if error.try_again_after is None or not patient:
                    raise
                patient = False
                with turn.queueing("Letta cannot take the message now; trying again soon", error):
                    await anyio.sleep(error.try_again_after)
        return turn.result()

    def _delivery(self, turn: TrackedTurn) -> Delivery:
        return Delivery(self.backend, turn, self.timing, self.settings.turn_timeout, self.meter)

    async def _run_of_same_message(self, turn: TrackedTurn, send: Send, busy: Busy) -> Run | None:
        assert turn.message is not None  # noqa: S101 - the conversation was busy for it
        return await run_of_same_message(
            self.backend, turn.ref, turn.message, busy, send.identity, self.started_at, self.timing
        )


async def _take(
    held: ExitStack,
    place: anyio.Lock | anyio.Semaphore,
    turn: TrackedTurn,
    why: str,
    obstacle: ConversationError | None = None,
) -> None:
    """Take a place that `held` gives back. Waits for it only until the turn has ended."""
    try:
        place.acquire_nowait()
    except anyio.WouldBlock:
        with turn.queueing(why, obstacle):
            await place.acquire()
            held.callback(place.release)
    else:
        held.callback(place.release)


@contextmanager
def _ending(turn: TrackedTurn) -> Generator[None]:
    """Makes every exception the outcome of the turn: one that escaped would cancel all other turns in the task
    group."""
    try:
        yield
    except ConversationError as error:
        turn.finish(error)
    except Exception:
        logger.exception("a turn ended in an unexpected error")
        turn.finish(_unexplained(turn))
    except anyio.get_cancelled_exc_class():
        turn.move(State.ENDED, reason=EndReason.LEFT, outcome=_unexplained(turn))
        raise


def _unexplained(turn: TrackedTurn) -> ServerFault:
    """The outcome if the turn's own task failed or was cancelled by a shutdown."""
    place = turn.ref.in_call if turn.is_addressed else "conversation_id=…"
    return ServerFault(
        "follow this turn",
        500,
        "",
        f"The turn itself may go on. Call wait_for_reply({place}) to look; do not send the message again before that.",
    )
