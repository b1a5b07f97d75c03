"""One message, delivered once, and its turn followed to the end.

The message is handed over. When the connection breaks after that, the stream is taken up again where it broke; where
the server keeps no streams, it is asked for the run and the messages instead. A message that never arrived is handed
over once more, under the same otid. Only when Letta could not be asked at all is the status "unknown".

Cancelling a delivery ends the following, not the turn.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import anyio

from letta_conversations_mcp.core.backend import Backend, NotResumable, StreamLost
from letta_conversations_mcp.core.errors import AwaitingApproval, Busy, ConversationError, ServerFault, TimedOut
from letta_conversations_mcp.core.model import Approvals, Chunk, MessageQuery, Outgoing, Run, Turn
from letta_conversations_mcp.turns.handle import Flight
from letta_conversations_mcp.turns.instrumentation import SILENT, Meter
from letta_conversations_mcp.turns.recovery import RECENT_MESSAGES, RECENT_RUNS, follow, until_ended
from letta_conversations_mcp.turns.timing import Pace

logger = logging.getLogger(__name__)

RESUMPTIONS = 3
"""How often in a row, without any news, a stream is taken up again before the run is asked for instead."""

CLOCK_TOLERANCE = timedelta(seconds=5)
"""By how much Letta's clock may be behind ours, when a failed run is told from older ones."""


class Delivery:
    """The way of one message. `run` it once, or `follow`."""

    def __init__(self, backend: Backend, flight: Flight, message: Outgoing, pace: Pace, meter: Meter = SILENT) -> None:
        self._backend = backend
        self._flight = flight
        self._message = message
        self._pace = pace
        self._meter = meter
        self._begun_at = datetime.now(UTC)
        self._lost: StreamLost | None = None
        self._repeated = False

    async def run(self) -> Turn:
        """Deliver, and give the turn when it has ended.

        Raises:
            ConversationError: Letta has not taken the message. The error says why.
            TimedOut: the turn lasts longer than turns are followed.
        """
        return await self._bounded(self._deliver)

    async def follow(self) -> Turn:
        """The turn when it has ended, of the flight's run, which has the message already. Raises as `run` does."""
        return await self._bounded(self._ask_for_it)

    async def _deliver(self) -> Turn:
        await self._consume(self._hand_over())
        return self._turn() if self._ended else await self._recover()

    async def _bounded(self, way: Callable[[], Awaitable[Turn]]) -> Turn:
        with anyio.move_on_after(self._pace.turn):
            return await way()
        raise TimedOut(
            "finish the turn",
            self._pace.turn,
            f"The turn may go on: wait_for_reply(conversation_id={self._flight.ref.conversation_id!r}) looks for it, "
            "and cancel stops it. Do not send the message again before that.",
        )

    def _hand_over(self) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        if isinstance(self._message, Approvals):
            return self._backend.respond(self._flight.ref, self._message)
        return self._backend.send(self._flight.ref, self._message)

    @property
    def _ended(self) -> bool:
        return self._flight.builder.ended

    def _turn(self) -> Turn:
        failure = self._flight.builder.failure
        if failure is not None and failure.awaits_approval:
            raise AwaitingApproval(self._flight.ref.conversation_id)
        return self._flight.builder.build()

    def _unknown(self) -> Turn:
        return self._flight.builder.build().model_copy(update={"status": "unknown"})

    async def _consume(self, stream: AbstractAsyncContextManager[AsyncIterator[Chunk]]) -> None:
        """Take what the stream gives, to the turn's end or to where it breaks."""
        flight = self._flight
        try:
            async with stream as chunks:
                async for chunk in chunks:
                    flight.builder.add(chunk)
                    flight.note()
                if self._ended:
                    # Before the connection is tidied up, for which nobody has to wait.
                    flight.land_early()
        except StreamLost as lost:
            logger.warning("the stream of a turn in conversation %s was lost: %s", flight.ref, lost)
            self._lost = lost
            self._meter.stream_lost()
        if not self._ended:
            flight.note(f"{self._lost or 'the stream ended early'}; asking Letta for the reply")

    async def _recover(self) -> Turn:
        """What became of a turn whose stream ended before the turn did."""
        failures = 0
        while failures < RESUMPTIONS:
            flight = self._flight
            seen = flight.builder.last_seq
            try:
                await self._consume(self._backend.resume(flight.ref, self._message, run_id=flight.run_id, after=seen))
            except NotResumable:
                break
            except Busy:
                # The server knows the messages that it has by their otid, so ours has never arrived.
                raise
            except ConversationError as error:
                logger.warning("the stream of a turn in conversation %s is not to be had: %s", flight.ref, error.label)
            has_news = self._ended or flight.builder.last_seq > seen
            if has_news:
                self._meter.stream_resumed()
            if self._ended:
                return self._turn()
            failures = 0 if has_news else failures + 1
            await anyio.sleep(self._pace.poll_first * (failures + 1))
        return await self._ask_for_it()

    async def _ask_for_it(self) -> Turn:
        """Ask for the run that took the message, as long as it takes to get an answer."""
        give_up_at = anyio.current_time() + self._pace.give_up
        pause = self._pace.poll_first
        while True:
            try:
                run = await self._find_run()
                if run is not None:
                    return await follow(self._backend, self._flight.ref, run, self._pace)
                break
            except ConversationError as error:
                logger.warning(
                    "the fate of a turn in conversation %s could not be told: %s", self._flight.ref, error.label
                )
                if anyio.current_time() > give_up_at:
                    return self._unknown()
            await anyio.sleep(pause)
            pause = min(pause * 1.5, self._pace.poll_longest)
        return await self._hand_over_again()

    async def _hand_over_again(self) -> Turn:
        """Letta has no trace of the message: it never arrived."""
        if self._flight.run_id:
            return self._unknown()
        if self._repeated:
            raise self._never_taken()
        self._repeated = True
        self._meter.message_resent()
        self._begun_at = datetime.now(UTC)
        return await self._deliver()

    def _never_taken(self) -> ConversationError:
        place = f"conversation_id={self._flight.ref.conversation_id!r}"
        return ServerFault(
            "take the message",
            self._lost.status if self._lost else 0,
            str(self._lost or ""),
            f"It was handed over twice, and Letta has no trace of it: it was not taken, and list_messages({place}) "
            "does not show it. It is safe to send it again later.",
        )

    async def _find_run(self) -> Run | None:
        """The run that took the message: the one that the stream named, the one that stored a message with its otid, or
        one that has failed since, for such a run stores nothing. None when there has been none for long enough."""
        flight = self._flight
        if flight.run_id:
            return await self._backend.get_run(flight.ref, flight.run_id)
        settled_at = anyio.current_time() + self._pace.settle
        pause = self._pace.poll_first
        while True:
            runs = await self._backend.list_runs(flight.ref, limit=RECENT_RUNS)
            for run in runs:
                if run.active:
                    await until_ended(self._backend, flight.ref, run, self._pace)
            newest = await self._backend.list_messages(flight.ref, MessageQuery(limit=RECENT_MESSAGES))
            for message in newest.items:
                if self._message.is_in(message) and message.run_id:
                    return await self._backend.get_run(flight.ref, message.run_id)
            taken = {message.run_id for message in newest.items}
            for run in runs:
                if run.status == "failed" and run.id not in taken and self._is_since(run):
                    return run
            if anyio.current_time() >= settled_at:
                return None
            await anyio.sleep(pause)
            pause = min(pause * 1.5, self._pace.poll_longest)

    def _is_since(self, run: Run) -> bool:
        """Whether a run was made after the message was handed over. Mistaken for ours, another's failed run does no
        harm: what the reader is told then, that nothing was stored, holds for this message too."""
        try:
            created = datetime.fromisoformat(run.created_at)
        except ValueError:
            return False
        if created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        return created >= self._begun_at - CLOCK_TOLERANCE
