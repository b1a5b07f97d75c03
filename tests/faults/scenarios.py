"""What no single fault of one connection shows: several clients, replicas and processes, retries, and servers that die.

Each scenario is a function of the stage on which it plays. `SCENARIOS` says on which servers each one is played.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from tests.faults.cell import Evil, first_of
from tests.faults.clients import Answered, Obedient
from tests.faults.places import APP_SERVER, FAKE_LETTA, FAKE_WITHOUT_REDIS, REAL_LETTA, REAL_WITHOUT_REDIS, new_marker
from tests.faults.silent import gives_up_silently, silent_mcp1_client
from tests.faults.stage import Message, Stage

Play = Callable[[Stage], Awaitable[None]]

WITH_REDIS = frozenset({FAKE_LETTA, REAL_LETTA})
LETTA = WITH_REDIS | {FAKE_WITHOUT_REDIS, REAL_WITHOUT_REDIS}
EVERYWHERE = LETTA | {APP_SERVER}

HOME = "192.0.2.1"
"""The address of a client that comes back."""

GIVEN_UP_AFTER = 5.0
"""Seconds after which a client gives up that says nothing of it."""


@dataclass(frozen=True)
class Scenario:
    name: str
    play: Play
    places: frozenset[str] = EVERYWHERE
    alone: bool = False
    """Whether it restarts the server, which nobody else may use then."""
    known: Mapping[str, frozenset[Evil]] = field(default_factory=dict[str, frozenset[Evil]])
    """What is known to go wrong at a server; docs/faults.md says why, or that it is open."""


# Several at once


async def several_in_one_conversation(stage: Stage) -> None:
    place = await stage.conversation()
    lines = [await stage.client(await stage.server()) for _ in range(3)]
    for _ in range(2):
        await stage.converse(*[stage.sender(stage.message(), line, place) for line in lines])


async def several_default_conversations(stage: Stage) -> None:
    urls = [await stage.server(), await stage.server()]
    places = [{"conversation_id": "default", "agent": await stage.place.new_agent()} for _ in range(3)]
    await stage.converse(
        *[stage.sender(stage.message(), await stage.client(url), place) for place in places for url in urls]
    )


async def same_words_at_once(stage: Stage, *, named: bool) -> None:
    """Two clients, whose requests have the same ids, say the same: to a conversation, or to an agent."""
    url = await stage.server()
    place = await stage.conversation() if named else {"agent": await stage.place.new_agent()}
    said = stage.message(turns=2)
    clients = [await stage.client(url), await stage.client(await stage.server() if named else url)]
    # Long enough for both turns: a client that is told to wait for the other's could take it for its own.
    await stage.converse(*[stage.sender(said, line, place, wait=30) for line in clients])


async def same_words_after_another_left(stage: Stage) -> None:
    """A client leaves in mid-turn; then another one, elsewhere, says the same to the same agent."""
    url = await stage.server()
    place = {"agent": await stage.place.new_agent()}
    said = stage.message(turns=2, held_after=1)
    await stage.gives_up(said, await stage.client(url), place)
    said.gate.set()
    await stage.converse(stage.sender(said, await stage.client(url), place))


# The same call again


async def retried(stage: Stage, *, elsewhere: bool = False, **arguments: Any) -> None:
    """A client cancels its call in mid-turn, and makes it again: at the same server of ours, or at a replica."""
    url = await stage.server(shared=elsewhere)
    other = await stage.server(shared=True) if elsewhere else url
    to_agent = arguments.pop("to_agent", False)
    place = {"agent": await stage.place.new_agent()} if to_agent else await stage.conversation()
    async with anyio.create_task_group() as tasks:
        blocking = anyio.Event()
        if arguments.get("on_busy") == "fork":
            # Somebody's turn, for which the message does not wait.
            first = stage.message(held_after=1)
            blocking = first.gate
            tasks.start_soon(stage.converse, stage.sender(first, await stage.client(url), place))
            await stage.model.reached_gate(first.marker)
        said = stage.message(held_after=1)
        await stage.gives_up(said, await stage.client(url, address=HOME), place, **arguments)
        again = stage.sender(said, await stage.client(other, address=HOME), place, **arguments)
        tasks.start_soon(stage.converse, again)
        await first_of(again.has_news, again.answered)
        said.gate.set()
        await again.answered.wait()
        blocking.set()


async def retried_after_cancel(stage: Stage) -> None:
    """A person cancels the turn, and says the same again: that is another message."""
    place, line = await stage.conversation(), await stage.client(await stage.server())
    said = stage.message(turns=2, held_after=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Obedient(line, place, said.marker, 8).send)
        await stage.model.reached_gate(said.marker)
        await line.call("cancel", place)
    said.gate.set()
    await stage.converse(stage.sender(said, line, place))


async def retried_after_anothers_wait(stage: Stage) -> None:
    """Another client waits for the reply in the meantime; that answers nothing to the one who sent."""
    place, url = await stage.conversation(), await stage.server()
    said = stage.message(held_after=1)
    await stage.gives_up(said, await stage.client(url, address=HOME), place)
    waiting = stage.sender(said, await stage.client(url), place)
    said.gate.set()
    await waiting.go_on(await waiting.wait())
    await stage.converse(stage.sender(said, await stage.client(url, address=HOME), place))


async def copied_by_a_balancer(stage: Stage, *, shared: bool) -> None:
    """A balancer hands a request to a second replica before the first has answered."""
    place = await stage.conversation()
    said = stage.message(held_after=1)
    request_id = new_marker()
    lines = [
        await stage.client(await stage.server(shared=shared), address=HOME, request_id=request_id) for _ in range(2)
    ]
    first, second = [stage.sender(said, line, place) for line in lines]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.converse, first)
        # Before Letta names the run.
        await first.under_way.wait()
        tasks.start_soon(stage.converse, second)
        await stage.model.reached_gate(said.marker)
        said.gate.set()


# Clients that give up and say nothing


async def silent_over_json_rpc(stage: Stage, *, to_agent: bool) -> None:
    place = {"agent": await stage.place.new_agent()} if to_agent else await stage.conversation()
    await _silent(stage, place, gives_up_silently)


async def silent_mcp_1(stage: Stage) -> None:
    await _silent(stage, {"agent": await stage.place.new_agent()}, silent_mcp1_client)


async def _silent(stage: Stage, place: Mapping[str, str], client: Callable[..., Awaitable[tuple[str, str]]]) -> None:
    """The client makes the same call until it is answered in time, which it is once the model answers."""
    said = stage.message(held_after=1)

    async def open_gate(calls: int) -> None:
        if calls == 3:
            said.gate.set()

    arguments = {**place, "message": f"Please remember {said.marker}."}
    sender = stage.sender(said, await stage.client(await stage.server()), place)
    sender.reply, conversation_id = await client(stage.settings(), arguments, GIVEN_UP_AFTER, open_gate)
    sender.place = {"conversation_id": conversation_id}


# Replicas


async def killed_under_load(stage: Stage) -> None:
    """A replica is killed with five calls under way; each client makes its call again at the other replica."""
    doomed = await stage.process(shared=True)
    other = await stage.server(shared=True)
    agent = await stage.place.new_agent()
    places = [
        {"agent": agent},
        {"agent": agent},
        {"agent": agent},
        await stage.conversation(),
        await stage.conversation(),
    ]
    said: list[tuple[Message, Mapping[str, str]]] = [(stage.message(held_after=1), place) for place in places]
    clients = [f"192.0.2.{number}" for number in range(1, len(said) + 1)]
    async with anyio.create_task_group() as tasks:
        for (each, place), address in zip(said, clients, strict=True):
            # Longer than the machine may take to come to the kill: who was answered "running" makes no retry.
            sender = Obedient(await stage.client(doomed.url, address=address), place, each.marker, 60)
            tasks.start_soon(sender.send_and_leave, None)
        for each, _ in said:
            await stage.model.reached_gate(each.marker)
        doomed.process.kill()
    again = [
        stage.sender(each, await stage.client(other, address=address), place)
        for (each, place), address in zip(said, clients, strict=True)
    ]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(stage.converse, *again))
        for sender in again:
            await first_of(sender.has_news, sender.answered)
        for each, _ in said:
            each.gate.set()


async def cancelled_at_a_replica(stage: Stage) -> None:
    """A turn runs and a message is queued behind it at one replica; `cancel` comes to the other."""
    place = await stage.conversation()
    url, other = await stage.server(shared=True), await stage.server(shared=True)
    running, queued = stage.message(turns=0, asked=1, held_after=1), stage.message(turns=0)
    first, second = [Obedient(await stage.client(url), place, each.marker, 20) for each in (running, queued)]
    canceller = await stage.client(other)
    cancelled = Answered("cancel", "gone")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.send)
        await stage.model.reached_gate(running.marker)
        tasks.start_soon(second.send)
        await first_of(second.has_news, second.answered)
        cancelled = await canceller.call("cancel", place)
        running.gate.set()
    stage.log += [str(each) for each in (*first.calls, *second.calls, cancelled)]
    if cancelled.data.get("withdrawn") != 1 or stage.model.turns(queued.marker):
        stage.evils["wrong"] = "the queued message was not taken back"
    if (first.calls[-1].status, second.calls[-1].status) != ("cancelled", "cancelled"):
        stage.evils["wrong"] = "a sender was not told that its message was cancelled"


# Servers that die, or say nothing


async def restarted(stage: Stage, what: str, *, at: str) -> None:
    """Letta or its Redis is killed and started again: just after the hand-over, or while the model thinks."""
    place, line = await stage.conversation(), await stage.client(await stage.server())
    said = stage.message(asked=2 if what == "Letta" else 1, held_after=1 if at == "later" else 0)
    sender = stage.sender(said, line, place)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.converse, sender)
        if at == "once":
            await sender.under_way.wait()
            await anyio.sleep(0.15)
        else:
            await stage.model.reached_gate(said.marker)
        await stage.place.restart("Letta" if what == "Letta" else "Redis")
        said.gate.set()


async def found_after_a_restart(stage: Stage) -> None:
    """Letta is killed in mid-turn, and so is the server of ours that sent; the client asks another one."""
    place = await stage.conversation()
    doomed = await stage.process()
    said = stage.message(asked=2, held_after=0)
    async with anyio.create_task_group() as tasks:
        sender = Obedient(await stage.client(doomed.url), place, said.marker, 8)
        tasks.start_soon(sender.send_and_leave, None)
        await stage.model.reached_gate(said.marker)
        doomed.process.kill()
    await stage.place.restart("Letta")
    said.gate.set()
    again = stage.sender(said, await stage.client(await stage.server()), place)
    await again.go_on(await again.wait())


async def never_answered(stage: Stage) -> None:
    """A server accepts connections and says nothing. No call may last longer than its bound."""

    async def say_nothing(stream: ByteStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610
    address = f"127.0.0.1:{port}"
    place = await stage.conversation()
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, say_nothing)
        line = await stage.client(await stage.server(address=address))
        for target in (place, {"agent": "agent-123e4567-e89b-42d3-a456-426614174000"}):
            for tool in ("send_message", "wait_for_reply", "list_messages"):
                arguments = {"message": "hello", "wait_seconds": 0} if tool == "send_message" else {}
                if tool != "send_message" and "agent" in target:
                    continue
                answer = await line.call(tool, {**target, **arguments})
                stage.log.append(str(answer))
                if answer.seconds > 15:
                    stage.evils["hung"] = f"{tool} took {answer.seconds:.0f} s"
        tasks.cancel_scope.cancel()


SCENARIOS = (
    Scenario("three replicas in one conversation", several_in_one_conversation),
    Scenario("`default` of three agents, two replicas", several_default_conversations),
    Scenario("two clients say the same to an agent", partial(same_words_at_once, named=False)),
    Scenario("two clients say the same in a conversation", partial(same_words_at_once, named=True)),
    Scenario("one leaves, another says the same", same_words_after_another_left),
    Scenario("retry", retried),
    Scenario("retry, agent alone", partial(retried, to_agent=True)),
    Scenario("retry, sender", partial(retried, to_agent=True, sender="a tester")),
    Scenario("retry, on_busy=fork", partial(retried, on_busy="fork")),
    Scenario("retry, message_key", partial(retried, message_key="k")),
    Scenario("retry, message_key and agent alone", partial(retried, to_agent=True, message_key="k")),
    Scenario("retry after cancel", retried_after_cancel),
    Scenario("retry after another's wait_for_reply", retried_after_anothers_wait),
    Scenario("retry at a replica", partial(retried, elsewhere=True)),
    Scenario("retry at a replica, agent alone", partial(retried, elsewhere=True, to_agent=True)),
    Scenario("retry at a replica, on_busy=fork", partial(retried, elsewhere=True, on_busy="fork")),
    Scenario("retry at a replica, message_key", partial(retried, elsewhere=True, message_key="k")),
    Scenario("request copied to a replica", partial(copied_by_a_balancer, shared=True)),
    Scenario(
        "request copied to a replica, without --redis-url", partial(copied_by_a_balancer, shared=False), WITH_REDIS
    ),
    Scenario("replica killed with five calls", killed_under_load),
    Scenario("cancel at a replica", cancelled_at_a_replica),
    Scenario("client gives up silently", partial(silent_over_json_rpc, to_agent=False)),
    Scenario("client gives up silently, agent alone", partial(silent_over_json_rpc, to_agent=True)),
    Scenario("mcp 1.x gives up silently, agent alone", silent_mcp_1),
    Scenario(
        "Redis restarted after the hand-over", partial(restarted, what="Redis", at="once"), WITH_REDIS, alone=True
    ),
    Scenario("Redis restarted in mid-turn", partial(restarted, what="Redis", at="later"), WITH_REDIS, alone=True),
    Scenario("Letta restarted after the hand-over", partial(restarted, what="Letta", at="once"), LETTA, alone=True),
    Scenario("Letta restarted in mid-turn", partial(restarted, what="Letta", at="later"), LETTA, alone=True),
    Scenario("Letta and our server killed in mid-turn", found_after_a_restart, LETTA, alone=True),
    Scenario("a server that never answers", never_answered, LETTA),
)
