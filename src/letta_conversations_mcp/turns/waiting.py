"""How a call waits for a turn: what it reports meanwhile, and when it answers before the turn has ended.

Owns no turn: cancelling a wait ends the wait and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import Run, Turn
from letta_conversations_mcp.turns.delivery import Delivery
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.instrumentation import NO_METER
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import HANDING_OVER, LOOKING_UP, SEARCHING, State, TrackedTurn

Report = Callable[[str], Awaitable[None]]
"""Reports to the caller in words what a turn is doing."""

BEFORE_HAND_OVER = (LOOKING_UP, SEARCHING, HANDING_OVER)
"""What a QUEUED message does while it waits for no other turn. These steps are short, so a call waits a little longer
rather than withdraw its message."""

TAIL_CHARS = 160
"""How much of the growing reply a progress report shows: a line or two."""


@dataclass(frozen=True)
class TurnWait:
    """Waits for turns. With `until_running`, a wait ends as soon as there is a run to poll, but not before the first
    report is due."""

    backend: Backend
    timing: Timing
    drain: Drain
    until_running: bool = False

    async def wait(self, turn: TrackedTurn, seconds: float, report: Report) -> Turn:
        """Wait up to `seconds` for the end of a turn, reporting; then return it as it stands. During a shutdown, return
        as soon as Letta has the message.

        On timeout, wait up to `confirm` seconds from the start for Letta to acknowledge the message, so that a run
        that is reported as running can be found elsewhere; and up to `look_up` seconds for the lookup of its
        conversation.

        Raises what the send raised.
        """
        turn.waiting_calls += 1
        try:
            return await self._wait(turn, seconds, report)
        finally:
            turn.waiting_calls -= 1

    async def is_taken(self, turn: TrackedTurn) -> bool:
        """During a shutdown: wait until Letta has acknowledged the message, as long as the shutdown allows. True if the
        turn goes on without this process, or was not handed over at all."""
        with anyio.move_on_after(self.drain.seconds_left):
            await _until_taken(turn)
        return turn.state is not State.SENDING

    async def _wait(self, turn: TrackedTurn, seconds: float, report: Report) -> Turn:
        started = anyio.current_time()
        reported = turn.doing
        await report(f"{reported}, 0 s")
        if turn.run is None:
            # Most turns of a quick model end before a second report is due: no task for those.
            with self.drain.until_draining(min(seconds, self.timing.report_at_most_every)):
                await turn.ended.wait()
            if turn.state is State.ENDED:
                return turn.result()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._keep_reporting, turn, report, started, reported)
            if turn.run is not None:
                waiting.start_soon(self._follow, turn, turn.run)
            elif self.until_running:
                waiting.start_soon(_cancel_when_running, turn, waiting.cancel_scope)
            with self.drain.until_draining(seconds - (anyio.current_time() - started)):
                await turn.ended.wait()
            if turn.run is not None and not turn.run.active:
                # The run has ended: only its messages still have to be read.
                with self.drain.until_draining(self.timing.look_up - (anyio.current_time() - started)):
                    await turn.ended.wait()
            with self.drain.until_draining(self.timing.look_up - (anyio.current_time() - started)):
                while turn.state is State.QUEUED and turn.doing in BEFORE_HAND_OVER:
                    await turn.changed()
            with self.drain.until_draining(self.timing.confirm - (anyio.current_time() - started)):
                await _until_taken(turn)
            waiting.cancel_scope.cancel()
        if self.drain.begun and not await self.is_taken(turn):
            return turn.result().model_copy(update={"status": "unknown"})
        if turn.state is State.RUNNING and turn.run is None:
            await self._check_cancelled(turn)
        return turn.result()

    async def _check_cancelled(self, turn: TrackedTurn) -> None:
        """Before a turn is reported as running: its stream stays open for a while after another process has cancelled
        it (seen on 0.16.8)."""
        with anyio.move_on_after(self.timing.unseen):
            try:
                run = await self.backend.get_run(turn.ref, turn.run_id)
            except ConversationError:
                return
            if run.status == "cancelled":
                turn.stopped()

    async def _keep_reporting(self, turn: TrackedTurn, report: Report, started: float, reported: str) -> None:
        """Report news at most every `report_at_most_every` seconds, and report at least every `report_at_least_every`
        seconds."""
        longest = self.timing.report_at_least_every - self.timing.report_at_most_every
        while True:
            await anyio.sleep(max(0.0, started + self.timing.report_at_most_every - anyio.current_time()))
            with anyio.move_on_after(longest):
                while _progress(turn) == reported:
                    await turn.changed()
            reported = _progress(turn)
            doing, _, tail = reported.partition("\n")
            await report("\n".join(filter(None, [f"{doing}, {anyio.current_time() - started:.0f} s", tail])))
            await anyio.sleep(self.timing.report_at_most_every)

    async def _follow(self, turn: TrackedTurn, run: Run) -> None:
        """Follow a run that this process did not start."""
        try:
            turn.finish(await Delivery(self.backend, turn, self.timing, float("inf"), NO_METER).watch(run))
        except ConversationError as error:
            turn.finish(error)


async def _until_taken(turn: TrackedTurn) -> None:
    while turn.state is State.SENDING:
        await turn.changed()


async def _cancel_when_running(turn: TrackedTurn, waiting: anyio.CancelScope) -> None:
    while turn.state is not State.RUNNING:
        await turn.changed()
    waiting.cancel()


def _progress(turn: TrackedTurn) -> str:
    """What a turn is doing, and the end of its reply so far on a second line."""
    tail = " ".join(turn.builder.reply_tail(TAIL_CHARS).split())
    return f"{turn.doing}\n{tail}" if tail else turn.doing
