"""Reading a whole conversation: every message once, whatever the server's list is like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.conversations.history import OVERLAP, PAGE, read_whole
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageQuery, Page

REF = ConversationRef(conversation_id="conv-1", agent_id="agent-1")


def message(number: int) -> Message:
    return Message(id=f"message-{number}", kind="user", type="user_message", text=str(number))


class Listed:
    """A conversation whose messages have places in a list, as the server keeps them: a cursor stands for its message's
    place, and passes over all messages there. What the server stores as one message is `parts` of ours."""

    def __init__(self, places: Sequence[int], *, parts: int = 1) -> None:
        self.rows = [(place, message(number)) for number, place in enumerate(places)]
        self.parts = parts
        self.after_a_page: Callable[[], None] = lambda: None
        self.largest = 0

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        assert ref == REF
        assert query.order == "asc"
        place_of = {each.id: place for place, each in self.rows}
        if query.after and query.after not in place_of:
            raise NotFound.message(query.after)
        beyond = [row for row in self.rows if not query.after or row[0] > place_of[query.after]]
        taken = sorted(beyond, key=lambda row: row[0])[: query.limit]
        self.largest = max(self.largest, len(taken))
        self.after_a_page()
        items = tuple(each for _, each in taken for _ in range(self.parts))
        return Page(items=items, more=len(taken) == query.limit)


async def read(listed: Listed, after: str = "") -> list[Message]:
    return [each async for some in read_whole(cast("Backend", listed), REF, after=after) for each in some]


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7])
@pytest.mark.parametrize("parts", [1, 2])
async def test_every_message_comes_once_and_in_order(count: int, parts: int) -> None:
    listed = Listed(range(count), parts=parts)

    texts = [each.text for each in await read(listed)]

    assert texts == [str(number) for number in range(count) for _ in range(parts)]
    assert listed.largest <= PAGE


@pytest.mark.parametrize("size", [2, 3, OVERLAP])
async def test_messages_that_share_the_place_at_the_edge_of_a_page_are_not_passed_over(size: int) -> None:
    for on_the_first_page in range(1, size):
        place = PAGE - on_the_first_page
        listed = Listed([*range(place), *[place] * size, *range(place + 1, 2 * PAGE)])

        texts = [each.text for each in await read(listed)]

        assert texts == [str(number) for number in range(len(listed.rows))], on_the_first_page


@given(st.lists(st.integers(1, OVERLAP), max_size=40))
async def test_messages_that_share_places_anywhere_are_not_passed_over(sizes: list[int]) -> None:
    listed = Listed([place for place, size in enumerate(sizes) for _ in range(size)])

    texts = [each.text for each in await read(listed)]

    assert texts == [str(number) for number in range(len(listed.rows))]


async def test_reading_goes_on_after_a_message() -> None:
    listed = Listed(range(2 * PAGE))

    assert [each.text for each in await read(listed, "message-149")] == [str(number) for number in range(150, 200)]


async def test_what_is_appended_meanwhile_comes_too_and_once() -> None:
    listed = Listed(range(PAGE))
    listed.after_a_page = lambda: listed.rows.append((len(listed.rows), message(len(listed.rows))))

    ids = [each.id for each in await read(listed)]

    assert ids[: PAGE + 1] == [f"message-{number}" for number in range(PAGE + 1)]
    assert len(set(ids)) == len(ids)


async def test_an_unknown_place_to_go_on_is_an_error() -> None:
    with pytest.raises(NotFound):
        await read(Listed(range(3)), "message-77")
