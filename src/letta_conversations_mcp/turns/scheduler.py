"""Turns in flight: sent, waited for, left to run, found again.

Owns the task of every turn: it belongs to the server's task group and not to the call that began it, so a call that
gives up, or is cancelled, leaves the turn running. One turn at a time runs in a conversation; a further message waits
for its place in the order of arrival, and for a turn that somebody else has begun. A message that comes once more while
its turn runs, or before anybody was told how it ended, is not sent a second time: its caller had given up, and tries
again. Nothing else is kept of a turn that has ended: Letta has it, and is asked.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import (
    Busy,
    ConversationError,
    Overloaded,
    ServerFault,
    ShuttingDown,
)
from letta_conversations_mcp.core.model import ConversationRef, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.turns.delivery import Delivery
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.handle import WITHDRAWN, Flight
from letta_conversations_mcp.turns.idempotency import Unread
from letta_conversations_mcp.turns.instrumentation import SILENT, Meter
from letta_conversations_mcp.turns.message_ids import new_otid
from letta_conversations_mcp.turns.recovery import follow, newest_run, run_of_same, until_free
from letta_conversations_mcp.turns.timing import Pace

logger = logging.getLogger(__name__)

Report = Callable[[str], Awaitable[None]]
"""Tells the caller in words how a turn is getting on."""

QUEUED = "waiting for the turn before it in this conversation"
FULL = "waiting for one of the turns on this server to end"


@dataclass(frozen=True)
class TurnLimits:
    """How many turns run at the same time, how many messages may wait for that, and how many of both a caller has who
    is known by name."""

    running: int = 100
    queued: int = 200
    per_caller: int = 300


class _Lane:
    """One conversation's order: who is next."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.flights: list[Flight] = []


class Sender:
    """Sends messages and follows their turns. Made by `open_sender`, which gives it the task group it works in."""

    def __init__(
        self, backend: Backend, tasks: TaskGroup, pace: Pace, *, limits: TurnLimits, meter: Meter, drain: Drain
    ) -> None:
        self._backend = backend
        self._tasks = tasks
        self._pace = pace
        self._limits = limits
        self._places = anyio.Semaphore(limits.running)
        self._meter = meter
        self._drain = drain
        self._lanes: dict[ConversationRef, _Lane] = {}
        self._unread = Unread()
        self._hands_over = False
        self._caller = ""

    def handing_over(self) -> Sender:
        """The same turns, for a caller who waits by other means as soon as there is a run to ask for: `wait` ends
        then, though not before a first report would be due."""
        own = copy(self)
        own._hands_over = True
        return own

    def on_behalf_of(self, caller: str, backend: Backend) -> Sender:
        """The same turns in the same order, as a caller sends and asks for them: through a backend of their own, and
        counted as theirs."""
        own = copy(self)
        own._backend = backend
        own._caller = caller
        return own

    def send(self, ref: ConversationRef, message: Outgoing, *, wait_if_busy: bool = True) -> Flight:
        """Start a turn and return at once.

        Raises:
            Busy: another turn of this process runs in the conversation, and it shall not be waited for.
            Overloaded: there are too many turns.
        """
        if self.is_busy(ref) and not wait_if_busy:
            raise Busy(ref.conversation_id, self._lanes[ref].flights[0].run_id)
        self._check_room()
        if isinstance(message, OutgoingMessage) and not message.otid:
            message = message.model_copy(update={"otid": new_otid(message, self._caller)})
        self._unread.forget(ref)
        lane = self._lanes.setdefault(ref, _Lane())
        flight = Flight(ref, message=message, waits_if_busy=wait_if_busy, caller=self._caller)
        lane.flights.append(flight)
        self._tasks.start_soon(self._fly, lane, flight, message)
        return flight

    def _check_room(self) -> None:
        flights = [flight for lane in self._lanes.values() for flight in lane.flights]
        if len(flights) >= self._limits.running + self._limits.queued:
            raise Overloaded(f"{len(flights)} turns are running or waiting on this server")
        own = sum(flight.caller == self._caller for flight in flights)
        if self._caller and own >= self._limits.per_caller:
            raise Overloaded(f"{own} of your turns are running or waiting")

    def in_flight(self, ref: ConversationRef, run_id: str = "") -> Flight | None:
        """The turn that this process runs in a conversation: that of the run, or the one sent last."""
        lane = self._lanes.get(ref)
        flights = [each for each in lane.flights if each.begun and run_id in ("", each.run_id)] if lane else []
        return flights[-1] if flights else None

    def is_busy(self, ref: ConversationRef) -> bool:
        """Whether this process has a message for a conversation, sent or queued, whose turn has not ended."""
        return ref in self._lanes

    def messages_to(self, agent_id: str, conversation_id: str = "") -> list[str]:
        """The texts of the messages that an agent is answering now through this process, whichever caller sent them: to
        be shown only to those who see the agent."""
        flights = [flight for lane in self._lanes.values() for flight in lane.flights if flight.begun]
        return [
            flight.message.text
            for flight in flights
            if isinstance(flight.message, OutgoingMessage)
            and flight.ref.agent_id == agent_id
            and conversation_id in ("", flight.ref.conversation_id)
        ]

    def withdraw_queued(self, ref: ConversationRef) -> int:
        """Take back every message that waits for its place in a conversation; how many there were."""
        lane = self._lanes.get(ref)
        taken_back = [each for each in lane.flights if each.withdraw()] if lane else []
        for flight in taken_back:
            flight.land_stopped(WITHDRAWN)
        return len(taken_back)

    async def tell_stopped(self, ref: ConversationRef, run_ids: Collection[str], seconds: float) -> None:
        """Answer those who wait for runs that were stopped, and wait a while for the streams to end: Letta stores what
        the model was saying when its call ends."""
        lane = self._lanes.get(ref)
        stopped = [each for each in lane.flights if each.begun and each.run_id in run_ids] if lane else []
        for flight in stopped:
            flight.land_stopped("cancelled")
        with anyio.move_on_after(seconds):
            for flight in stopped:
                await flight.ended.wait()

    async def find(self, ref: ConversationRef, run_id: str = "") -> Flight:
        """The turn of a run, or the newest turn of a conversation: here, or wherever it was started, running or ended.

        Raises:
            NotFound: there is no such run.
            NoReply: no turn has run in this conversation.
        """
        if flight := self.in_flight(ref, run_id):
            return flight
        run = await self._backend.get_run(ref, run_id) if run_id else await newest_run(self._backend, ref, self._pace)
        return Flight(ref, run=run)

    async def send_and_wait(
        self,
        ref: ConversationRef,
        message: Outgoing,
        seconds: float,
        report: Report,
        *,
        wait_if_busy: bool = True,
    ) -> Turn:
        """Send a message, or decisions, and wait for its turn as `wait` does; or for the turn that the same message of
        this caller has begun, if nobody was told how that ended.

        A message whose place has not come by then, or whose caller has gone, is withdrawn: it would be lost with this
        process, and its caller would take the reply before it for its own.

        Raises:
            Busy, Overloaded: the place did not come, or shall not be waited for; nothing was sent.
            ShuttingDown: nor will it come any more; nothing was sent.
        """
        repeated = self._begun_before(ref, message)
        flight = repeated or self.send(ref, message, wait_if_busy=wait_if_busy)
        try:
            turn = await self.wait(flight, seconds, report)
        finally:
            is_queued = not flight.landed.is_set() and not flight.begun
            if is_queued and not flight.listeners:
                flight.withdraw()
        if is_queued:
            if self._drain.begun:
                raise ShuttingDown
            running = self.in_flight(ref)
            raise flight.obstacle or Busy(ref.conversation_id, running.run_id if running else "")
        is_repeated = repeated is not None or flight.taken_up
        return turn.model_copy(update={"repeated": True}) if is_repeated else turn

    def opened_before(self, agent_id: str, message: OutgoingMessage) -> ConversationRef | None:
        """The conversation that was opened with an agent for the same message, if that caller has gone without a reply:
        it does not know the conversation, and would open another one."""
        flights = [*(flight for lane in self._lanes.values() for flight in lane.flights), *self._unread.all()]
        left = (each for each in flights if each.opened and not each.listeners and each.ref.agent_id == agent_id)
        return next((each.ref for each in left if each.is_of(message, self._caller)), None)

    def _begun_before(self, ref: ConversationRef, message: Outgoing) -> Flight | None:
        """The turn of the same message: running or queued, or ended without anybody being told."""
        flights = self._lanes[ref].flights if self.is_busy(ref) else ()
        running = next((each for each in flights if each.is_of(message, self._caller)), None)
        return running or self._unread.find(ref, message, self._caller)

    async def wait(self, flight: Flight, seconds: float, report: Report) -> Turn:
        """Wait up to `seconds` for the turn's end, reporting; then give it as it stands. When the server goes down,
        that is as soon as Letta has the message.

        A wait that is over before Letta has the message goes on until then, though not without a bound: what is told to
        be running is found by every process, and is not lost with this one.

        Cancelling this ends the wait and nothing else.
        """
        flight.listeners += 1
        try:
            turn = await self._wait(flight, seconds, report)
            if flight.landed.is_set():
                flight.told = True
                self._unread.forget(flight.ref)
            return turn
        finally:
            flight.listeners -= 1

    async def _wait(self, flight: Flight, seconds: float, report: Report) -> Turn:
        started = anyio.current_time()
        told = flight.doing
        await report(f"{told}, 0 s")
        if flight.run is None:
            # Most turns of a quick model end before a second report is due: no task for those.
            with self._drain.patience(min(seconds, self._pace.report_at_most_every)):
                await flight.landed.wait()
            if flight.landed.is_set():
                return flight.result()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._keep_reporting, flight, report, started, told)
            if flight.run is not None:
                waiting.start_soon(self._watch, flight, flight.run)
            elif self._hands_over:
                waiting.start_soon(self._until_known, flight, waiting.cancel_scope)
            with self._drain.patience(seconds - (anyio.current_time() - started)):
                await flight.landed.wait()
            with self._drain.patience(self._pace.confirm - (anyio.current_time() - started)):
                await self._until_taken(flight)
            waiting.cancel_scope.cancel()
        if self._drain.begun and not await self._is_taken(flight):
            return flight.result().model_copy(update={"status": "unknown"})
        return flight.result()

    async def settle(self) -> None:
        """Wait until Letta has every message that is being handed over, or until the server has to go down."""
        for flight in [each for lane in self._lanes.values() for each in lane.flights]:
            await self._is_taken(flight)

    async def _is_taken(self, flight: Flight) -> bool:
        """Whether Letta has told of the turn, so that it goes on without this process."""
        with anyio.move_on_after(self._drain.seconds_left):
            await self._until_taken(flight)
        return bool(flight.run_id) or flight.landed.is_set() or not flight.begun

    async def _until_taken(self, flight: Flight) -> None:
        """Until Letta has told of the turn. A message that is queued is not waited for: it is taken back."""
        while flight.begun and not flight.run_id and not flight.landed.is_set():
            await flight.changed()

    async def _until_known(self, flight: Flight, waiting: anyio.CancelScope) -> None:
        while not flight.run_id:
            await flight.changed()
        waiting.cancel()

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

    async def _fly(self, lane: _Lane, flight: Flight, message: Outgoing) -> None:
        with self._meter.turn(flight):
            await self._take_off(lane, flight, message)

    async def _take_off(self, lane: _Lane, flight: Flight, message: Outgoing) -> None:
        """One turn from its place in the order to its end. The boundary at which whatever goes wrong becomes its
        outcome: an exception that left it would end every other turn in the group."""
        outcome: Turn | ConversationError = _unexplained(flight)
        try:
            async with AsyncExitStack() as places:
                if await self._has_its_turn(lane, flight, places):
                    outcome = await self._deliver(flight, message)
        except ConversationError as error:
            outcome = error
        except Exception:
            logger.exception("a turn in conversation %s ended in an unexpected error", flight.ref)
        except anyio.get_cancelled_exc_class():
            flight.left = flight.begun
            raise
        finally:
            lane.flights.remove(flight)
            if not lane.flights:
                del self._lanes[flight.ref]
            flight.land(outcome)
            self._unread.keep(flight)
            flight.ended.set()

    async def _has_its_turn(self, lane: _Lane, flight: Flight, places: AsyncExitStack) -> bool:
        """Wait for the message's place in its conversation, and then for one among the turns that may run; False when
        it was withdrawn before."""
        with flight.queueing(QUEUED if lane.lock.locked() else flight.waiting_for):
            await places.enter_async_context(lane.lock)
        if self._places.value == 0 and not flight.withdrawn:
            with flight.queueing(FULL, Overloaded("as many turns are running on this server as may")):
                await places.enter_async_context(self._places)
        elif not flight.withdrawn:
            await places.enter_async_context(self._places)
        return not flight.withdrawn

    async def _deliver(self, flight: Flight, message: Outgoing) -> Turn:
        """Deliver the message as soon as its conversation is free, and once more when Letta could not be reached."""
        patient = True
        while True:
            flight.begin()
            try:
                return await Delivery(self._backend, flight, message, self._pace, self._meter).run()
            except Busy as busy:
                if run := await self._settle_busy(flight, message, busy):
                    flight.take_up(run)
                    return await Delivery(self._backend, flight, message, self._pace, self._meter).follow()
            except ConversationError as error:
                if error.try_again_after is None or not patient:
                    raise
                patient = False
                with flight.queueing("Letta cannot take the message now; trying again soon", error):
                    await anyio.sleep(error.try_again_after)
            if flight.withdrawn:
                return flight.builder.build()

    async def _settle_busy(self, flight: Flight, message: Outgoing, busy: Busy) -> Run | None:
        """Wait until the conversation is free. Gives the run that held it when that has this very message, from another
        process; as soon as that shows."""
        run = await run_of_same(self._backend, flight.ref, message, busy)
        if run is None:
            if not flight.waits_if_busy:
                raise busy
            with flight.queueing("waiting for somebody else's turn in this conversation", busy):
                await until_free(self._backend, flight.ref, busy, self._pace)
                run = await run_of_same(self._backend, flight.ref, message, busy)
        return None if flight.withdrawn else run

    async def _watch(self, flight: Flight, run: Run) -> None:
        try:
            flight.land(await follow(self._backend, flight.ref, run, self._pace))
        except ConversationError as error:
            flight.land(error)


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
async def open_sender(
    backend: Backend,
    pace: Pace | None = None,
    *,
    limits: TurnLimits | None = None,
    meter: Meter = SILENT,
    drain: Drain | None = None,
) -> AsyncGenerator[Sender]:
    """A sender whose turns live as long as this context. Leaving it ends the waiting for them, not the turns
    themselves."""
    async with anyio.create_task_group() as tasks:
        try:
            yield Sender(
                backend, tasks, pace or Pace(), limits=limits or TurnLimits(), meter=meter, drain=drain or Drain()
            )
        finally:
            tasks.cancel_scope.cancel()
