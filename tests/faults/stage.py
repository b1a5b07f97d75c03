"""Where a scenario plays: one Letta server, as many servers of ours and clients as it needs, and what came of it.

A scenario says who sends what (`says`); the stage counts, and judges as the cells do. What a cell cannot have is one
thing more, *merged*: an answer or a conversation that was given to a call which was not a retry of its message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import anyio
import httpx2
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.faults.cell import STUCK_SECONDS, Evil
from tests.faults.clients import Answered, Hung, Line, Obedient, open_line
from tests.faults.places import APP_SERVER, MARKER, Place, answer_to, new_marker
from tests.operations.service import Service, service
from tests.rig.servers import BRISK, Way, http_server, in_own_task

HTTP = Way("http", "modern")
WAIT_SECONDS = 8.0
SILENCE_SECONDS = 4.0
"""How long a run may show nothing before our servers take it for dead."""


@dataclass(eq=False)
class Message:
    """A text, how many messages with it are meant to arrive, and those who send it."""

    marker: str
    turns: int = 1
    asked: int = 0
    """How many times the model may be asked for it, if that is more than once for each turn."""
    senders: list[Obedient] = field(default_factory=list[Obedient])
    gate: anyio.Event = field(default_factory=anyio.Event)
    """The model answers when it is open."""


@dataclass
class Verdict:
    """What came of a scenario: `evils` is empty when all is well."""

    scenario: str
    place: str
    evils: dict[Evil, str]
    calls: Sequence[str]
    seconds: float

    def __str__(self) -> str:
        evils = "; ".join(f"{evil}: {why}" for evil, why in self.evils.items()) or "ok"
        head = f"{self.place} · {self.scenario}: {evils} [{self.seconds:.1f} s]"
        return "\n".join([head, *(f"    {each}" for each in self.calls)])


class Stage:
    """Made by `open_stage`. Everything that it starts ends with it."""

    def __init__(self, place: Place, redis_url: str, stack: AsyncExitStack) -> None:
        self.place = place
        self.model = place.model
        self.evils: dict[Evil, str] = {}
        self.log: list[str] = []
        self._redis_url = redis_url
        self._stack = stack
        self._messages: list[Message] = []
        self._addresses = count(1)

    # Servers and clients

    def settings(self, *, shared: bool = False, address: str = "") -> Settings:
        """`shared`: with the Redis that replicas of ours have in common."""
        host, port = self.place.address
        settings = self.place.settings(address or f"{host}:{port}")
        if self.place.name == APP_SERVER:
            # Several servers of ours at one Node.js process take longer than a cell.
            settings = settings.model_copy(update={"request_timeout": 10.0, "silence_timeout": 20.0})
        return settings.model_copy(
            update={"redis_url": SecretStr(self._redis_url), "stateless": True} if shared else {}
        )

    async def server(self, *, shared: bool = False, address: str = "") -> str:
        """A server of ours; gives its URL."""
        timing = replace(BRISK, silence=SILENCE_SECONDS, settle=5.0, unseen=0.6)
        settings = self.settings(shared=shared, address=address)
        return await self._stack.enter_async_context(in_own_task(http_server(settings, timing)))

    async def process(self, *, shared: bool = False) -> Service:
        """A server of ours that can be killed."""
        return await self._stack.enter_async_context(in_own_task(service(self.settings(shared=shared))))

    async def client(self, url: str, address: str = "", request_id: str = "") -> Line:
        """A client of the server there, with an address of its own unless it is given one."""
        headers = {"X-Forwarded-For": address or f"198.51.100.{next(self._addresses)}"}
        if request_id:
            headers["X-Request-ID"] = request_id
        line = open_line(HTTP, self.settings(), url, headers)
        return await self._stack.enter_async_context(in_own_task(may_lose_its_server(line)))

    async def conversation(self) -> dict[str, str]:
        return {"conversation_id": await self.place.new_conversation()}

    # Messages

    def message(self, turns: int = 1, asked: int = 0, *, held_after: int | None = None) -> Message:
        """With `held_after`, the model calls so many tools and then waits for the message's gate."""
        self._messages.append(message := Message(new_marker(), turns, asked))
        if held_after is not None:
            message.gate = self.model.hold(message.marker, tool_calls=held_after)
        return message

    def sender(
        self, message: Message, line: Line, target: Mapping[str, str], wait: float = WAIT_SECONDS, **more: Any
    ) -> Obedient:
        """Somebody who sends a message, and is to have its reply."""
        message.senders.append(sender := Obedient(line, target, message.marker, wait, **more))
        return sender

    async def gives_up(self, message: Message, line: Line, target: Mapping[str, str], **more: Any) -> None:
        """Send a message, and cancel the call as soon as the model has been asked."""
        sender = Obedient(line, target, message.marker, WAIT_SECONDS, **more)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.send_and_leave, None)
            await self.model.reached_gate(message.marker)
            tasks.cancel_scope.cancel()

    async def converse(self, *senders: Obedient) -> None:
        """All of them send at the same time, and do what they are told."""

        async def one(sender: Obedient) -> None:
            try:
                await sender.go_on(await sender.send())
            except Hung as hung:
                self.evils["hung"] = str(hung)

        async with anyio.create_task_group() as tasks:
            for sender in senders:
                tasks.start_soon(one, sender)

    # The verdict

    async def judge(self) -> None:
        for message in self._messages:
            message.gate.set()
        for message in self._messages:
            await self._judge(message)
        await self._probe()

    async def _judge(self, message: Message) -> None:
        places = [dict(each) for each in {tuple(sorted(s.place.items())) for s in message.senders if s.place}]
        executed = self.model.turns(message.marker)
        with anyio.move_on_after(5):
            while await self._stored(places, message) < min(executed, message.turns):
                await anyio.sleep(0.1)
        stored = await self._stored(places, message)
        counts = f"{executed} turns, stored {stored} times in {len(places)} conversations, {message.turns} meant"
        if executed > max(message.asked, message.turns) or stored > message.turns:
            self.evils["doubled"] = counts
        for sender in message.senders:
            self.log += [str(each) for each in sender.calls]
            if sender.reply is None:
                self.evils.setdefault("lost", f"no reply: {sender.gave_up} ({counts})")
            elif sender.reply != answer_to(message.marker):
                others = [each for each in MARKER.findall(sender.reply) if each != message.marker]
                self.evils["merged" if others else "wrong"] = f"instead of its reply: {sender.reply[:120]!r}"
        if executed < message.turns and "lost" not in self.evils:
            self.evils["merged"] = counts

    async def _stored(self, places: Sequence[Mapping[str, str]], message: Message) -> int:
        return sum(
            [
                await self.place.stored(place["conversation_id"], message.marker, place.get("agent", ""))
                for place in places
            ]
        )

    async def _probe(self) -> None:
        """Whether every conversation takes another message."""
        places = {tuple(sorted(sender.place.items())) for each in self._messages for sender in each.senders}
        line = await self.client(await self.server())
        for place in filter(None, places):
            marker = new_marker()
            probe = Obedient(line, dict(place), marker, WAIT_SECONDS)
            with anyio.move_on_after(STUCK_SECONDS):
                await self.converse(probe)
            if probe.reply != answer_to(marker):
                last: Answered | None = probe.calls[-1] if probe.calls else None
                self.evils["stuck"] = f"the next message was not answered: {last}"


@asynccontextmanager
async def may_lose_its_server(line: AbstractAsyncContextManager[Line]) -> AsyncGenerator[Line]:
    """A client whose server is killed learns it at the latest when it leaves."""
    try:
        async with line as client:
            yield client
    except* httpx2.TransportError:
        pass


@asynccontextmanager
async def open_stage(place: Place, redis_url: str) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as stack:
        try:
            yield Stage(place, redis_url, stack)
        finally:
            with anyio.CancelScope(shield=True):
                await stack.aclose()
