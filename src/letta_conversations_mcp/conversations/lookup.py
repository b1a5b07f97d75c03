"""Finds what a caller names: agents by id or name, conversations by id, by summary, or as an agent's default. Also the
memory blocks that a new conversation asks for.

Every id is checked against its pattern here, before it can become part of a URL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from difflib import SequenceMatcher, get_close_matches

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Ambiguous, InvalidArgument, NotFound, Refused
from letta_conversations_mcp.core.model import (
    AGENT_ID,
    CONVERSATION_ID,
    DEFAULT_CONVERSATION,
    MESSAGE_ID,
    RUN_ID,
    Agent,
    Conversation,
    ConversationQuery,
    ConversationRef,
    Page,
)
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote
from letta_conversations_mcp.core.times import parse_time

CANDIDATES = 8
"""How many agents an error lists: enough to recognise the right one."""

KNOWN = 100
"""How many of the newest agents a misspelt name is compared with."""

COUNTED_PAGES = 10
"""Pages to count conversations on."""

LOOKUP_PAGE = 100
"""Conversations per request when all have to be scanned."""


async def find_agent(backend: Backend, agent: str) -> Agent:
    """The agent of this id or exact name.

    Raises:
        InvalidArgument: it is empty. (Anything but an id is looked up as a name: an agent may be called "agent-smith".)
        NotFound, Ambiguous: none, or several, have this name; the error lists candidates.
    """
    wanted = agent.strip()
    if not wanted:
        raise InvalidArgument("agent", "an agent's id (agent-…) or name is needed.")
    if AGENT_ID.fullmatch(wanted):
        return await backend.get_agent(wanted)
    named = await backend.list_agents(name=wanted, limit=CANDIDATES)
    if len(named.items) == 1:
        return named.items[0]
    if named.items:
        raise Ambiguous(wanted, [each.id for each in named.items], more=named.more)
    similar = (await backend.list_agents(search=wanted, limit=CANDIDATES)).items
    if not similar:
        known = (await backend.list_agents(limit=KNOWN)).items
        close = get_close_matches(wanted, [each.name for each in known], CANDIDATES)
        similar = tuple(each for each in known if each.name in close)
    closest = sorted(similar, key=lambda each: SequenceMatcher(None, wanted, each.name).ratio(), reverse=True)
    raise NotFound.agent(wanted, [f"{quote(each.name, NAME_CHARS)!r} ({each.id})" for each in closest[:CANDIDATES]])


def check_conversation_id(conversation_id: str) -> str:
    """The id, trimmed. Raises InvalidArgument for anything else, and for `default`."""
    wanted = conversation_id.strip()
    if wanted == DEFAULT_CONVERSATION:
        raise InvalidArgument(
            "conversation_id",
            "the default conversation of an agent has no id of its own and cannot be named here; give a conv-… id.",
        )
    if not CONVERSATION_ID.fullmatch(wanted):
        raise InvalidArgument(
            "conversation_id",
            f"{quote(wanted, NAME_CHARS)!r} is no conversation id; one looks like "
            "conv-123e4567-e89b-42d3-a456-426614174000; list_conversations and create_conversation give them.",
        )
    return wanted


def _checked(argument: str, given: str, pattern: re.Pattern[str], advice: str) -> str:
    """The id, trimmed; "" for none. Raises InvalidArgument."""
    wanted = given.strip()
    if wanted and not pattern.fullmatch(wanted):
        raise InvalidArgument(argument, f"{quote(wanted, NAME_CHARS)!r} is {advice}")
    return wanted


def check_conversation_cursor(after: str) -> str:
    advice = "no cursor; use the id of the last conversation on the page before (conv-…)."
    return _checked("after", after, CONVERSATION_ID, advice)


def check_agent_cursor(after: str) -> str:
    return _checked("after", after, AGENT_ID, "no agent id; use the id of the last agent on the page before.")


def check_message_id(argument: str, message_id: str) -> str:
    return _checked(argument, message_id, MESSAGE_ID, "no cursor; use one from list_messages (message-…).")


def check_run_id(run_id: str) -> str:
    return _checked("run_id", run_id, RUN_ID, "no run id; leave it out, or use one from send_message.")


async def locate(backend: Backend, conversation_id: str, agent: str = "") -> ConversationRef:
    """The conversation that a call names: by id, or an agent's `default`. An agent given beside an id must be its
    owner.

    Does not check that the conversation still exists: its owner may come from a cache.
    """
    if conversation_id.strip() == DEFAULT_CONVERSATION:
        if not agent.strip():
            raise InvalidArgument(
                "agent", "conversation_id='default' needs the agent whose default conversation is meant."
            )
        found = await find_agent(backend, agent)
        return ConversationRef(conversation_id=DEFAULT_CONVERSATION, agent_id=found.id)
    checked = check_conversation_id(conversation_id)
    owner = await backend.owner_of(checked)
    if agent.strip():
        found = await find_agent(backend, agent)
        if found.id != owner:
            raise InvalidArgument(
                "agent",
                f"conversation {checked} belongs to {owner}, not to {found.id}; leave agent out, the id is enough.",
            )
    return ConversationRef(conversation_id=checked, agent_id=owner)


async def conversations_with_summary(backend: Backend, agent_id: str, summary: str) -> tuple[Conversation, ...]:
    """The agent's conversations with exactly this summary, oldest first, archived ones included.

    The scan ends with the first page on which a second one is found.
    """
    # The server uses the search as an SQL LIKE pattern, so it gets the longest part without special characters.
    search = max(re.split(r"[\\%_]", summary), key=len)
    query = ConversationQuery(agent_id=agent_id, search=search, archived="all", order="asc", limit=LOOKUP_PAGE)
    matches: dict[str, Conversation] = {}
    seen: set[str] = set()
    while True:
        page = await backend.list_conversations(query)
        matches |= {each.id: each for each in page.items if each.summary == summary}
        if not page.more or page.items[-1].id in seen or len(matches) > 1:
            return tuple(matches.values())
        seen |= {each.id for each in page.items}
        query = query.model_copy(update={"after": page.items[-1].id})


async def count_conversations(
    backend: Backend, query: ConversationQuery, *, pages: int = COUNTED_PAGES
) -> tuple[int, bool]:
    """How many conversations a list has from its beginning, and whether there are more than were counted. One that is
    ordered by the last message has those with a message only."""
    query = query.model_copy(update={"after": "", "limit": LOOKUP_PAGE})
    counted: dict[str, bool] = {}
    more = True
    for _ in range(pages):
        page = await backend.list_conversations(query)
        fresh = [each for each in page.items if each.id not in counted]
        counted |= {each.id: _is_counted(each, query) for each in fresh}
        more = page.more and bool(fresh)
        if not more:
            break
        query = query.model_copy(update={"after": page.items[-1].id})
    return sum(counted.values()), more


async def list_counted(backend: Backend, query: ConversationQuery) -> tuple[Page[Conversation], tuple[int, bool]]:
    """A page of conversations, and what `count_conversations` says of the first hundred of its list. For the beginning
    of a list both take one request."""
    if query.after:
        return await backend.list_conversations(query), await count_conversations(backend, query, pages=1)
    page = await backend.list_conversations(query.model_copy(update={"limit": LOOKUP_PAGE}))
    count = sum(_is_counted(each, query) for each in page.items)
    shown = page.items[: query.limit]
    return Page(items=shown, more=page.more or len(shown) < len(page.items)), (count, page.more)


def _is_counted(conversation: Conversation, query: ConversationQuery) -> bool:
    return bool(conversation.last_message_at) or query.order_by != "last_message_at"


async def count_all_conversations(backend: Backend, agent_id: str) -> tuple[int, bool]:
    """How many conversations an agent has, archived and hidden ones too, and whether there are more."""
    return await count_conversations(backend, ConversationQuery(agent_id=agent_id, archived="all", with_hidden=True))


async def check_blocks(backend: Backend, owner: Agent, wanted: Sequence[str]) -> None:
    """Raises InvalidArgument for a label that the agent lacks: 0.16.8 would refuse it and leave a broken one behind.
    Raises Refused where conversations have no blocks of their own."""
    if wanted and not backend.isolates_blocks:
        raise Refused(
            "isolate memory blocks",
            "conversations with agents on this machine share all of them",
            "Nothing was created; leave isolated_blocks out.",
        )
    labels = owner.block_labels
    if labels is None:
        labels = (await backend.get_agent(owner.id)).block_labels
    if labels is None:
        return
    if unknown := [label for label in wanted if label not in labels]:
        has = ", ".join(labels) or "none"
        raise InvalidArgument("isolated_blocks", f"agent {owner.name!r} has no block {unknown[0]!r}; it has: {has}.")


def in_order(conversations: Collection[Conversation], query: ConversationQuery) -> list[Conversation]:
    """Sorts conversations as the REST API does, for lists merged here: by time, then by id; those without a time come
    last in both directions. The time of the last message replaces that of the last run, which is not reported."""

    def time(each: Conversation) -> datetime | None:
        return parse_time(each.created_at if query.order_by == "created_at" else each.last_message_at)

    descending = query.order == "desc"
    timed = [(at, _id_order(each), each) for each in conversations if (at := time(each))]
    others = sorted((each for each in conversations if not time(each)), key=_id_order, reverse=descending)
    return [*(each for _, _, each in sorted(timed, key=lambda row: row[:2], reverse=descending)), *others]


def _id_order(conversation: Conversation) -> tuple[int, str]:
    """A sort key for ids by which local-conv-9 comes before local-conv-10."""
    return len(conversation.id), conversation.id
