"""What a backend for certain agents hands on: each allowed operation as it came, and no other."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest

from letta_conversations_mcp.backends.scoped import ScopedBackend
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.model import (
    Agent,
    Approvals,
    CompactionSettings,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    Decision,
    FoundMessage,
    Message,
    MessageQuery,
    MessageSearch,
    NewConversation,
    OutgoingMessage,
    Page,
)
from tests.backends.operations import operations

MINE, ALSO_MINE, THEIRS = "agent-1", "agent-2", "agent-9"
HERE = ConversationRef(conversation_id="conv-1", agent_id=MINE)
DEFAULT = ConversationRef(conversation_id="default", agent_id=MINE)
CONVERSATION = Conversation(id="conv-1", agent_id=MINE)
MESSAGE = OutgoingMessage(text="hello", otid="otid-1")
APPROVALS = Approvals(decisions=(Decision(tool_call_id="call_1", approve=True),), otid="otid-1")
FOUND = [
    FoundMessage(conversation_id="conv-1", agent_id=agent, message=Message(id=f"message-{agent}", kind="user", type=""))
    for agent in (MINE, THEIRS, MINE, ALSO_MINE)
]

ANSWERS: dict[str, Any] = {
    "owner_of": MINE,
    "get_conversation": CONVERSATION,
    "list_messages": Page(items=(Message(id="message-1", kind="user", type=""),)),
    "search_messages": FOUND,
    "list_agents": Page(items=tuple(Agent(id=each, name=each) for each in (MINE, THEIRS, ALSO_MINE))),
}


class Result:
    """An answer that can be awaited, and entered as a stream."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, object]:
        yield from ()
        return self._value

    async def __aenter__(self) -> object:
        return self._value

    async def __aexit__(self, *error: object) -> None: ...


class Recorder:
    """A backend of which everything is known that it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in operations():
            return f"its {name}"

        def called(*arguments: object, **named: object) -> Result:
            self.asked.append((name, arguments, named))
            return Result(ANSWERS.get(name, f"answer of {name}"))

        return called


@pytest.fixture
def inner() -> Recorder:
    return Recorder()


@pytest.fixture
def backend(inner: Recorder) -> ScopedBackend:
    return ScopedBackend(cast("Backend", inner), frozenset([MINE, ALSO_MINE]))


@pytest.mark.parametrize(
    ("operation", "arguments", "named"),
    [
        ("check", (), {}),
        ("check_message", (MESSAGE,), {}),
        ("list_models", (), {}),
        ("get_agent", (MINE,), {}),
        ("delete_agent", (MINE,), {}),
        ("create_conversation", (NewConversation(agent_id=MINE, summary="x"),), {}),
        ("get_conversation", ("conv-1",), {}),
        ("owner_of", ("conv-1",), {}),
        ("list_conversations", (ConversationQuery(agent_id=MINE, search="x"),), {}),
        ("list_isolated_blocks", (CONVERSATION,), {}),
        ("update_conversation", ("conv-1", ConversationChanges(summary="x")), {}),
        ("delete_conversation", ("conv-1",), {}),
        ("fork", (HERE,), {"at_message": "", "hidden": False}),
        ("fork", (HERE,), {"at_message": "message-1", "hidden": True}),
        ("list_messages", (HERE, MessageQuery(limit=3, order="asc")), {}),
        ("send", (HERE, MESSAGE), {}),
        ("send", (DEFAULT, MESSAGE), {}),
        ("resume", (HERE, MESSAGE), {"run_id": "run-1", "after": 7}),
        ("run_of_otid", (HERE, "otid-1"), {}),
        ("respond", (HERE, APPROVALS), {}),
        ("list_approvals", (HERE,), {}),
        ("cancel", (HERE, "run-1"), {}),
        ("cancel", (HERE, ""), {}),
        ("compact", (HERE, CompactionSettings()), {}),
        ("recompile", (HERE,), {"dry_run": True}),
        ("get_prompt", (HERE,), {}),
        ("get_context_use", (DEFAULT,), {}),
        ("list_runs", (HERE,), {"limit": 5}),
        ("get_run", (HERE, "run-1"), {}),
        ("list_run_chunks", (HERE, "run-1"), {}),
    ],
)
async def test_what_is_allowed_is_handed_on_as_it_came(
    inner: Recorder, backend: ScopedBackend, operation: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    called = getattr(backend, operation)(*arguments, **named)
    if hasattr(called, "__aenter__"):
        async with called as answer:
            pass
    else:
        answer = await called

    if operation not in ("delete_agent", "delete_conversation", "check_message"):
        assert answer == ANSWERS.get(operation, f"answer of {operation}")
    assert inner.asked[-1] == (operation, arguments, named)
    assert not [asked for name, asked, _ in inner.asked if name == "list_messages" and asked[0] != HERE]


@pytest.mark.parametrize(
    ("operation", "arguments", "named"),
    [
        ("list_conversations", (ConversationQuery(agent_id=THEIRS),), {}),
        ("list_messages", (HERE, MessageQuery(before="message-2")), {}),
        ("list_messages", (HERE, MessageQuery(after="message-2")), {}),
        ("fork", (HERE,), {"at_message": "message-2"}),
        ("search_messages", (MessageSearch(query="x", agent_id=THEIRS),), {}),
        ("list_agents", (), {"after": THEIRS}),
    ],
)
async def test_what_names_something_of_others_is_not_handed_on(
    inner: Recorder, backend: ScopedBackend, operation: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    try:
        answer = await getattr(backend, operation)(*arguments, **named)
    except NotFound:
        answer = Page[Any](items=())

    assert answer == Page[Any](items=())
    assert (operation, arguments, named) not in inner.asked


async def test_the_messages_of_an_own_conversation_come_with_its_agent(inner: Recorder, backend: ScopedBackend) -> None:
    query = MessageQuery(limit=3)

    assert await backend.list_with_owner("conv-1", query) == (MINE, ANSWERS["list_messages"])
    assert inner.asked[-1] == ("list_messages", (HERE, query), {})


async def test_no_messages_are_asked_for_before_the_conversation_is_known_to_be_the_callers(inner: Recorder) -> None:
    backend = ScopedBackend(cast("Backend", inner), frozenset([ALSO_MINE]))

    with pytest.raises(NotFound):
        await backend.list_with_owner("conv-1", MessageQuery())

    assert {name for name, _, _ in inner.asked} == {"owner_of", "get_conversation"}


async def test_a_list_of_agents_is_asked_for_what_the_caller_looks_for(inner: Recorder, backend: ScopedBackend) -> None:
    page = await backend.list_agents(name="n", search="s", tag="t", after=MINE, limit=5)

    [(_, _, named)] = inner.asked
    assert [each.id for each in page.items] == [MINE, ALSO_MINE]
    assert {"name": "n", "search": "s", "tag": "t", "after": MINE}.items() <= named.items()


@pytest.mark.parametrize("agent_id", [MINE, ""])
async def test_a_search_finds_nothing_of_others_even_if_they_are_in_the_answer(
    inner: Recorder, backend: ScopedBackend, agent_id: str
) -> None:
    found = await backend.search_messages(MessageSearch(query="tea", agent_id=agent_id, mode="words", limit=2))

    searches = [arguments[0] for name, arguments, _ in inner.asked if name == "search_messages"]
    assert [each.agent_id for each in found] == [MINE, MINE]
    assert sorted(each.agent_id for each in searches) == ([MINE] if agent_id else [MINE, ALSO_MINE])
    assert {(each.query, each.mode, each.limit) for each in searches} == {("tea", "words", 2)}


@pytest.mark.parametrize("fact", sorted(set(Backend.__annotations__) | {"new_agent_note"}))
def test_it_says_of_itself_what_the_whole_backend_says(backend: ScopedBackend, fact: str) -> None:
    assert getattr(backend, fact) == f"its {fact}"
