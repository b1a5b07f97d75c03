"""Turns in flight: sent, waited for, left to run, found again.

Owns the task of every turn: it belongs to the server's task group and not to the call that began it, so a call that
gives up, or is cancelled, leaves the turn running. One turn at a time runs in a conversation; a further message waits
for its place in the order of arrival. Nothing is kept of a turn that has ended: Letta has it, and is asked.

A message is handed over once. When the connection breaks after that, Letta is asked what became of it, by run id or by
the message's otid, and only when that cannot be told is the status "unknown".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.core.backend import Backend, StreamLost
from letta_conversations_mcp.core.errors import AwaitingApproval, Busy, ConversationError, NoReply, ServerFault
from letta_conversations_mcp.core.model import ConversationRef, MessageQuery, OutgoingMessage, Run, Turn
from letta_conversations_mcp.core.turn import TurnBuilder

logger = logging.getLogger(__name__)

Report = Callable[[str], Awaitable[None]]
"""Tells the caller in words how a turn is getting on."""

HANDING_OVER = "handing the message over"

RECENT_RUNS = 10
"""How many of a conversation's newest runs are looked at to find a turn again: some of them took no message."""

RECENT_MESSAGES = 40
"""How many of the newest messages are searched for a message's otid: more than one turn with its tool calls stores."""


@dataclass(frozen=True)
class Pace:
    """How often to look and to tell, in seconds."""

    report_at_most_every: float = 1.0
    report_at_least_every: float = 10.0
    poll_first: float = 0.3
    poll_longest: float = 3.0


class Flight:
    """One turn in flight, as the calls that wait for it see it."""

    def __init__(self, ref: ConversationRef, *, otid: str = "", run: Run | None = None) -> None:
        self.ref = ref
        self.otid = otid
        self.run = run
        """The run of a turn that this process did not send; it is asked after only while somebody waits."""
        self.builder = TurnBuilder()
        self.landed = anyio.Event()
        self.begun = run is not None
        """Whether the message is being handed over, or has been."""
        self.withdrawn = False
        self.waiting_for = "asking Letta for the reply" if run else HANDING_OVER
        self._outcome: Turn | ConversationError | None = None
        self._changed = anyio.Event()
        if run:
            self.builder.run_id = run.id

    @property
    def run_id(self) -> str:
        return self.builder.run_id

    @property
    def doing(self) -> str:
        return self.waiting_for or self.builder.doing

    async def changed(self) -> None:
        """Wait for the next news of this turn."""
        await self._changed.wait()

    def note(self) -> None:
        """Tell those who wait that there is news."""
        self._changed.set()
        self._changed = anyio.Event()

    def withdraw(self) -> bool:
        """Take the message back if it has not been handed over; whether that was so."""
        self.withdrawn = not self.begun
        return self.withdrawn

    def land(self, outcome: Turn | ConversationError) -> None:
        self._outcome = outcome
        self.landed.set()
        self.note()

    def result(self) -> Turn:
        """The turn as it stands: final once landed, else "running". Raises what the send raised."""
        if isinstance(self._outcome, ConversationError):
            raise self._outcome
        if self._outcome is not None:
            return self._outcome
        return self.builder.build().model_copy(update={"status": "running"})


class _Lane:
    """One conversation's order: who is next."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.flights: list[Flight] = []


class Sender:
    """Sends messages and follows their turns. Made by `open_sender`, which gives it the task group it works in."""

    def __init__(self, backend: Backend, tasks: TaskGroup, pace: Pace) -> None:
        self._backend = backend
        self._tasks = tasks
        self._pace = pace
        self._lanes: dict[ConversationRef, _Lane] = {}

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> Flight:
        """Start a turn and return at once."""
        flight = Flight(ref, otid=message.otid)
        lane = self._lanes.setdefault(ref, _Lane())
        if lane.flights:
            flight.waiting_for = "waiting for the turn before it in this conversation"
        lane.flights.append(flight)
        self._tasks.start_soon(self._fly, lane, flight, message)
        return flight

    def in_flight(self, ref: ConversationRef, run_id: str = "") -> Flight | None:
        """The turn that this process runs in a conversation: that of the run, or the one sent last."""
        lane = self._lanes.get(ref)
        flights = [each for each in lane.flights if each.begun and run_id in ("", each.run_id)] if lane else []
        return flights[-1] if flights else None

    async def find(self, ref: ConversationRef, run_id: str = "") -> Flight:
        """The turn of a run, or the newest turn of a conversation: here, or wherever it was started, running or ended.

        Raises:
            NotFound: there is no such run.
            NoReply: no turn has run in this conversation.
        """
        if flight := self.in_flight(ref, run_id):
            return flight
        if run_id:
            run = await self._backend.get_run(ref, run_id)
        else:
            runs = await self._backend.list_runs(ref, limit=RECENT_RUNS)
            if not runs:
                raise NoReply(str(ref))
            taken = [each for each in runs if not (each.failure and each.failure.awaits_approval)]
            run = next((each for each in taken if each.active), (taken or runs)[0])
        return Flight(ref, run=run)

    async def send_and_wait(
        self, ref: ConversationRef, message: OutgoingMessage, seconds: float, report: Report
    ) -> Turn:
        """Send a message and wait for its turn as `wait` does.

        A message whose place has not come by then, or whose caller has gone, is withdrawn: it would be lost with this
        process, and its caller would take the reply before it for its own.

        Raises:
            Busy: the place did not come; nothing was sent.
        """
        flight = self.send(ref, message)
        try:
            turn = await self.wait(flight, seconds, report)
        finally:
            withdrawn = flight.withdraw()
        if withdrawn:
            running = self.in_flight(ref)
            raise Busy(ref.conversation_id, running.run_id if running else "")
        return turn

    async def wait(self, flight: Flight, seconds: float, report: Report) -> Turn:
        """Wait up to `seconds` for the turn's end, reporting; then give it as it stands.

        Cancelling this ends the wait and nothing else.
        """
        started = anyio.current_time()
        told = flight.doing
        await report(f"{told}, 0 s")
        if flight.run is None:
            # Most turns of a quick model end before a second report is due: no task for those.
            with anyio.move_on_after(min(seconds, self._pace.report_at_most_every)):
                await flight.landed.wait()
            if flight.landed.is_set():
                return flight.result()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._keep_reporting, flight, report, started, told)
            if flight.run is not None:
                waiting.start_soon(self._watch, flight, flight.run)
            with anyio.move_on_after(seconds - (anyio.current_time() - started)):
                await flight.landed.wait()
            waiting.cancel_scope.cancel()
        return flight.result()

    async def _keep_reporting(self, flight: Flight, report: Report, started: float, told: str) -> None:
        """Report as soon as there is news, but not too often, and now and then without any."""
        longest = self._pace.report_at_least_every - self._pace.report_at_most_every
        while True:
            await anyio.sleep(max(0.0, started + self._pace.report_at_most_every - anyio.current_time()))
            with anyio.move_on_after(longest):
                while flight.doing == told:
                    await flight.changed()
            told = flight.doing
            await report(f"{told}, {anyio.current_time() - started:.0f} s")
            await anyio.sleep(self._pace.report_at_most_every)

    async def _fly(self, lane: _Lane, flight: Flight, message: OutgoingMessage) -> None:
        """One turn from its place in the order to its end. The boundary at which whatever goes wrong becomes its
        outcome: an exception that left it would end every other turn in the group."""
        outcome: Turn | ConversationError = _unexplained(flight)
        try:
            async with lane.lock:
                if not flight.withdrawn:
                    outcome = await self._run_turn(flight, message)
        except ConversationError as error:
            outcome = error
        except Exception:
            logger.exception("a turn in conversation %s ended in an unexpected error", flight.ref)
        finally:
            lane.flights.remove(flight)
            if not lane.flights:
                del self._lanes[flight.ref]
            flight.land(outcome)

    async def _run_turn(self, flight: Flight, message: OutgoingMessage) -> Turn:
        flight.begun = True
        flight.waiting_for = HANDING_OVER
        flight.note()
        try:
            async with self._backend.send(flight.ref, message) as chunks:
                async for chunk in chunks:
                    flight.waiting_for = ""
                    flight.builder.add(chunk)
                    flight.note()
                if flight.builder.ended and not _awaits_approval(flight):
                    # Before the connection is tidied up, for which nobody has to wait.
                    flight.land(flight.builder.build())
        except StreamLost as lost:
            logger.warning("the stream of a turn in conversation %s was lost: %s", flight.ref, lost)
        if _awaits_approval(flight):
            raise AwaitingApproval(flight.ref.conversation_id)
        if flight.builder.ended:
            return flight.builder.build()
        return await self._recover(flight)

    async def _recover(self, flight: Flight) -> Turn:
        """What became of a turn whose stream ended before the turn did."""
        flight.waiting_for = "the connection was lost; asking Letta for the reply"
        flight.note()
        try:
            run = await self._run_of(flight)
            if run is None:
                return flight.builder.build().model_copy(update={"status": "unknown"})
            return await self._follow(flight.ref, run)
        except ConversationError as error:
            logger.warning("the fate of a turn in conversation %s could not be told: %s", flight.ref, error)
            return flight.builder.build().model_copy(update={"status": "unknown"})

    async def _run_of(self, flight: Flight) -> Run | None:
        """The run that took the message: the one that the stream named, or the one that stored a message with its
        otid."""
        if flight.run_id:
            return await self._backend.get_run(flight.ref, flight.run_id)
        for run in await self._backend.list_runs(flight.ref, limit=RECENT_RUNS):
            if run.active:
                await self._until_ended(flight.ref, run)
        newest = await self._backend.list_messages(flight.ref, MessageQuery(limit=RECENT_MESSAGES))
        for message in newest.items:
            if message.otid == flight.otid and message.run_id:
                return await self._backend.get_run(flight.ref, message.run_id)
        return None

    async def _watch(self, flight: Flight, run: Run) -> None:
        try:
            flight.land(await self._follow(flight.ref, run))
        except ConversationError as error:
            flight.land(error)

    async def _follow(self, ref: ConversationRef, run: Run) -> Turn:
        """Wait for a run's end by asking, and build its turn from what it stored."""
        run = await self._until_ended(ref, run)
        builder = TurnBuilder()
        builder.run_id = run.id
        for chunk in await self._backend.list_run_chunks(ref, run.id):
            builder.add(chunk)
        builder.failure = run.failure
        ends = {"failed": "error", "cancelled": "cancelled"}
        builder.stop_reason = run.stop_reason or ends.get(run.status, "end_turn")
        return builder.build()

    async def _until_ended(self, ref: ConversationRef, run: Run) -> Run:
        pause = self._pace.poll_first
        while run.active:
            await anyio.sleep(pause)
            pause = min(pause * 1.5, self._pace.poll_longest)
            run = await self._backend.get_run(ref, run.id)
        return run


def _awaits_approval(flight: Flight) -> bool:
    return flight.builder.failure is not None and flight.builder.failure.awaits_approval


def _unexplained(flight: Flight) -> ServerFault:
    """What a wait gets when the turn's own task failed, or the server is going down."""
    return ServerFault(
        "follow this turn",
        500,
        "",
        f"The turn itself may go on. Call wait_for_reply(conversation_id={flight.ref.conversation_id!r}) to look; "
        "do not send the message again before that.",
    )


@asynccontextmanager
async def open_sender(backend: Backend, pace: Pace | None = None) -> AsyncGenerator[Sender]:
    """A sender whose turns live as long as this context. Leaving it ends the waiting for them, not the turns
    themselves."""
    async with anyio.create_task_group() as tasks:
        try:
            yield Sender(backend, tasks, pace or Pace())
        finally:
            tasks.cancel_scope.cancel()
