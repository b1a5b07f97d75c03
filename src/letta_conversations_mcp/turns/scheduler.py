"""The turns of this process: which calls begin one, which join one, which runs now, and which are stopped.

Owns the task of every turn. The task belongs to the server's task group and not to the call that began the turn, so a
call that gives up, or is cancelled, leaves the turn running. Leaves to others: recognising repeated calls
(`idempotency`), waiting for a turn (`waiting`), and queueing and sending a message (`sending`). Forgets a turn when it
has ended: Letta has it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy, ConversationError, Overloaded, ShuttingDown, TimedOut
from letta_conversations_mcp.core.model import ConversationRef, OutgoingMessage, Turn
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.idempotency import CallIdentity, RecentCalls, may_be_joined
from letta_conversations_mcp.turns.instrumentation import NO_METER, Meter
from letta_conversations_mcp.turns.recovery import find_by_key, newest_run
from letta_conversations_mcp.turns.replicas import Replicas, SharedCall
from letta_conversations_mcp.turns.sending import Queue, Send, Sending
from letta_conversations_mcp.turns.sharing import SharedTurns
from letta_conversations_mcp.turns.timing import Timing
from letta_conversations_mcp.turns.turn import EndReason, State, TrackedTurn
from letta_conversations_mcp.turns.waiting import Report, TurnWait


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
        self._drain = drain
        self._turns: set[TrackedTurn] = set()
        self._queues: dict[ConversationRef, Queue] = {}
        self._calls = RecentCalls()
        self._replicas = replicas
        self._shared = SharedTurns(replicas, tasks)
        slots = anyio.Semaphore(settings.max_turns, fast_acquire=True)
        self._sending = Sending(
            backend, settings, timing, meter, self._shared, self._queues, slots, started_at=datetime.now(UTC)
        )
        if replicas is not None:
            replicas.withdraw_here = self._withdraw_here
            replicas.report_stopped_here = self._report_stopped_here
        self._caller = ""

    def until_running(self) -> Scheduler:
        """A view of this scheduler whose `wait` returns as soon as there is a run to poll, but not before the first
        report is due. For callers that poll, such as tasks."""
        own = copy(self)
        own._waiting = replace(self._waiting, until_running=True)
        return own

    def on_behalf_of(self, caller: str, backend: Backend) -> Scheduler:
        """A view of this scheduler for one caller: it uses the caller's backend, and counts turns towards the caller's
        limit. The queues are shared."""
        own = copy(self)
        own._backend = backend
        own._sending = replace(self._sending, backend=backend)
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

        A message that was not handed over by then, or that no call waits for any more, is withdrawn: it would be lost
        if this process ended.

        Raises:
            ConversationError: the message was not accepted. The error says why, and what is safe.
        """
        earlier = await self._calls.find(send.identity)
        call, left = await self._shared.begin(send.identity) if earlier is None else (None, None)
        turn = earlier or self.start(send, left)
        if call is not None:
            self._shared.add(turn, call)
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
                # A message that another replica handed over, and this one has not found, is left for the next call.
                self._shared.ended(turn, send.identity, answered=answered and not (left and not_sent))
        if not_sent is not None:
            raise not_sent
        is_repeated = earlier is not None or turn.joined
        return result.model_copy(update={"repeated": True}) if is_repeated else result, turn

    def start(self, send: Send, left: SharedCall | None = None) -> TrackedTurn:
        """Start sending a message and return at once. `left` is the same message, left by another replica.

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
        try:
            await self._sending.run(turn, send, left)
        finally:
            if not may_be_joined(turn) and turn.end_reason is not EndReason.WITHDRAWN:
                self._shared.ended(turn, send.identity, answered=True)
            self._turns.discard(turn)
            turn.drained.set()

    # Waiting

    async def wait(self, turn: TrackedTurn, seconds: float, report: Report) -> Turn:
        """Wait up to `seconds` for the end of a turn (`waiting.TurnWait`)."""
        return await self._waiting.wait(turn, seconds, report)

    async def settle(self) -> None:
        """Wait until Letta has every message that is being handed over, or until the shutdown ends."""
        for turn in list(self._turns):
            await self._waiting.is_taken(turn)

    async def stop_following(self) -> list[TrackedTurn]:
        """Before this process ends: withdraw the messages that are queued, and wait until Letta has those that are
        being handed over. Returns the turns that had not ended before; those that are ENDED now were withdrawn."""
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
        """The turn that this process follows in a conversation: that of `run_id`, or the newest."""
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
        """Withdraw every message that is queued in a conversation, here and at the other replicas. Returns how many."""
        here = self._withdraw_here(ref)
        return here + (await self._replicas.withdraw(ref) if self._replicas else 0)

    def _withdraw_here(self, ref: ConversationRef) -> int:
        queue = self._queues.get(ref)
        return sum(each.withdraw() for each in list(queue.turns)) if queue else 0

    async def report_stopped(self, ref: ConversationRef, run_ids: Collection[str]) -> None:
        """Answer the calls that wait for these cancelled runs, and wait up to `stopped` seconds for the streams to end:
        Letta stores the unfinished reply when the model's call ends."""
        stopped = self._report_stopped_here(ref, run_ids)
        if self._replicas:
            await self._replicas.stopped(ref, run_ids)
        with anyio.move_on_after(self._timing.stopped):
            for turn in stopped:
                await turn.drained.wait()

    def _report_stopped_here(self, ref: ConversationRef, run_ids: Collection[str]) -> Sequence[TrackedTurn]:
        queue = self._queues.get(ref)
        stopped = [each for each in queue.turns if each.run_id in run_ids] if queue else []
        for turn in stopped:
            turn.stopped()
        return stopped


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
