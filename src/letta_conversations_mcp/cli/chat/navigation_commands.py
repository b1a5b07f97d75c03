"""Commands that find agents and conversations, and go to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from letta_conversations_mcp.cli.chat.connection import ToolFailed
from letta_conversations_mcp.cli.chat.entries import Note, Row, Rows, Title
from letta_conversations_mcp.cli.chat.formatting import clock, one_line, short_id
from letta_conversations_mcp.cli.chat.history import entries_of
from letta_conversations_mcp.cli.chat.session import Session
from letta_conversations_mcp.core.model import AGENT_ID, CONVERSATION_ID, DEFAULT_CONVERSATION
from letta_conversations_mcp.tools.results.agents import AgentList, AgentRow
from letta_conversations_mcp.tools.results.conversations import ConversationList, ConversationRow
from letta_conversations_mcp.tools.results.search import SearchResults

MOST_ROWS = 20
MOST_NAMES = 100
"""Looked at for a name."""

LAST_EXCHANGE = 2
"""Messages of a user and an agent that are shown when a conversation is continued."""


@dataclass(frozen=True)
class Found:
    """Conversations, and whether there are more than were looked at."""

    rows: Sequence[ConversationRow]
    more: bool


async def new(session: Session, argument: str) -> None:
    session.check_nothing_queued()
    place = session.place
    await session.go_to_agent(AgentRow(id=place.agent_id, name=place.agent, model=place.agent_model))
    session.place.summary = argument
    await session.note("A new conversation begins with your next message.")


async def list_(session: Session, argument: str) -> None:
    found = await conversations(session, argument)
    session.listed = found.rows[:MOST_ROWS]
    if not found.rows:
        await session.note("No conversation is called like that." if argument else "There are no conversations yet.")
        return
    more = ", the latest" if found.more or len(found.rows) > MOST_ROWS else ""
    title = f"Conversations of {one_line(session.place.agent, 40)}{more}"
    await session.show(Rows(title, [_row(session, number, each) for number, each in enumerate(session.listed, 1)]))
    await session.show(Note("/switch NUMBER goes there.", spaced=False))


def _row(session: Session, number: int, row: ConversationRow) -> Row:
    when = clock(row.last_message_at) if row.last_message_at else "no message yet"
    here = row.id == session.place.conversation_id
    return Row(str(number), one_line(row.summary, 50) or "(no name)", [when, short_id(row.id)], marked=here)


async def conversations(session: Session, words: str = "") -> Found:
    """The conversations of the agent with these words in their names, the latest first. Raises ToolFailed.

    A list by last messages leaves out those without any, so the newest are asked for too.
    """
    pages = [
        await session.connection.call(
            "list_conversations", ConversationList, agent=session.place.agent_id, order_by=order, limit=MOST_NAMES
        )
        for order in ("last_message_at", "created_at")
    ]
    rows = {row.id: row for page in pages for row in page.conversations}
    latest = sorted(rows.values(), key=lambda row: row.last_message_at or row.created_at, reverse=True)
    found = [row for row in latest if words.lower() in row.summary.lower() or row.id.startswith(words)]
    return Found(found, more="after=" in pages[1].next)


async def switch(session: Session, argument: str) -> None:
    if not argument:
        await list_(session, "")
        return
    session.check_nothing_queued()
    wanted = await _find(session, argument)
    if wanted:
        await enter(session, *wanted)


async def _find(session: Session, argument: str) -> tuple[str, str] | None:
    """The id of a conversation, and of its agent where that is needed. None if there are several, which are listed."""
    if argument.isdigit() and 0 < int(argument) <= len(session.listed):
        chosen = session.listed[int(argument) - 1].id
        return chosen, session.place.agent_id if chosen == DEFAULT_CONVERSATION else ""
    if CONVERSATION_ID.fullmatch(argument):
        return argument, ""
    if not session.place.agent_id:
        raise ToolFailed("Choose an agent first: /agents lists them, /agent NAME chooses one.")
    if argument == DEFAULT_CONVERSATION:
        return argument, session.place.agent_id
    found = (await conversations(session, argument)).rows
    exact = [row for row in found if row.summary == argument]
    if len(exact) == 1 or len(found) == 1:
        return (exact or found)[0].id, ""
    if not found:
        raise ToolFailed(f"No conversation of this agent is called {one_line(argument, 60)!r}. /list shows them.")
    session.listed = found[:MOST_ROWS]
    title = f"Several are called {one_line(argument, 40)!r}"
    await session.show(Rows(title, [_row(session, number, row) for number, row in enumerate(session.listed, 1)]))
    await session.show(Note("/switch NUMBER goes there.", spaced=False))
    return None


async def title(session: Session, count: str = "") -> None:
    """Say which agent it is, and where."""
    place = session.place
    model = f" ({one_line(place.agent_model, 40)})" if place.agent_model else ""
    parts = [session.where, f"{one_line(place.agent, 60)}{model}" if place.agent else "", count]
    await session.show(Title(" · ".join(filter(None, parts)), "/help for commands, Ctrl-D to leave"))


async def enter(session: Session, conversation_id: str, agent: str = "", *, others: str = "") -> None:
    """Go to a conversation and show its last exchange; `others` says how to go to another. Raises ToolFailed."""
    page = await session.go_to(conversation_id, agent)
    place = session.place
    if not page.messages:
        await session.note(f"{place.quoted} of {one_line(place.agent, 40)} has no message yet.")
        return
    said = [index for index, each in enumerate(page.messages) if each.kind == "user"]
    last = page.messages[said[-1] :] if said else page.messages[-LAST_EXCHANGE:]
    await session.note(f"Continuing {place.quoted}, last message {clock(page.messages[-1].at)}.{others}")
    await session.show(*entries_of(last, place.agent))
    await session.show_waiting()


async def search(session: Session, argument: str) -> None:
    if not argument:
        raise ToolFailed("Say what to look for: /search WORDS")
    found = await session.connection.call(
        "search_messages", SearchResults, query=argument, agent=session.place.agent_id
    )
    ids = list(dict.fromkeys(each.conversation_id for each in found.messages))
    session.listed = [
        ConversationRow(id=each, summary=next(row.summary for row in found.messages if row.conversation_id == each))
        for each in ids
    ]
    if found.messages:
        rows = [
            Row(
                str(ids.index(each.conversation_id) + 1),
                one_line(each.summary, 30) or short_id(each.conversation_id),
                [clock(each.at), f"{each.kind}: {one_line(each.text, 120)}"],
            )
            for each in found.messages
        ]
        await session.show(Rows(f"Messages with {one_line(argument, 40)!r}", rows))
        await session.show(Note("/switch NUMBER goes to the conversation.", spaced=False))
    if found.note or not found.messages:
        await session.note(found.note or "Nothing was found.")


async def agents(session: Session, argument: str) -> None:
    found = await session.connection.call("list_agents", AgentList, search=argument, limit=MOST_ROWS)
    session.listed_agents = found.agents
    if not found.agents:
        await session.note("No agent is called like that." if argument else "There are no agents yet.")
        return
    rows = [
        Row(
            str(number),
            one_line(each.name, 40),
            [each.model, one_line(each.description, 60)],
            marked=each.id == session.place.agent_id,
        )
        for number, each in enumerate(found.agents, 1)
    ]
    more = " (the newest; /agents WORDS finds others)" if found.next else ""
    await session.show(Rows(f"Agents{more}", rows))
    await session.show(Note("/agent NUMBER talks with one.", spaced=False))


async def agent(session: Session, argument: str) -> None:
    if not argument:
        await agents(session, "")
        return
    session.check_nothing_queued()
    if argument.isdigit() and 0 < int(argument) <= len(session.listed_agents):
        await begin(session, session.listed_agents[int(argument) - 1])
    else:
        await begin(session, await find_agent(session, argument))


async def find_agent(session: Session, named: str) -> AgentRow:
    """The agent with this id or exact name. Raises ToolFailed."""
    if AGENT_ID.fullmatch(named):
        # No tool reads a single agent; a list of its conversations says whether it is there.
        await session.connection.call("list_conversations", ConversationList, agent=named, limit=1)
    found = (
        await session.connection.call(
            "list_agents", AgentList, search="" if AGENT_ID.fullmatch(named) else named, limit=100
        )
    ).agents
    exact = [each for each in found if named in (each.id, each.name)]
    if len(exact) == 1:
        return exact[0]
    if AGENT_ID.fullmatch(named):
        return AgentRow(id=named, name=named)
    if exact:
        raise ToolFailed(
            f"Several agents are called {one_line(named, 60)!r}. Use an id: {', '.join(each.id for each in exact)}."
        )
    close = [each for each in found if named.lower() in each.name.lower()]
    if len(close) == 1:
        return close[0]
    named_ones = ", ".join(repr(one_line(each.name, 40)) for each in close[:8])
    raise ToolFailed(
        f"There is no agent {one_line(named, 60)!r}."
        + (f" Did you mean one of {named_ones}?" if close else " /agents lists them.")
    )


async def begin(session: Session, chosen: AgentRow) -> None:
    """Talk with an agent: go on where its latest conversation ended, or begin the first. Raises ToolFailed."""
    await session.go_to_agent(chosen)
    found = await conversations(session)
    count = f"{len(found.rows)}{'+' if found.more else ''} conversation{'' if len(found.rows) == 1 else 's'}"
    await title(session, count)
    if found.rows:
        await enter(session, found.rows[0].id, others=" /new starts another, /list shows all.")
    else:
        await session.note("Your first message begins a conversation.")
