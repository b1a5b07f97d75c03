"""The backend of a caller with a list of agents: it has every operation, and its pages are whole."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from letta_conversations_mcp.backends import scoped as scoped_module
from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.backends.scoped import ScopedBackend
from letta_conversations_mcp.core.backend import Backend, NoSearch
from letta_conversations_mcp.core.errors import InvalidArgument, NotFound, Refused
from letta_conversations_mcp.core.model import (
    ConversationQuery,
    ConversationRef,
    Image,
    MessageQuery,
    MessageSearch,
    NewAgent,
    Order,
    OrderBy,
    OutgoingMessage,
)
from letta_conversations_mcp.settings import BackendSettings
from tests.backends.operations import call, operations
from tests.rig.letta_server import Letta

OPEN_TO_ALL = {"check", "check_message", "list_models", "list_agents", "list_conversations", "create_agent"}
"""The operations that take nobody's id, or have tests of their own below."""

OF_AN_ID = {
    "get_conversation",
    "owner_of",
    "list_with_owner",
    "list_isolated_blocks",
    "update_conversation",
    "delete_conversation",
}
"""The operations that know no default conversation."""


def test_no_operation_of_the_protocol_is_forgotten() -> None:
    assert operations() - set(vars(ScopedBackend)) == set()
    assert Backend not in ScopedBackend.__mro__, "it would inherit operations that do nothing"


@asynccontextmanager
async def scoped(letta: Letta, *agents: str) -> AsyncGenerator[ScopedBackend]:
    async with open_backend(BackendSettings(base_url=letta.base_url)) as backend:
        yield ScopedBackend(backend, frozenset(agents))


@pytest.mark.parametrize("operation", sorted(operations() - OPEN_TO_ALL))
async def test_every_operation_finds_nothing_of_somebody_else(letta: Letta, operation: str) -> None:
    mine, _ = await letta.new_agent()
    theirs, _ = await letta.new_agent()
    conversation = await letta.new_conversation(theirs, "theirs")
    await letta.send(conversation, "a secret")
    [run] = await letta.request("GET", "/v1/runs/", params={"conversation_id": conversation})
    refs = [
        ConversationRef(conversation_id=conversation, agent_id=theirs),
        # As if it were an own agent's.
        ConversationRef(conversation_id=conversation, agent_id=mine),
        ConversationRef(conversation_id="default", agent_id=theirs),
    ]
    async with scoped(letta, mine) as backend:
        for ref in refs:
            if operation in ("get_agent", "delete_agent", "create_conversation") and ref.agent_id == mine:
                continue
            if ref.conversation_id == "default" and operation in OF_AN_ID:
                continue
            with pytest.raises(NotFound):
                await call(backend, operation, ref, run["id"])

    [kept] = await letta.request("GET", "/v1/conversations/", params={"agent_id": theirs})
    assert kept["summary"] == "theirs"
    assert await letta.stored_texts(theirs, conversation) == ["a secret"]


# Search has tests of its own; a stream can only be resumed while it lasts.
@pytest.mark.parametrize("operation", sorted(operations() - OPEN_TO_ALL - {"search_messages", "resume"}))
async def test_every_operation_reaches_an_own_conversation(letta: Letta, operation: str) -> None:
    mine, _ = await letta.new_agent()
    conversation = await letta.new_conversation(mine)
    await letta.send(conversation, "hello")
    [run] = await letta.request("GET", "/v1/runs/", params={"conversation_id": conversation})
    ref = ConversationRef(conversation_id=conversation, agent_id=mine)
    async with scoped(letta, mine) as backend:
        await call(backend, operation, ref, run["id"])


@pytest.mark.parametrize("operation", ["list_messages", "search_messages", "send", "cancel", "fork", "get_prompt"])
async def test_a_conversation_of_one_agent_is_none_of_another_of_the_same_caller(letta: Letta, operation: str) -> None:
    owner, other = [(await letta.new_agent())[0] for _ in range(2)]
    conversation = await letta.new_conversation(owner)
    await letta.send(conversation, "hello")
    async with scoped(letta, owner, other) as backend:
        with pytest.raises(NotFound):
            await call(backend, operation, ConversationRef(conversation_id=conversation, agent_id=other), "")

    assert await letta.stored_texts(owner, conversation) == ["hello"]


async def test_a_run_of_another_conversation_is_none_of_this_one(letta: Letta) -> None:
    mine, _ = await letta.new_agent()
    one, another = [await letta.new_conversation(mine) for _ in range(2)]
    await letta.send(another, "hello")
    [run] = await letta.request("GET", "/v1/runs/", params={"conversation_id": another})
    async with scoped(letta, mine) as backend:
        assert await backend.list_run_chunks(ConversationRef(conversation_id=another, agent_id=mine), run["id"])
        with pytest.raises(NotFound):
            await backend.list_run_chunks(ConversationRef(conversation_id=one, agent_id=mine), run["id"])


@pytest.mark.parametrize("order_by", ["created_at", "last_message_at"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_of_several_agents_are_whole_and_in_order(letta: Letta, order: Order, order_by: OrderBy) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(3)]
    stranger, _ = await letta.new_agent()
    made: list[str] = []
    for number in range(11):
        made.append(await letta.new_conversation(agents[number % 3], f"number {number}"))
        await letta.new_conversation(stranger)
    said = [made[number] for number in (4, 0, 9, 3, 7)]
    for each in said:
        await letta.send(each, "hello")
    expected = made if order_by == "created_at" else said
    found: list[str] = []
    async with scoped(letta, *agents) as backend:
        query = ConversationQuery(order=order, order_by=order_by, limit=2)
        while True:
            page = await backend.list_conversations(query)
            found += [each.id for each in page.items]
            if not page.more or (order_by == "last_message_at" and len(found) >= len(said)):
                break
            query = query.model_copy(update={"after": page.items[-1].id})

    assert found[: len(expected)] == (expected if order == "asc" else expected[::-1])
    assert len(set(found)) == len(found)
    assert set(found) <= set(made)


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, True), (3, False), (4, False)])
@pytest.mark.parametrize("asked_at_a_time", [1, scoped_module.AGENTS_PAGE])
async def test_a_page_says_whether_there_is_more(
    letta: Letta, monkeypatch: pytest.MonkeyPatch, limit: int, more: bool, asked_at_a_time: int
) -> None:
    monkeypatch.setattr(scoped_module, "AGENTS_PAGE", asked_at_a_time)
    agents = [(await letta.new_agent())[0] for _ in range(3)]
    await letta.new_agent()
    for number in range(3):
        await letta.new_conversation(agents[number])
    async with scoped(letta, *agents) as backend:
        listed = await backend.list_agents(limit=limit)
        conversations = await backend.list_conversations(ConversationQuery(limit=limit))

    assert [each.id for each in listed.items] == agents[::-1][:limit]
    assert len(conversations.items) == min(limit, 3)
    # There may be more behind a full page of one agent's: only its server knows.
    assert (listed.more, conversations.more) == (more, more or limit == 1)


async def test_there_is_more_when_one_agent_alone_has_more(letta: Letta) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(2)]
    made = [await letta.new_conversation(agents[0]) for _ in range(3)]
    async with scoped(letta, *agents) as backend:
        page = await backend.list_conversations(ConversationQuery(limit=2))

    assert ([each.id for each in page.items], page.more) == (made[:0:-1], True)


async def test_a_list_can_be_ordered_by_the_last_run_only_for_one_agent(letta: Letta) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(2)]
    conversation = await letta.new_conversation(agents[0])
    query = ConversationQuery(order_by="last_run_completion")
    async with scoped(letta, *agents) as several, scoped(letta, agents[0]) as one:
        with pytest.raises(InvalidArgument, match="give one of them as agent"):
            await several.list_conversations(query)
        assert [each.id for each in (await one.list_conversations(query)).items] == [conversation]


async def test_agents_are_listed_page_by_page_between_those_of_others(letta: Letta) -> None:
    agents: list[str] = []
    for _ in range(5):
        agents.append((await letta.new_agent())[0])
        await letta.new_agent()
    found: list[str] = []
    after = ""
    async with scoped(letta, *agents) as backend:
        while True:
            page = await backend.list_agents(limit=2, after=after)
            found += [each.id for each in page.items]
            if not page.more:
                break
            after = found[-1]
        with pytest.raises(Refused, match="certain agents only"):
            await backend.create_agent(NewAgent(name="x", model="m"))

    assert found == agents[::-1]


def hit(agent_id: str, text: str) -> dict[str, str]:
    return {
        "message_id": f"message-{text}",
        "message_type": "assistant_message",
        "content": text,
        "agent_id": agent_id,
        "conversation_id": "",
        "created_at": "2026-11-21T06:12:00Z",
    }


@pytest.mark.fake_only
async def test_a_search_of_everything_is_one_of_every_agent(letta: Letta) -> None:
    mine, too = sorted([(await letta.new_agent())[0] for _ in range(2)])
    stranger, _ = await letta.new_agent()
    # As Letta Cloud answers, but for one that is not asked for.
    for hits in ([hit(mine, "first"), hit(stranger, "a secret"), hit(mine, "third")], [hit(too, "second")]):
        letta.fake.fail("POST", "/v1/messages/search", status=200, body=json.dumps(hits))
    async with scoped(letta, mine, too) as backend:
        found = await backend.search_messages(MessageSearch(query="x"))
    asked = [each.json["agent_id"] for each in letta.fake.requests if each.path == "/v1/messages/search"]

    assert sorted(asked[-2:]) == [mine, too]
    assert sorted(each.message.text for each in found) == ["first", "second", "third"]


async def test_where_there_is_no_search_that_is_said(letta: Letta) -> None:
    agents = [(await letta.new_agent())[0] for _ in range(2)]
    async with scoped(letta, *agents) as backend:
        with pytest.raises(NoSearch):
            await backend.search_messages(MessageSearch(query="x"))


async def test_every_message_of_a_conversation_is_a_cursor_and_no_other(letta: Letta) -> None:
    mine, _ = await letta.new_agent()
    one, another = [await letta.new_conversation(mine) for _ in range(2)]
    for text in ("first", "second", "third"):
        await letta.send(one, text)
        await letta.send(another, text)
    here = ConversationRef(conversation_id=one, agent_id=mine)
    there = ConversationRef(conversation_id=another, agent_id=mine)
    async with open_backend(BackendSettings(base_url=letta.base_url)) as everything:

        def scoped_anew() -> ScopedBackend:
            """One that has listed nothing yet."""
            return ScopedBackend(everything, frozenset([mine]))

        async def listed(ref: ConversationRef, **query: Any) -> list[str]:
            page = await scoped_anew().list_messages(ref, MessageQuery(limit=100, **query))
            return list(dict.fromkeys(each.id for each in page.items))

        ids = await listed(here)
        for each in ids:
            around = [*await listed(here, before=each), *await listed(here, after=each, order="asc")]
            assert around == [other for other in ids if other != each]
        for each in await listed(there):
            with pytest.raises(NotFound):
                await listed(here, before=each)
            with pytest.raises(NotFound):
                await listed(here, after=each, order="asc")


async def test_an_image_in_the_network_of_the_letta_server_is_refused_before_and_when_it_is_sent(letta: Letta) -> None:
    """Not only by the code that asks first."""
    mine, _ = await letta.new_agent()
    place = await letta.new_conversation(mine)
    inside = OutgoingMessage(text="look", images=(Image(url="https://10.0.0.1/x.png"),))
    async with scoped(letta, mine) as backend:
        with pytest.raises(InvalidArgument, match="public"):
            await backend.check_message(inside)
        with pytest.raises(InvalidArgument, match="public"):
            async with backend.send(ConversationRef(conversation_id=place, agent_id=mine), inside):
                raise AssertionError("it was sent")

    assert await letta.stored_texts(mine, place) == []
