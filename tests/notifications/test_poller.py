"""Watching conversations: how often they are looked at, for whom, and until when; and which verbs say a word."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent

from letta_conversations_mcp.backends.announcing import AnnouncingBackend
from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotFound, Overloaded
from letta_conversations_mcp.core.model import ConversationChanges, NewConversation
from letta_conversations_mcp.notifications import poller as polling
from letta_conversations_mcp.notifications.events import AgentListChanged, changed_conversation, conversation_changed
from letta_conversations_mcp.notifications.poller import Poller, open_poller
from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import RecordedRequest
from tests.rig.letta_server import Letta
from tests.rig.waiting import Record

NEVER = 3600
QUICKLY = 0.02

CHANGES_NOTHING = {
    "check",
    "check_message",
    "create_agent",
    "get_agent",
    "get_context_use",
    "get_conversation",
    "get_prompt",
    "get_run",
    "list_agents",
    "list_approvals",
    "list_conversations",
    "list_isolated_blocks",
    "list_messages",
    "list_models",
    "list_run_chunks",
    "run_of_otid",
    "list_runs",
    "list_with_owner",
    "owner_of",
    "recompile",
    "search_messages",
}
"""The verbs that leave what is said of every conversation, and in it, as it is."""


class Ear:
    """Hears events for a client's URIs."""

    def __init__(self) -> None:
        self.heard = Record[str]()

    def __call__(self, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated) and not changed_conversation(event):
            self.heard.append(event.uri)

    async def hear(self, count: int = 1) -> None:
        """Wait until so many topics have been told in all."""
        await self.heard.until(times=count)


@asynccontextmanager
async def poller_of(
    letta: Letta, ear: Ear, interval: float
) -> AsyncGenerator[tuple[Poller, Backend, InMemorySubscriptionBus]]:
    bus = InMemorySubscriptionBus()
    bus.subscribe(ear)
    async with (
        open_backend(Settings(base_url=letta.base_url)) as backend,
        open_poller(bus, interval=interval) as poller,
    ):
        yield poller, AnnouncingBackend(backend, bus), bus


async def a_conversation(letta: Letta) -> str:
    agent_id, _ = await letta.new_agent()
    return await letta.new_conversation(agent_id)


def looks(letta: Letta, conversation_id: str) -> int:
    """How often our server asked Letta for a conversation."""
    return sum(map(is_look(conversation_id), letta.fake.requests))


def is_look(conversation_id: str) -> Callable[[RecordedRequest], bool]:
    return lambda each: (each.method, each.path) == ("GET", f"/v1/conversations/{conversation_id}")


async def looked_often(letta: Letta, conversation_id: str) -> None:
    await letta.fake.requests.until(is_look(conversation_id), looks(letta, conversation_id) + 3)


@pytest.mark.fake_only
async def test_a_conversation_is_looked_at_until_its_last_watcher_stops(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    async with poller_of(letta, Ear(), QUICKLY) as (poller, backend, _):
        stop_first = await poller.watch(conversation_id, "one", backend)
        stop_second = await poller.watch(conversation_id, "two", backend)
        stop_first()
        await looked_often(letta, conversation_id)
        stop_second()
        other = await a_conversation(letta)
        await poller.watch(other, "three", backend)
        seen = looks(letta, conversation_id)
        await looked_often(letta, other)

        assert looks(letta, conversation_id) <= seen + 1


@pytest.mark.fake_only
async def test_nothing_is_told_while_nothing_changes(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    ear = Ear()
    async with poller_of(letta, ear, QUICKLY) as (poller, backend, _):
        await poller.watch(conversation_id, "one", backend)
        await looked_often(letta, conversation_id)

    assert ear.heard == []


@pytest.mark.fake_only
async def test_a_change_by_this_server_is_not_told_again_and_again_however_often_is_looked(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    ear = Ear()
    async with poller_of(letta, ear, QUICKLY) as (poller, backend, _):
        await poller.watch(conversation_id, "one", backend)
        await backend.update_conversation(conversation_id, ConversationChanges(summary="new"))
        await ear.hear()
        await looked_often(letta, conversation_id)

    # A look may see the change before this server has been told that it is made, and then it is told of twice.
    assert ear.heard in (["one"], ["one", "one"])


async def test_a_change_is_told_under_every_name_that_is_watched(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    ear = Ear()
    async with poller_of(letta, ear, NEVER) as (poller, backend, bus):
        for topic in ("one", "two", "two"):
            await poller.watch(conversation_id, topic, backend)
        await bus.publish(conversation_changed(conversation_id))
        await ear.hear(2)
        await bus.publish(conversation_changed(conversation_id))
        await ear.hear(4)

    assert ear.heard == ["one", "two", "one", "two"]


@pytest.mark.fake_only
async def test_watching_outlives_a_letta_that_does_not_answer(letta: Letta) -> None:
    conversation_id = await a_conversation(letta)
    ear = Ear()
    async with poller_of(letta, ear, QUICKLY) as (poller, backend, _):
        await poller.watch(conversation_id, "one", backend)
        letta.fake.fail("GET", f"/v1/conversations/{conversation_id}", status=500, times=2)
        await looked_often(letta, conversation_id)
        await letta.send(conversation_id, "after that")
        await ear.hear()


async def test_what_is_not_there_is_not_watched(letta: Letta) -> None:
    async with poller_of(letta, Ear(), NEVER) as (poller, backend, _):
        with pytest.raises(NotFound):
            await poller.watch(f"conv-{uuid.uuid4()}", "one", backend)


async def test_only_so_many_conversations_are_watched(letta: Letta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MOST_WATCHED", 1)
    first, second = await a_conversation(letta), await a_conversation(letta)
    async with poller_of(letta, Ear(), NEVER) as (poller, backend, _):
        stop = await poller.watch(first, "one", backend)
        with pytest.raises(Overloaded, match="1 watched conversations"):
            await poller.watch(second, "two", backend)
        stop()
        stop()
        await poller.watch(second, "two", backend)


async def test_one_caller_leaves_room_for_others_to_watch(letta: Letta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MOST_WATCHED", 4)
    first, second = await a_conversation(letta), await a_conversation(letta)
    async with poller_of(letta, Ear(), NEVER) as (poller, backend, _):
        stops = [await poller.watch(first, uri, backend, "ann") for uri in ("one", "two")]
        with pytest.raises(Overloaded) as refused:
            await poller.watch(second, "three", backend, "ann")
        await poller.watch(second, "three", backend, "bob")
        await poller.watch(first, "one", backend, "eve")
        stops[0]()
        with pytest.raises(Overloaded):
            await poller.watch(second, "three", backend, "ann")
        stops[1]()
        await poller.watch(second, "three", backend, "ann")

    assert refused.value.of_caller


async def test_making_and_deleting_a_conversation_lists_it_anew(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    heard: list[ServerEvent] = []
    async with poller_of(letta, Ear(), NEVER) as (_, backend, bus):
        stop = bus.subscribe(heard.append)
        made = await backend.create_conversation(NewConversation(agent_id=agent_id))
        await backend.delete_conversation(made.id)
        stop()
        await backend.create_conversation(NewConversation(agent_id=agent_id))

    assert heard == [conversation_changed(made.id), AgentListChanged(agent_id)] * 2


def test_every_verb_is_known_to_change_a_conversation_or_not() -> None:
    """A verb that is added has to be thought of here: those who watch are told of what is made through it, or not."""
    verbs = {name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if not name.startswith("_")}
    changing = set(vars(AnnouncingBackend)) & verbs

    assert changing | CHANGES_NOTHING == verbs
    assert not changing & CHANGES_NOTHING
