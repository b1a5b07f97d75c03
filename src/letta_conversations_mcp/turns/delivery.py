"""One message, handed over once, and its turn followed to the end.

If the connection breaks after the hand-over, the stream is resumed by its run id; without one, Letta is searched for
the message first. The message is handed over again, under the same otid, only if Letta has no trace of it. What is in
its way then may be its own turn, which a busy server shows late: such a refusal is believed only if the message cannot
be found afterwards either. The status is `unknown` only if Letta cannot be reached at all.

A resumed stream proves little: the server that reads it for us sends pings even if the run died with an earlier server
process (0.16.8), and chunks that Redis lost are missing. So only numbered chunks count as signs of life, and after a
gap the run is polled instead.

Cancelling a delivery stops following the turn; the turn itself goes on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from letta_conversations_mcp.core.backend import Backend, NotResumable, StreamLost
from letta_conversations_mcp.core.errors import (
    AwaitingApproval,
    Busy,
    ConversationError,
    Refused,
    ServerFault,
    TimedOut,
)
from letta_conversations_mcp.core.message_json import int_field, read_message
from letta_conversations_mcp.core.model import Approvals, Chunk, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.turns.aggregate import TurnBuilder
from letta_conversations_mcp.turns.instrumentation import Meter
from letta_conversations_mcp.turns.recovery import died, find_run, follow, until_free
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import ASKING, TrackedTurn

logger = logging.getLogger(__name__)

RESUMPTIONS = 3
"""How many times in a row a stream is resumed without delivering anything before the run is polled instead."""


@dataclass
class _Life:
    """The last sign of life of a run: the number of its last chunk, how many chunks it had stored, and since when that
    has been so, in seconds on the event loop's clock."""

    seq: int
    stored: int | None = None
    since: float = field(default_factory=anyio.current_time)


class Delivery:
    """The delivery of one message. Call `run` once, `follow` for a turn that has joined a run, or `watch` for a run
    that this process did not send."""

    def __init__(self, backend: Backend, turn: TrackedTurn, timing: Timing, turn_timeout: float, meter: Meter) -> None:
        self._backend = backend
        self._turn = turn
        self._ref = turn.ref
        self._message: Outgoing = turn.message or OutgoingMessage(text="")
        self._timing = timing
        self._turn_timeout = turn_timeout
        self._meter = meter
        self._handed_over_at = datetime.now(UTC)
        self._lost: StreamLost | None = None
        self._has_gap = False
        self._is_lifeless = False

    async def run(self) -> Turn:
        """Hand the message over and return the turn when it has ended.

        Raises:
            ConversationError: Letta did not accept the message. The error says why.
            TimedOut: the turn takes longer than `turn_timeout`.
        """
        lost: StreamLost | None = None
        times = 0
        with self._time_limit():
            while times < 2:
                refusal: ConversationError | None = None
                if times:
                    self._meter.message_resent()
                else:
                    self._handed_over_at = datetime.now(UTC)
                try:
                    await self._consume(self._hand_over(), is_resumed=False)
                    times += 1
                except (Busy, AwaitingApproval, Refused) as error:
                    if not times:
                        raise
                    if isinstance(error, Busy):
                        await until_free(self._backend, self._ref, error, self._timing)
                    else:
                        refusal = error
                if self._builder.ended:
                    return self._finished()
                lost = self._lost or lost
                if turn := await self._recover():
                    return turn
                if refusal is not None:
                    raise refusal
        raise self._never_taken(lost)

    async def follow(self) -> Turn:
        """Return the turn when the run that it joined has ended. Raises as `run` does."""
        with self._time_limit():
            return await self._recover() or self._unknown()

    async def watch(self, run: Run) -> Turn:
        """Return the turn of a run that this process did not start. Its stream, if there is one, shows progress only;
        the result is read from what Letta has stored.

        Raises:
            ConversationError: Letta cannot be asked.
        """
        while run.active and run.keeps_stream and not self._builder.ended:
            try:
                await self._consume(self._resumed())
            except (NotResumable, ConversationError):
                break
            if self._lost is None or self._lost.silent or self._has_gap:
                break
            await anyio.sleep(self._timing.poll_first)
        if self._lost is not None and self._lost.silent and (turn := await self._dead(run)):
            return turn
        return await follow(self._backend, self._ref, await self._backend.get_run(self._ref, run.id), self._timing)

    async def _dead(self, run: Run) -> Turn | None:
        """The turn of a run whose stream shows no sign of life, if Letta lists it as active all the same."""
        if not (await self._backend.get_run(self._ref, run.id)).active:
            return None
        stored = map(read_message, await self._backend.list_run_chunks(self._ref, run.id))
        return died(self._builder, has_message=any(each.kind == "user" for each in stored))

    @contextmanager
    def _time_limit(self) -> Generator[None]:
        with anyio.move_on_after(self._turn_timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise TimedOut(
                "finish the turn",
                self._turn_timeout,
                f"The turn may go on: wait_for_reply({self._ref.in_call}) looks for it, "
                "and cancel stops it. Do not send the message again before that.",
            )

    def _hand_over(self) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        if isinstance(self._message, Approvals):
            return self._backend.respond(self._ref, self._message)
        return self._backend.send(self._ref, self._message)

    @property
    def _builder(self) -> TurnBuilder:
        return self._turn.builder

    def _finished(self) -> Turn:
        failure = self._builder.failure
        if failure is not None and failure.awaits_approval:
            raise AwaitingApproval(self._ref.conversation_id)
        return self._builder.build()

    def _unknown(self) -> Turn:
        return self._builder.build().model_copy(update={"status": "unknown"})

    def _resumed(self) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        return self._backend.resume(self._ref, self._message, run_id=self._turn.run_id, after=self._builder.last_seq)

    async def _consume(
        self, stream: AbstractAsyncContextManager[AsyncIterator[Chunk]], *, is_resumed: bool = True
    ) -> None:
        """Read the stream until the turn ends or the stream breaks."""
        turn, builder = self._turn, self._builder
        self._lost, self._has_gap, self._is_lifeless = None, False, False
        life = _Life(builder.last_seq)
        try:
            async with stream as chunks:
                async for chunk in chunks:
                    if is_resumed and int_field(chunk, "seq_id") > builder.last_seq + 1:
                        self._has_gap = True
                        raise StreamLost("a part of the stream is missing")
                    builder.add(chunk)
                    turn.news()
                    if is_resumed and not await self._is_alive(life):
                        self._is_lifeless = True
                        raise StreamLost(f"no sign of life for {self._timing.silence:g} s", silent=True)
                refused = builder.failure is not None and builder.failure.awaits_approval
                if builder.ended and not refused and turn.run is None:
                    # Before the connection is closed, so that no caller waits for that.
                    turn.finish(builder.build())
        except StreamLost as lost:
            logger.warning("the stream of a turn in conversation %s was lost: %s", self._ref, lost)
            self._lost = lost
            self._meter.stream_lost()
        if not builder.ended:
            turn.news(f"{self._lost or 'the stream ended early'}; asking Letta for the reply")

    async def _is_alive(self, life: _Life) -> bool:
        """False if neither the stream nor what the run has stored has shown anything new for `silence` seconds."""
        now = anyio.current_time()
        if self._builder.last_seq > life.seq:
            life.seq, life.stored, life.since = self._builder.last_seq, None, now
            return True
        if now - life.since < (self._timing.silence / 2 if life.stored is None else self._timing.silence):
            return True
        try:
            stored = len(await self._backend.list_run_chunks(self._ref, self._turn.run_id))
        except ConversationError:
            return True
        if life.stored is not None and stored == life.stored:
            return False
        life.stored, life.since = stored, now if life.stored is not None else life.since
        return True

    async def _recover(self) -> Turn | None:
        """Find the outcome of a turn whose stream ended before the turn did. None if Letta has no trace of the
        message."""
        failures = silences = 0
        while failures < RESUMPTIONS and self._turn.keeps_stream:
            seen = self._builder.last_seq
            try:
                await self._consume(self._resumed())
            except NotResumable:
                break
            except Busy:
                # A server that answers this recognises its messages by their ids, so ours never arrived.
                raise
            except ConversationError as error:
                logger.warning("the stream of a turn in conversation %s cannot be resumed: %s", self._ref, error.label)
            has_news = self._builder.ended or self._builder.last_seq > seen
            if has_news:
                self._meter.stream_resumed()
            if self._builder.ended:
                return self._finished()
            if self._has_gap:
                break
            silences = silences + 1 if self._lost and self._lost.silent else 0
            if silences > 1 or self._is_lifeless:
                # Not even pings arrived, or nothing but pings for too long.
                return await self._ask(is_silent=True)
            failures = 0 if has_news else failures + 1
            await anyio.sleep(self._timing.poll_first * (failures + 1))
        return await self._ask()

    async def _ask(self, *, is_silent: bool = False) -> Turn | None:
        """Poll the run that took the message until it ends, or until Letta has not answered for `give_up` seconds."""
        give_up_at = anyio.current_time() + self._timing.give_up
        pause = self._timing.poll_first
        while True:
            try:
                run = await self._find()
                if run is None:
                    return self._unknown() if self._turn.run_id else None
                self._turn.builder.run_id = run.id
                self._turn.news(ASKING)
                if is_silent and (turn := await self._dead(run)):
                    return turn
                return await follow(self._backend, self._ref, run, self._timing)
            except ConversationError as error:
                logger.warning("the outcome of a turn in conversation %s could not be read: %s", self._ref, error.label)
                if anyio.current_time() > give_up_at:
                    return self._unknown()
            await anyio.sleep(pause)
            pause = min(pause * 1.5, self._timing.poll_longest)

    async def _find(self) -> Run | None:
        if self._turn.run_id:
            return await self._backend.get_run(self._ref, self._turn.run_id)
        return await find_run(self._backend, self._ref, self._message, self._handed_over_at, self._timing)

    def _never_taken(self, lost: StreamLost | None) -> ConversationError:
        return ServerFault(
            "take the message",
            lost.status if lost else 0,
            str(lost or ""),
            f"It was handed over twice, and Letta has no trace of it: it was not taken, and "
            f"list_messages({self._ref.in_call}) does not show it. It is safe to send it again later.",
        )
