"""Reading a conversation back, page by page, from a conversation in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.conversations.history import DEFAULT_KINDS, MOST_REQUESTS, HistoryPage, read_history
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.model import (
    ConversationRef,
    Message,
    MessageKind,
    MessageQuery,
    Order,
    Page,
    ToolCall,
)

REF = ConversationRef(conversation_id="conv-1", agent_id="agent-1")
Row = list[Message]
"""What a server stores as one message: one or more of ours, which share its id."""


class Memory:
    """A conversation in memory. Knows whether there is more beyond a page or, when not `knows_the_end`, says that there
    may be whenever a page is full."""

    def __init__(self, rows: Sequence[Row], *, knows_the_end: bool = True) -> None:
        self.rows = rows
        self.knows_the_end = knows_the_end
        self.requests = 0

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        assert ref == REF
        self.requests += 1
        ids = [row[0].id for row in self.rows]
        if unknown := {query.before, query.after} - {"", *ids}:
            raise NotFound.message(unknown.pop())
        first = ids.index(query.after) + 1 if query.after else 0
        last = ids.index(query.before) if query.before else len(ids)
        within = self.rows[first:last]
        taken = within[-query.limit :] if query.order == "desc" else within[: query.limit]
        more = len(taken) < len(within) if self.knows_the_end else len(taken) == query.limit
        return Page(items=tuple(message for row in taken for message in row), more=more)


async def _read(memory: Memory, query: MessageQuery, kinds: Iterable[MessageKind] = DEFAULT_KINDS) -> HistoryPage:
    return await read_history(cast("Backend", memory), REF, query, frozenset(kinds))


async def _page_through(memory: Memory, start: MessageQuery, kinds: Iterable[MessageKind]) -> list[HistoryPage]:
    """The page that `start` asks for and all that its cursors lead to, in the order's direction, oldest page first."""
    pages = [await _read(memory, start, kinds)]
    while cursor := pages[-1].older if start.order == "desc" else pages[-1].newer:
        assert len(pages) <= len(memory.rows) + 2, "the cursors lead round in a circle"
        place = {"before": cursor} if start.order == "desc" else {"after": cursor}
        pages.append(await _read(memory, MessageQuery(order=start.order, limit=start.limit, **place), kinds))
    return pages[::-1] if start.order == "desc" else pages


def _message(number: int, kind: MessageKind, part: int = 0) -> Message:
    return Message(id=f"message-{number}", kind=kind, type="", text=f"{number}.{part}")


TALK: list[MessageKind] = ["user", "assistant", "reasoning", "system", "summary", "other"]


@st.composite
def conversations(draw: st.DrawFn) -> list[Row]:
    kinds_of_rows = draw(st.lists(st.lists(st.sampled_from(TALK), min_size=1, max_size=3), max_size=30))
    return [
        [_message(number, kind, part) for part, kind in enumerate(kinds)] for number, kinds in enumerate(kinds_of_rows)
    ]


kind_filters: st.SearchStrategy[frozenset[MessageKind]] = st.frozensets(st.sampled_from(TALK), min_size=1)
orders: st.SearchStrategy[Order] = st.sampled_from(["asc", "desc"])


@given(conversations(), kind_filters, orders, st.integers(1, 8), st.booleans())
async def test_paging_shows_every_wanted_message_once_and_in_order(
    rows: list[Row], kinds: frozenset[MessageKind], order: Order, limit: int, knows_the_end: bool
) -> None:
    memory = Memory(rows, knows_the_end=knows_the_end)

    pages = await _page_through(memory, MessageQuery(order=order, limit=limit), kinds)

    # What the server stores as one message is one, and none is read beyond those that were asked for.
    assert max(len({message.id for message in page.messages}) for page in pages) <= limit
    wanted = [message for row in rows for message in row if message.kind in kinds]
    assert [message for page in pages for message in page.messages] == wanted


@given(conversations().filter(bool), kind_filters, st.integers(1, 5), st.booleans(), st.data())
async def test_the_cursors_of_any_page_lead_to_all_that_is_before_and_behind_it(
    rows: list[Row], kinds: frozenset[MessageKind], limit: int, knows_the_end: bool, data: st.DataObject
) -> None:
    memory = Memory(rows, knows_the_end=knows_the_end)
    place = data.draw(st.sampled_from([row[0].id for row in rows]))
    start = data.draw(
        st.sampled_from(
            [
                MessageQuery(limit=limit, order="desc", before=place),
                MessageQuery(limit=limit, order="asc", after=place),
            ]
        )
    )

    page = await _read(memory, start, kinds)
    older = newer = list[HistoryPage]()
    if page.older:
        older = await _page_through(memory, MessageQuery(before=page.older, limit=limit, order="desc"), kinds)
    if page.newer:
        newer = await _page_through(memory, MessageQuery(after=page.newer, limit=limit, order="asc"), kinds)

    shown = [message for each in (*older, page, *newer) for message in each.messages]
    # A page before the first message, or behind the last, is empty and leads nowhere.
    first, last = rows[0][0].id, rows[-1][0].id
    if (start.before, start.after) not in ((first, ""), ("", last)):
        assert shown == [message for row in rows for message in row if message.kind in kinds]


async def test_a_page_has_as_many_of_the_wanted_kind_as_were_asked_for_when_they_are_near() -> None:
    rows = [[_message(n, "user" if n % 3 == 0 else "reasoning")] for n in range(30)]

    page = await _read(Memory(rows), MessageQuery(limit=4))

    assert len(page.messages) >= 4
    assert page.older


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_has_no_more_than_were_asked_for_when_it_takes_several_requests(order: Order) -> None:
    memory = Memory([[_message(number, "user" if 2 <= number < 10 else "reasoning")] for number in range(12)])

    page = await _read(memory, MessageQuery(limit=4, order=order))

    assert [each.id for each in page.messages] == [
        f"message-{number}" for number in (range(2, 6) if order == "asc" else range(6, 10))
    ]
    assert memory.requests == 2


async def test_a_search_for_a_rare_kind_is_bounded_and_can_go_on_from_where_it_ended() -> None:
    rows = [[_message(n, "summary" if n == 0 else "user")] for n in range(100)]
    memory = Memory(rows)

    page = await _read(memory, MessageQuery(limit=5), {"summary"})

    assert memory.requests == MOST_REQUESTS
    assert page.messages == ()
    assert page.older == f"message-{100 - 5 * MOST_REQUESTS}"
    pages = await _page_through(memory, MessageQuery(limit=5), {"summary"})
    assert [message.text for page in pages for message in page.messages] == ["0.0"]


async def test_one_request_is_enough_when_every_message_is_wanted() -> None:
    memory = Memory([[_message(n, "user")] for n in range(30)])

    await _read(memory, MessageQuery(limit=10))

    assert memory.requests == 1


async def test_an_empty_conversation_is_one_empty_page() -> None:
    assert await _read(Memory([]), MessageQuery()) == HistoryPage(messages=())


async def test_an_unknown_cursor_is_told() -> None:
    with pytest.raises(NotFound, match="message-99"):
        await _read(Memory([[_message(0, "user")]]), MessageQuery(before="message-99"))


async def test_thoughts_and_the_system_prompt_are_shown_only_when_asked_for() -> None:
    memory = Memory([[_message(0, "system")], [_message(1, "reasoning"), _message(1, "assistant", 1)]])

    assert [each.kind for each in (await _read(memory, MessageQuery())).messages] == ["assistant"]
    everything = await _read(memory, MessageQuery(), {"system", "reasoning", "assistant"})
    assert [each.kind for each in everything.messages] == ["system", "reasoning", "assistant"]


def _calls(number: int, *ids: str, kind: MessageKind = "tool") -> Message:
    calls = tuple(ToolCall(id=each, name=f"tool {each}") for each in ids)
    return Message(id=f"message-{number}", kind=kind, type="tool_call_message", calls=calls)


def _results(number: int, *ids: str) -> Message:
    calls = tuple(ToolCall(id=each, status="success", result=f"result {each}") for each in ids)
    return Message(id=f"message-{number}", kind="tool", type="tool_return_message", calls=calls)


def _told(page: HistoryPage) -> list[list[tuple[str, str, str]]]:
    return [[(call.id, call.status, call.result) for call in each.calls] for each in page.messages]


async def test_a_result_is_shown_at_its_call() -> None:
    memory = Memory([[_calls(1, "a", "b")], [_results(2, "b")], [_results(3, "a")], [_message(4, "assistant")]])

    page = await _read(memory, MessageQuery())

    assert _told(page) == [[("a", "success", "result a"), ("b", "success", "result b")], []]
    assert page.messages[0].calls[0].name == "tool a"


async def test_a_page_reaches_on_rather_than_part_a_call_from_its_result() -> None:
    memory = Memory([[_calls(1, "a")], [_results(2, "a")]])

    assert _told(await _read(memory, MessageQuery(limit=1))) == [[("a", "success", "result a")]]
    assert _told(await _read(memory, MessageQuery(limit=1, order="asc"))) == [[("a", "success", "result a")]]


async def test_a_call_that_was_approved_shows_its_result() -> None:
    memory = Memory([[_calls(1, "a", kind="approval")], [_results(2, "a")]])

    assert _told(await _read(memory, MessageQuery())) == [[("a", "success", "result a")]]
    assert _told(await _read(memory, MessageQuery(), {"approval"})) == [[("a", "pending", "")]]
    assert _told(await _read(memory, MessageQuery(), {"tool"})) == [[("a", "success", "result a")]]


async def test_results_for_calls_here_and_elsewhere_are_told_apart() -> None:
    memory = Memory([[_calls(1, "a")], [_results(2, "a", "elsewhere")]])

    page = await _read(memory, MessageQuery())

    assert _told(page) == [[("a", "success", "result a")], [("elsewhere", "success", "result elsewhere")]]


async def test_no_result_is_lost_when_calls_have_no_ids() -> None:
    memory = Memory([[_calls(1, "")], [_results(2, "")]])

    page = await _read(memory, MessageQuery())

    assert "result " in [call.result for each in page.messages for call in each.calls]


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True), max_size=6), st.integers(1, 4)
)
async def test_every_call_and_every_result_is_shown_wherever_the_pages_end(calls: list[list[str]], limit: int) -> None:
    rows: list[Row] = []
    for turn, ids in enumerate(calls):
        unique = [f"{turn}{each}" for each in ids]
        rows += [[_calls(2 * turn, *unique)], [_results(2 * turn + 1, *unique)]]

    pages = await _page_through(Memory(rows), MessageQuery(limit=limit), DEFAULT_KINDS)

    shown = [call for page in pages for message in page.messages for call in message.calls]
    expected = {f"{turn}{each}" for turn, ids in enumerate(calls) for each in ids}
    assert {call.id for call in shown if call.name} == expected
    assert sorted(call.result for call in shown if call.result) == sorted(f"result {each}" for each in expected)
