"""The order of turns: who is next in a conversation, and how many turns run at once.

Owns the task of every turn. The task belongs to the server's task group and not to the call that began the turn, so a
call that gives up, or is cancelled, leaves the turn running. Messages to one conversation are handed over first come,
first served, and wait for turns that other clients began. Leaves to others: what a repeated call is (`idempotency`),
waiting for a turn (`waiting`), handing a message over (`delivery`), and finding a turn again (`recovery`). Keeps
nothing of a turn that has ended: Letta has it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import time
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy, ConversationError, Overloaded, ServerFault, ShuttingDown, TimedOut
from letta_conversations_mcp.core.model import ConversationRef, OnBusy, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.delivery import Delivery
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.idempotency import CallIdentity, RecentCalls, may_be_joined
from letta_conversations_mcp.turns.instrumentation import NO_METER, Meter
from letta_conversations_mcp.turns.recovery import find_by_key, find_run, newest_run, run_of_same, until_free
from letta_conversations_mcp.turns.replicas import Replicas, SharedCall
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import HANDING_OVER, LOOKING_UP, SEARCHING, EndReason, State, TrackedTurn
from letta_conversations_mcp.turns.waiting import Report, TurnWait

logger = logging.getLogger(__name__)

Fork = Callable[[ConversationRef], Awaitable[ConversationRef]]
"""Makes a branch of a busy conversation, for a message that does not wait."""

QUEUED = "waiting for the turn before it in this conversation"
FULL = "waiting for one of the turns on this server to end"

NOT_SEARCHED = "The conversation is long: an earlier message with this key was looked for in its newest part only."


@dataclass(frozen=True)
class Send:
    """A message to be sent. `prepare` finds the conversation, or opens one, and returns it with the message; if it
    raises, that is the outcome. It is given the conversation that another replica has found or opened for the message.
    With `on_busy="fork"`, `fork` makes the branch."""

    prepare: Callable[[ConversationRef | None], Awaitable[tuple[ConversationRef, Outgoing]]]
    identity: CallIdentity = field(default_factory=CallIdentity)
    on_busy: OnBusy = "wait"
    fork: Fork | None = None


class _Queue:
    """The messages to one conversation, in the order of their arrival."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.turns: list[TrackedTurn] = []


class Scheduler:
    """Sends messages and follows their turns. Created by `open_scheduler`, which provides its task group."""

    def __init__(
        self,
        backend: Backend,
        tasks: TaskGroup,
        settings: Settings,
        timing: Timing,
        *,
        meter: Meter,
        drain: Drain,
        replicas: Replicas | None = None,
    ) -> None:
        self._backend = backend
        self._tasks = tasks
        self._settings = settings
        self._timing = timing
        self._waiting = TurnWait(backend, timing, drain)
        self._places = anyio.Semaphore(settings.max_turns)
        self._meter = meter
        self._drain = drain
        self._turns: set[TrackedTurn] = set()
        self._queues: dict[ConversationRef, _Queue] = {}
        self._calls = RecentCalls()
        self._replicas = replicas
        self._shared: WeakKeyDictionary[TrackedTurn, SharedCall] = WeakKeyDictionary()
        """What the other replicas know of the calls that began a turn, for as long as these may be made again here."""
        if replicas is not None:
            replicas.take_back = self._take_back_queued
            replicas.stop_waiting = self._report_stopped
        self._started_at = datetime.now(UTC)
        self._caller = ""

    def until_running(self) -> Scheduler:
        """A view of this scheduler whose `wait` ends as soon as there is a run to ask for, though not before a first
        report would be due: for callers that poll, as tasks do."""
        own = copy(self)
        own._waiting = replace(self._waiting, until_running=True)
        return own

    def on_behalf_of(self, caller: str, backend: Backend) -> Scheduler:
        """A view of this scheduler for one caller: it uses the caller's backend, and counts turns towards the caller's
        limit. The queues are shared."""
        own = copy(self)
        own._backend = backend
        own._waiting = replace(self._waiting, backend=backend)
        own._caller = caller
        return own

    @property
    def caller(self) -> str:
        """The name of the caller, "" without tokens."""
        return self._caller

    # Sending

    async def send_and_wait(self, send: Send, seconds: float, report: Report) -> tuple[Turn, TrackedTurn]:
        """Send a message and wait up to `seconds` for its turn, or for the turn of an earlier call that this one
        repeats. Returns the turn as it stands, and the tracked turn.

        A message that was not handed over by then, or whose callers have gone, is withdrawn: it would be lost if this
        process ended.

        Raises:
            ConversationError: the message was not accepted. The error says why, and what is safe.
        """
        earlier = await self._calls.find(send.identity)
        shared = self._replicas if earlier is None and _is_shared(send) else None
        call, left = await shared.begin(send.identity) if shared else (None, None)
        turn = earlier or self.start(send, left)
        if call is not None:
            self._shared[turn] = call
        self._calls.waits(turn, send.identity)
        answered = False
        try:
            result = await self.wait(turn, seconds, report)
            answered = True
        except Exception:
            answered = True
            raise
        finally:
            if answered:
                self._calls.answered(turn, send.identity)
            else:
                self._calls.abandoned(turn, send.identity)
            not_sent = self._not_sent(turn, seconds) if turn.state is State.QUEUED else None
            if not_sent is not None and not turn.waiting_calls:
                turn.withdraw()
            if not turn.waiting_calls:
                # What another replica handed over and this one has not found is there for the next call.
                self._tell_replicas(turn, send, answered=answered and not (left and not_sent))
        if not_sent is not None:
            raise not_sent
        is_repeated = earlier is not None or turn.joined
        return result.model_copy(update={"repeated": True}) if is_repeated else result, turn

    def start(self, send: Send, left: SharedCall | None = None) -> TrackedTurn:
        """Start sending a message and return at once. `left` is the same message at another replica.

        Raises:
            Overloaded: there are too many turns.
        """
        if len(self._turns) >= self._settings.max_turns + self._settings.max_queued:
            raise Overloaded(f"{len(self._turns)} turns are running or waiting on this server")
        if self._caller:
            own = sum(each.caller == self._caller for each in self._turns)
            if own >= self._settings.max_per_caller:
                raise Overloaded(f"{own} of your turns are running or waiting")
        turn = TrackedTurn(None, caller=self._caller)
        self._turns.add(turn)
        self._calls.add(send.identity, turn)
        self._tasks.start_soon(self._run, turn, send, left)
        return turn

    def _not_sent(self, turn: TrackedTurn, seconds: float) -> ConversationError:
        """The error for a message that is still QUEUED at the end of its call, and is withdrawn."""
        if self._drain.begun:
            return ShuttingDown("Nothing was sent")
        if turn.obstacle is not None:
            return turn.obstacle
        if not turn.is_addressed:
            return TimedOut("say where the message goes", seconds, "Nothing was sent; the same call can be made again.")
        running = self.find_here(turn.ref)
        return Busy(turn.ref.conversation_id, running.run_id if running else "")

    async def _run(self, turn: TrackedTurn, send: Send, left: SharedCall | None) -> None:
        """One turn, from looking up its conversation to its end."""
        try:
            with _ending(turn):
                await self._prepare(turn, send, left)
            if turn.state is not State.ENDED:
                with self._meter.turn(turn), _ending(turn):
                    if left is None or (result := await self._take_over(turn, left)) is None:
                        while (result := await self._in_order(turn, send)) is None:
                            # Once forked, a message waits in the branch.
                            send = replace(send, on_busy="wait")
                    turn.finish(result)
        finally:
            if not may_be_joined(turn) and turn.end_reason is not EndReason.WITHDRAWN:
                self._tell_replicas(turn, send, answered=True)
            self._turns.discard(turn)
            turn.drained.set()

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
            run = await find_run(self._backend, turn.ref, message, since, self._timing)
            if run is not None and run.status not in ("failed", "cancelled"):
                turn.join(run)
            elif run is not None:
                # Letta answers an otid that it knows with the old run.
                turn.address(turn.ref, message.model_copy(update={"otid": CallIdentity().otid(turn.ref)}))
        if turn.state is State.ENDED:
            return turn.result()
        return await self._delivery(turn).follow() if turn.joined else None

    def _tell_replicas(self, turn: TrackedTurn, send: Send, *, answered: bool) -> None:
        """That a call was answered, or given up by its client. What was not handed over is nothing to join."""
        call = self._shared.get(turn)
        if self._replicas is None or call is None:
            return
        if answered or not call.at:
            self._shared.pop(turn)
            self._tasks.start_soon(self._replicas.forget, send.identity, call)
        else:
            call.abandoned = True
            self._tasks.start_soon(self._replicas.keep, send.identity, call)

    async def _tell_where(self, turn: TrackedTurn, send: Send) -> None:
        """Let the replicas know where a message goes, before it is handed over."""
        if (
            self._replicas is not None
            and (call := self._shared.get(turn))
            and isinstance(turn.message, OutgoingMessage)
        ):
            call.at, call.otid = time(), turn.message.otid
            call.ref, call.branch_of = turn.ref, turn.branch_of
            await self._replicas.keep(send.identity, call)

    async def _in_order(self, turn: TrackedTurn, send: Send) -> Turn | None:
        """Wait until it is this message's turn in its conversation and among all turns, then deliver it. None if the
        message now goes to a branch."""
        ref = turn.ref
        queue = self._queues.setdefault(ref, _Queue())
        try:
            if queue.turns and send.on_busy != "wait":
                return await self._leave(turn, send, Busy(ref.conversation_id, queue.turns[0].run_id))
            queue.turns.append(turn)
            async with AsyncExitStack() as places:
                with turn.queueing(QUEUED if queue.lock.locked() else HANDING_OVER):
                    await places.enter_async_context(queue.lock)
                if turn.state is not State.ENDED and self._places.value == 0:
                    with turn.queueing(FULL, Overloaded("as many turns are running on this server as may")):
                        await places.enter_async_context(self._places)
                elif turn.state is not State.ENDED:
                    await places.enter_async_context(self._places)
                return turn.result() if turn.state is State.ENDED else await self._deliver(turn, send)
        finally:
            if turn in queue.turns:
                queue.turns.remove(turn)
            if not queue.turns:
                self._queues.pop(ref, None)

    async def _leave(self, turn: TrackedTurn, send: Send, busy: Busy) -> None:
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
                found = await find_by_key(self._backend, turn.ref, send.identity, turn.message, self._timing)
                turn.address(turn.ref, found.message)
                if found.run is not None:
                    turn.join(found.run)
                turn.note = "" if found.is_whole else NOT_SEARCHED
            if turn.joined:
                return await self._delivery(turn).follow()
        patient = True
        while turn.state is not State.ENDED:
            with turn.queueing(HANDING_OVER, turn.obstacle):
                await self._tell_where(turn, send)
            if turn.end_reason is not None:
                break
            turn.move(State.SENDING, waiting_for=HANDING_OVER)
            try:
                return await self._delivery(turn).run()
            except Busy as busy:
                with turn.queueing("waiting for somebody else's turn in this conversation", busy):
                    if run := await self._run_of_same(turn, send, busy):
                        turn.join(run)
                    elif send.on_busy == "wait":
                        await until_free(self._backend, turn.ref, busy, self._timing)
                        # The turn that just ended may have been of this message, sent by another process.
                        if run := await self._run_of_same(turn, send, busy):
                            turn.join(run)
                if turn.joined:
                    return await self._delivery(turn).follow()
                if send.on_busy != "wait":
                    return await self._leave(turn, send, busy)
            except ConversationError as error:
                if error.try_again_after is None or not patient:
                    raise
                patient = False
                with turn.queueing("Letta cannot take the message now; trying again soon", error):
                    await anyio.sleep(error.try_again_after)
        return turn.result()

    def _delivery(self, turn: TrackedTurn) -> Delivery:
        return Delivery(self._backend, turn, self._timing, self._settings.turn_timeout, self._meter)

    async def _run_of_same(self, turn: TrackedTurn, send: Send, busy: Busy) -> Run | None:
        assert turn.message is not None  # noqa: S101
        return await run_of_same(
            self._backend, turn.ref, turn.message, busy, send.identity, self._started_at, self._timing
        )

    # Waiting

    async def wait(self, turn: TrackedTurn, seconds: float, report: Report) -> Turn:
        """Wait up to `seconds` for the end of a turn (`waiting.TurnWait`)."""
        return await self._waiting.wait(turn, seconds, report)

    async def settle(self) -> None:
        """Wait until Letta has every message that is being handed over, as long as the shutdown allows."""
        for turn in list(self._turns):
            await self._waiting.is_taken(turn)

    async def stop_following(self) -> list[TrackedTurn]:
        """Before this process ends: withdraw the messages that are queued, and wait until Letta has those that are
        being handed over. Returns the turns that had not ended: those that now have were withdrawn."""
        turns = list(self._turns)
        for turn in turns:
            turn.withdraw()
        await self.settle()
        return turns

    # What runs now

    def is_busy(self, ref: ConversationRef) -> bool:
        """True if this process has a message for a conversation, sent or queued, whose turn has not ended."""
        return ref in self._queues

    def find_here(self, ref: ConversationRef, run_id: str = "") -> TrackedTurn | None:
        """The turn that this process follows in a conversation: that of the run, or the newest."""
        queue = self._queues.get(ref)
        turns = queue.turns if queue else []
        found = [each for each in turns if each.is_handed_over and run_id in ("", each.run_id)]
        return found[-1] if found else None

    async def find_message(self, ref: ConversationRef, identity: CallIdentity) -> TrackedTurn | None:
        """The turn of the message with this key; None if Letta has no trace of the message (yet)."""
        otid = identity.otid(ref)
        queue = self._queues.get(ref)
        for turn in queue.turns if queue else ():
            if isinstance(turn.message, OutgoingMessage) and turn.message.otid == otid:
                return turn
        message = OutgoingMessage(text="", otid=otid)
        found = await find_by_key(self._backend, ref, identity, message, self._timing)
        run = found.run or found.failed
        return TrackedTurn(ref, run=run) if run else None

    async def find(self, ref: ConversationRef, run_id: str = "") -> TrackedTurn:
        """The turn of a run, or the newest turn of a conversation, running or ended, whichever process sent it.

        Raises:
            NotFound: there is no such run.
            NoReply: no turn has run in this conversation.
        """
        if turn := self.find_here(ref, run_id):
            return turn
        run = await self._backend.get_run(ref, run_id) if run_id else await newest_run(self._backend, ref, self._timing)
        return TrackedTurn(ref, run=run)

    def messages_to(self, agent_id: str, conversation_id: str = "") -> list[str]:
        """The texts of the messages that an agent is answering now through this process, from all callers. Show them
        only to callers that can see the agent."""
        return [
            turn.message.text
            for turn in self._turns
            if turn.is_handed_over
            and isinstance(turn.message, OutgoingMessage)
            and turn.ref.agent_id == agent_id
            and conversation_id in ("", turn.ref.conversation_id)
        ]

    # Cancelling

    @property
    def reaches_replicas(self) -> bool:
        """Whether a cancel reaches the other processes that serve the same callers."""
        return self._replicas is not None

    async def withdraw_queued(self, ref: ConversationRef) -> int:
        """Take back every message that waits for its place in a conversation, here and at the replicas; how many there
        were."""
        here = self._take_back_queued(ref)
        return here + (await self._replicas.withdraw(ref) if self._replicas else 0)

    def _take_back_queued(self, ref: ConversationRef) -> int:
        queue = self._queues.get(ref)
        return sum(each.withdraw() for each in list(queue.turns)) if queue else 0

    async def report_stopped(self, ref: ConversationRef, run_ids: Collection[str]) -> None:
        """Answer the calls that wait for these cancelled runs, and wait up to `stopped` seconds for the streams to end:
        Letta stores the unfinished reply when the model's call ends."""
        stopped = self._report_stopped(ref, run_ids)
        if self._replicas:
            await self._replicas.stopped(ref, run_ids)
        with anyio.move_on_after(self._timing.stopped):
            for turn in stopped:
                await turn.drained.wait()

    def _report_stopped(self, ref: ConversationRef, run_ids: Collection[str]) -> Sequence[TrackedTurn]:
        queue = self._queues.get(ref)
        stopped = [each for each in queue.turns if each.run_id in run_ids] if queue else []
        for turn in stopped:
            turn.stopped()
        return stopped


@contextmanager
def _ending(turn: TrackedTurn) -> Generator[None]:
    """Turns every exception of a turn into its outcome: an exception that escaped would cancel all other turns in the
    task group."""
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


def _is_shared(send: Send) -> bool:
    """Whether replicas share what they know of a call. Of a message with a key, Letta itself knows."""
    return bool(send.identity.call) and not send.identity.key


def _unexplained(turn: TrackedTurn) -> ServerFault:
    """The outcome if the turn's own task failed or was cancelled by a shutdown."""
    place = turn.ref.in_call if turn.is_addressed else "conversation_id=…"
    return ServerFault(
        "follow this turn",
        500,
        "",
        f"The turn itself may go on. Call wait_for_reply({place}) to look; do not send the message again before that.",
    )


@asynccontextmanager
async def open_scheduler(
    backend: Backend,
    settings: Settings,
    timing: Timing | None = None,
    *,
    meter: Meter = NO_METER,
    drain: Drain | None = None,
    replicas: Replicas | None = None,
) -> AsyncGenerator[Scheduler]:
    """A scheduler whose turns live as long as this context. Leaving it stops following the turns; at Letta they go
    on."""
    async with background_tasks() as tasks:
        if replicas is not None:
            tasks.start_soon(replicas.run)
        yield Scheduler(
            backend,
            tasks,
            settings,
            timing or Timing(),
            meter=meter,
            drain=drain or Drain(),
            replicas=replicas,
        )
