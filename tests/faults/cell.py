"""One cell of the matrix: a message, a fault, a client that does what it is told, and what came of it.

Counted are the turns that the model was asked for and the messages that the server stored, and at the other end the
reply that the client ended with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import anyio
from mcp import MCPError

from tests.faults.clients import Answered, Hung, Leaving, Line, Obedient, ends_server
from tests.faults.places import APP_SERVER, MARKER, Place, answer_to, new_marker
from tests.faults.plan import Garble, Plan
from tests.faults.proxy import Proxy
from tests.faults.tasks import tasks_of

Turn = Literal["quick", "slow", "long", "late", "many"]
"""How long the model takes: no time; until somebody asks what became of the turn; until the first call is over; until
the client has called three times. A slow or long turn calls a tool first, so that the message is stored early; of a
late one Letta shows nothing until it ends. One of many steps is slow, and stores over 40 messages first."""

TOOL_CALLS: Mapping[Turn, int] = {"slow": 1, "long": 1, "many": 22}

Evil = Literal["doubled", "lost", "merged", "hung", "wrong", "leaked", "stuck"]

EVILS: tuple[Evil, ...] = ("doubled", "lost", "merged", "hung", "wrong", "leaked", "stuck")

CELL_SECONDS = 60
SETTLE_SECONDS = 4
STUCK_SECONDS = 20
WAIT_SECONDS = {"quick": 4.0, "slow": 4.0, "long": 0.5, "late": 4.0, "many": 10.0}
LEAVE_SECONDS = 3.0
LINK_SOCKETS = 2  # of a link to an App Server; they stay


@dataclass(frozen=True)
class Case:
    """What is done. `leaving`: what the client does when the plan's moment has come."""

    plan: Plan
    turn: Turn = "quick"
    leaving: Leaving | None = None
    first: bool = False
    """Whether it is the first message of its conversation."""
    repeats: bool = False
    """Whether a client that has left makes the same call again; else it asks for the reply."""

    def __str__(self) -> str:
        further = {0: "", None: ", and so on until the call is answered"}
        leaving = f"{self.leaving}, and send again" if self.repeats else self.leaving
        words = [str(self.plan.fault) if self.leaving is None else f"client: {leaving} {self.plan.fault}"]
        words += [further.get(self.plan.further, f", and of {self.plan.further} more requests"), f" ({self.turn} turn"]
        return "".join(words) + (", new conversation)" if self.first else ")")


@dataclass
class Outcome:
    """What came of a cell: `evils` is empty when all is well."""

    case: Case
    place: str
    way: str
    evils: dict[Evil, str] = field(default_factory=dict["Evil", str])
    calls: Sequence[Answered] = ()
    log: Sequence[str] = ()
    executed: int = 0
    stored: int = 0
    seconds: float = 0.0
    struck: bool = True
    """Whether the fault came about: not when the exchange was over before its moment."""

    @property
    def sends(self) -> int:
        return sum(call.tool == "send_message" for call in self.calls)

    def __str__(self) -> str:
        evils = "; ".join(f"{evil}: {why}" for evil, why in self.evils.items()) or "ok"
        head = f"{self.place} · {self.way} · {self.case}: {evils} [executed {self.executed}, stored {self.stored}]"
        return "\n".join(
            [head, *(f"    call  {each}" for each in self.calls), *(f"    proxy {each}" for each in self.log)]
        )


class Lane:
    """One server of ours, with its proxy and its client, in which one cell runs after another."""

    def __init__(self, place: Place, proxy: Proxy, line: Line, owner: str) -> None:
        self.place = place
        self.proxy = proxy
        self.line = line
        self.owner = owner

    async def run(self, case: Case) -> Outcome:
        outcome = Outcome(case, self.place.name, str(self.line.way))
        conversation_id = await self.place.new_conversation()
        if not case.first and (failure := await self._send_unharmed(conversation_id)):
            outcome.evils["stuck"] = f"the message before it was not answered: {failure}"
            return outcome
        tasks, descriptors = Counter(tasks_of(self.owner)), self._descriptors()
        marker = new_marker()
        model = self.place.model
        gate = model.hold(marker, tool_calls=TOOL_CALLS.get(case.turn, 0)) if case.turn != "quick" else anyio.Event()
        client = Obedient(self.line, {"conversation_id": conversation_id}, marker, WAIT_SECONDS[case.turn])
        started = anyio.current_time()
        self.proxy.arm(case.plan)
        try:
            with anyio.fail_after(CELL_SECONDS):
                await self._play(case, client, gate)
        except (Hung, TimeoutError) as hung:
            outcome.evils["hung"] = str(hung) or f"no end within {CELL_SECONDS} s"
        outcome.seconds = anyio.current_time() - started
        outcome.struck = self.proxy.struck.is_set()
        gate.set()
        self.proxy.released.set()
        await self.proxy.disarm()
        await self._settle(conversation_id, marker)
        outcome.calls = client.calls
        outcome.executed = self.place.model.turns(marker)
        outcome.stored = await self.place.stored(conversation_id, marker)
        outcome.evils |= judge(case, client, marker, outcome)
        outcome.evils |= await self._leaks(tasks, descriptors, killed=case.leaving in ("kill", "disconnect"))
        outcome.log = [str(each) for each in self.proxy.exchanges]
        outcome.evils |= await self._stuck(conversation_id)
        if outcome.evils:
            # The next cell is to start with connections that are sound.
            self.proxy.reset_all()
            await anyio.sleep(0.1)
        return outcome

    async def _play(self, case: Case, client: Obedient, gate: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._open_gate, case, client, gate)
            if case.leaving is None:
                first = await client.send()
                if not (case.turn == "long" and first.status == "running"):
                    # A long turn's first answer tells nothing yet: what comes after it is broken too.
                    await self.proxy.disarm()
            else:
                first = await self._leave(case.leaving, client, repeats=case.repeats)
            second = await client.step(first)
            await self.proxy.disarm()
            await client.go_on(second)
            tasks.cancel_scope.cancel()

    async def _open_gate(self, case: Case, client: Obedient, gate: anyio.Event) -> None:
        """Let the model answer when the turn has taken as long as it should."""
        if case.turn in ("slow", "many") and case.leaving is None:
            await first_of(self.proxy.came_back, client.answered)
        elif case.repeats and ends_server(case.leaving, self.line.way):
            # The new server has asked Letta by then, and knows that the turn runs.
            await client.has_news.wait()
        elif case.repeats:
            await client.under_way.wait()
        elif case.turn == "late":
            await client.called_often.wait()
        else:
            await client.answered.wait()
        gate.set()

    async def _leave(self, leaving: Leaving, client: Obedient, *, repeats: bool) -> Answered:
        """Give up the first call in the middle; then make it again, or ask with no more than the conversation's id."""
        started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send_and_leave, LEAVE_SECONDS if leaving == "time out" else None)
            await first_of(self.proxy.struck, client.answered)
            match leaving:
                case "cancel":
                    tasks.cancel_scope.cancel()
                case "kill":
                    self.line.kill()
                    # What the process had written is on its way, and comes at once.
                    self.proxy.released.set()
                    with suppress(MCPError):  # that its server is gone
                        await self.line.hang_up()
                case "disconnect":
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await self.line.hang_up()
                case "time out":
                    pass
        client.left(anyio.current_time() - started)
        self.proxy.released.set()
        if leaving in ("kill", "disconnect"):
            await self.line.connect()
        return await (client.send() if repeats else client.wait())

    async def warm_up(self) -> None:
        """Have everything loaded and connected."""
        if failure := await self._send_unharmed(await self.place.new_conversation()):
            raise AssertionError(str(failure))

    async def _send_unharmed(self, conversation_id: str) -> Answered | None:
        """Send a message without any fault; gives the answer when it is not its reply."""
        marker = new_marker()
        answer = await Obedient(self.line, {"conversation_id": conversation_id}, marker, 10).send()
        return None if answer.data.get("reply") == answer_to(marker) else answer

    async def _settle(self, conversation_id: str, marker: str) -> None:
        """Wait until what the server still does has been done."""
        with anyio.move_on_after(SETTLE_SECONDS):
            while not await self.place.is_idle(conversation_id):
                await anyio.sleep(0.1)
            while await self.place.stored(conversation_id, marker) < self.place.model.turns(marker):
                await anyio.sleep(0.1)

    def _descriptors(self) -> int:
        return self.line.process.num_fds() if self.line.process else 0

    async def _leaks(self, tasks: Counter[str], descriptors: int, *, killed: bool) -> dict[Evil, str]:
        """What is left over of the cell after a while: exchanges, connections, tasks, file descriptors."""
        left: list[str] = []
        with anyio.move_on_after(SETTLE_SECONDS):
            while left := self._left(tasks, descriptors, killed=killed):
                await anyio.sleep(0.05)
        return {"leaked": "; ".join(left)} if left else {}

    def _left(self, tasks: Counter[str], descriptors: int, *, killed: bool) -> list[str]:
        connections = len(self.proxy.peers)
        if self.place.name != APP_SERVER:
            left = [f"open: {each}" for each in self.proxy.exchanges if each.open]
        else:
            # Its connections stay, whatever becomes of a turn.
            left = [f"{connections} connections"] if connections > LINK_SOCKETS else []
        if not killed and (more := Counter(tasks_of(self.owner)) - tasks):
            left.append(f"tasks {dict(more)}")
        # A pool keeps some connections: each is a descriptor, and no leak.
        if not killed and self._descriptors() > descriptors + connections:
            left.append(f"{self._descriptors()} descriptors, {descriptors} before")
        return left

    async def _stuck(self, conversation_id: str) -> dict[Evil, str]:
        """Whether the conversation takes another message afterwards."""
        marker = new_marker()
        client = Obedient(self.line, {"conversation_id": conversation_id}, marker, 10)
        try:
            with anyio.fail_after(STUCK_SECONDS):
                await client.go_on(await client.send())
        except (Hung, TimeoutError):
            pass
        if client.reply == answer_to(marker):
            return {}
        return {"stuck": f"the next message was not answered: {client.calls[-1] if client.calls else None}"}


def judge(case: Case, client: Obedient, marker: str, outcome: Outcome) -> dict[Evil, str]:
    """What is wrong between what the model did, what the server holds, and what the client was told."""
    evils: dict[Evil, str] = {}
    if outcome.executed > 1 or outcome.stored > 1:
        evils["doubled"] = f"{outcome.executed} turns, stored {outcome.stored} times"
    if outcome.executed > client.sends - client.untaken:
        evils["wrong"] = f"{client.untaken} answers to {client.sends} sends said that it was not taken"
    if client.reply is None:
        if "hung" not in outcome.evils:
            evils["lost"] = f"no reply: {client.gave_up}"
    elif not is_reply_to(client.reply, marker, case):
        others = [each for each in MARKER.findall(client.reply) if each != marker]
        if others:
            evils["merged"] = f"the reply of another message: {client.reply!r}"
        else:
            evils["wrong"] = f"instead of the reply: {client.reply[:120]!r}"
    return evils


def is_reply_to(reply: str, marker: str, case: Case) -> bool:
    spoiled = isinstance(case.plan.fault, Garble) and case.plan.fault.how == "reply not utf-8"
    return (reply.replace("�", "") if spoiled else reply) == answer_to(marker)


async def first_of(*events: anyio.Event) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)
