"""Commands about the conversation one is in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import get_args

import anyio

from letta_conversations_mcp.cli.chat.connection import ToolFailed
from letta_conversations_mcp.cli.chat.entries import Break, Facts, Note, Unfolded
from letta_conversations_mcp.cli.chat.formatting import clock, one_line
from letta_conversations_mcp.cli.chat.history import entries_of
from letta_conversations_mcp.cli.chat.navigation_commands import begin, find_agent
from letta_conversations_mcp.cli.chat.session import Session
from letta_conversations_mcp.cli.chat.status import tokens
from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.export import Exporter, into_file
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, CompactionMode, ConversationRef
from letta_conversations_mcp.tools.results.cancellation import Cancellation
from letta_conversations_mcp.tools.results.context import Compacted, Recompiled
from letta_conversations_mcp.tools.results.conversations import Deleted, Forked, Updated
from letta_conversations_mcp.tools.results.viewer import ViewedPage

MOST_MESSAGES = 100
_NUMBERS = re.compile(r"((?:#\d+[\s,]*)+)(.*)", re.DOTALL)


async def history(session: Session, argument: str) -> None:
    if argument and not (argument.isdigit() and 0 < int(argument) <= MOST_MESSAGES):
        raise ToolFailed(f"/history takes a count from 1 to {MOST_MESSAGES}.")
    place = session.place
    page = await session.connection.call("view_messages", ViewedPage, **place.address, limit=int(argument or 20))
    if page.older:
        await session.note("Older messages: /export writes all to a file.")
    await session.show(*entries_of(page.messages, place.agent))
    session.waiting = page.approvals
    await session.show_waiting()


async def info(session: Session, argument: str) -> None:
    facts = await session.describe()
    context = tokens(facts.context_tokens) if facts.context_tokens is not None else "not known before the next reply"
    if facts.context_tokens is not None and facts.context_limit:
        context += f" of {tokens(facts.context_limit)} ({round(100 * facts.context_tokens / facts.context_limit)} %)"
    in_context = "" if facts.messages_in_context is None else f"{facts.messages_in_context} in context"
    total = "" if facts.messages is None else f"{'at least ' if facts.at_least else ''}{facts.messages} in all"
    await session.show(
        Facts(
            [
                ("conversation", facts.conversation_id),
                ("name", facts.summary),
                ("description", facts.description),
                ("agent", f"{facts.agent_name} ({facts.agent_id})"),
                ("model", f"{facts.model}{' (its own)' if facts.model_is_own else ''}"),
                ("context", context),
                ("messages", ", ".join(filter(None, [in_context, total]))),
                ("created", clock(facts.created_at)),
                ("last message", clock(facts.last_message_at)),
                ("own memory", ", ".join(facts.isolated_blocks)),
                ("memory as of", facts.memory_as_of),
                ("state", "archived" if facts.archived else "a turn is running" if facts.run_id else ""),
                ("not known", ", ".join(facts.unknown)),
            ]
        )
    )


async def show(session: Session, argument: str) -> None:
    if argument in ("on", "off"):
        session.unfolds = argument == "on"
        await session.note(
            "Reasoning and tool calls are shown in full from now on." if session.unfolds else "They are folded again."
        )
    elif session.folds:
        await session.show(*map(Unfolded, session.folds))
    else:
        await session.note("The latest reply has neither reasoning nor tool calls.")


async def approve(session: Session, argument: str) -> None:
    calls = session.waiting
    if not calls:
        raise ToolFailed("Nothing waits for a decision here.")
    chosen = [call.tool_call_id for call in calls]
    numbered = _NUMBERS.fullmatch(argument)
    if numbered:
        numbers = {int(each) for each in re.findall(r"\d+", numbered[1])}
        if not numbers <= set(range(1, len(calls) + 1)):
            raise ToolFailed(f"There are calls #1 to #{len(calls)}.")
        chosen = [call.tool_call_id for number, call in enumerate(calls, 1) if number in numbers]
    reason = numbered[2] if numbered else argument
    session.waiting = ()
    session.add("", lambda: session.decide(True, reason.strip(), calls, chosen))


async def deny(session: Session, argument: str) -> None:
    calls = session.waiting
    if not calls:
        raise ToolFailed("Nothing waits for a decision here.")
    session.waiting = ()
    session.add("", lambda: session.decide(False, argument, calls, [call.tool_call_id for call in calls]))


async def cancel(session: Session, argument: str) -> None:
    taken_back = session.take_back()
    if taken_back:
        session.screen.give_back("\n".join(taken_back))
        await session.note(
            f"Taken back before {'it was' if len(taken_back) == 1 else 'they were'} sent: {len(taken_back)}"
        )
    turn = session.turn
    place = turn.place if turn else session.place
    if not place.conversation_id:
        return
    done = await session.connection.call("cancel", Cancellation, **place.address)
    if done.status == "idle" and not taken_back:
        await session.note(
            "Nothing is running; a tool call waits for your decision: /deny lets the agent go on without it."
            if done.next
            else "Nothing is running here, so nothing was stopped."
        )
    elif done.status == "cancelled" and turn is None:
        await session.note("The turn was stopped.")


async def fork(session: Session, argument: str) -> None:
    session.check_nothing_queued()
    source = session.place.quoted
    made = await session.connection.call("fork", Forked, **session.place.address, summary=argument)
    await session.go_to(made.conversation_id)
    shared = "" if made.shared_messages is None else f", with {made.shared_messages} messages in common"
    await session.note(f"This is {session.place.quoted} now, a branch of {source}{shared}. {made.note}".rstrip())


async def compact(session: Session, argument: str) -> None:
    modes = get_args(CompactionMode)
    if argument and argument not in modes:
        raise ToolFailed(f"There are the modes {', '.join(modes)}.")
    place = session.place

    async def work() -> None:
        await session.note("The older messages are being summarised …")
        mode = {"mode": argument} if argument else {}
        done = await session.connection.call("compact", Compacted, **place.address, **mode)
        title = f"compacted: {done.messages_before} messages in context before, {done.messages_after} now"
        await session.show(Break(title, done.summary))
        if done.note:
            await session.note(done.note)
        if place is session.place:
            await session.describe()

    session.add("", work)


async def rename(session: Session, argument: str) -> None:
    if not argument:
        raise ToolFailed("Say the name: /rename NAME")
    done = await session.connection.call(
        "update", Updated, conversation_id=session.place.conversation_id, summary=argument
    )
    session.place.summary = done.summary
    await session.note(f"It is called '{one_line(done.summary, 60)}' now.")


async def memory(session: Session, argument: str) -> None:
    if argument not in ("", "refresh"):
        raise ToolFailed("/memory says what has changed, /memory refresh takes it over.")
    is_dry = not argument
    done = await session.connection.call("recompile", Recompiled, **session.place.address, dry_run=is_dry)
    text = done.changes or done.prompt
    if not text:
        await session.note("This conversation knows the agent's memory as it is now.")
        return
    title = "memory, - as this conversation has it, + as it is now" if done.changes else "memory as it is now"
    await session.show(Break(title if is_dry else f"refreshed: {title}", text))
    if done.note:
        await session.note(done.note)
    if is_dry:
        await session.note("/memory refresh takes it over.")


async def export(session: Session, argument: str) -> None:
    place = session.place
    path = Path(os.path.expanduser(argument or f"{place.conversation_id}.md"))  # noqa: ASYNC240 - it asks no disk
    form = "jsonl" if path.suffix == ".jsonl" else "md"
    if await anyio.Path(path).exists():
        raise ToolFailed(f"{path} is there already. Name another file.")
    ref = ConversationRef(conversation_id=place.conversation_id, agent_id=place.agent_id)
    exporter = Exporter(session.connection.backend, ref, form)
    try:
        await into_file(exporter, path)
    except CommandFailed as error:
        raise ToolFailed(str(error)) from error
    except ConversationError as error:
        raise ToolFailed(error.for_person) from error
    await session.note(f"Messages written to {path}: {exporter.count}.")


async def delete(session: Session, argument: str) -> None:
    place = session.place
    if place.conversation_id == DEFAULT_CONVERSATION:
        raise ToolFailed("The default conversation of an agent cannot be deleted.")
    if argument != "yes" or session.to_delete != place.conversation_id:
        session.to_delete = place.conversation_id
        await session.show(
            Note(f"This deletes {place.quoted} with its messages, for everybody and for good.", "warning"),
            Note("To do it: /delete yes", spaced=False),
        )
        return
    session.to_delete = ""
    done = await session.connection.call("delete", Deleted, conversation_id=place.conversation_id, confirm=True)
    await session.note(
        f"Deleted: {place.quoted}." if done.outcome == "deleted" else f"Hidden from every list: {place.quoted}."
    )
    await begin(session, await find_agent(session, place.agent_id))
