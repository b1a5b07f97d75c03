"""Letta's own record of turns, its runs: asked for where no stream tells of a turn."""

from __future__ import annotations

import anyio

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Busy, NoReply, NotFound
from letta_conversations_mcp.core.model import ConversationRef, MessageQuery, Outgoing, OutgoingMessage, Run, Turn
from letta_conversations_mcp.turns.aggregate import TurnBuilder
from letta_conversations_mcp.turns.message_ids import is_same_message
from letta_conversations_mcp.turns.timing import Pace

RECENT_RUNS = 10
"""How many of a conversation's newest runs are looked at to find a turn again: some of them took no message."""

RECENT_MESSAGES = 40
"""How many of the newest messages are searched for one: more than one turn with its tool calls stores."""


async def newest_run(backend: Backend, ref: ConversationRef, pace: Pace) -> Run:
    """The active run, or else the newest. Looked for a second time when none is active: Letta shows a run only a moment
    after its message came in, and who asks after a lost connection asks at once. Where there is none at all it is
    looked for longer: who is told so sends the message again.

    Raises:
        NoReply: no turn has run in this conversation.
    """
    settled_at = anyio.current_time() + pace.settle
    is_second_look = False
    newest: Run | None = None
    while True:
        runs = await backend.list_runs(ref, limit=RECENT_RUNS)
        taken = [each for each in runs if not (each.failure and each.failure.awaits_approval)]
        if active := next((each for each in taken if each.active), None):
            return active
        newest = next(iter(taken or runs), newest)
        if newest is not None and is_second_look:
            return newest
        if newest is None and anyio.current_time() >= settled_at:
            raise NoReply(str(ref))
        is_second_look = True
        await anyio.sleep(pace.unseen)


async def follow(backend: Backend, ref: ConversationRef, run: Run, pace: Pace) -> Turn:
    """Wait for a run's end by asking, and build its turn from what it stored."""
    run = await until_ended(backend, ref, run, pace)
    builder = TurnBuilder()
    builder.run_id = run.id
    for chunk in await backend.list_run_chunks(ref, run.id):
        builder.add(chunk)
    builder.failure = run.failure
    ends = {"failed": "error", "cancelled": "cancelled"}
    builder.stop_reason = run.stop_reason or ends.get(run.status, "end_turn")
    return builder.build()


async def until_ended(backend: Backend, ref: ConversationRef, run: Run, pace: Pace) -> Run:
    """The run when it is not active any more."""
    pause = pace.poll_first
    while run.active:
        await anyio.sleep(pause)
        pause = min(pause * 1.5, pace.poll_longest)
        run = await backend.get_run(ref, run.id)
    return run


async def until_free(backend: Backend, ref: ConversationRef, busy: Busy, pace: Pace) -> None:
    """Wait for the end of the turn that holds a conversation."""
    try:
        if busy.run_id:
            await until_ended(backend, ref, await backend.get_run(ref, busy.run_id), pace)
        else:
            for run in await backend.list_runs(ref, limit=RECENT_RUNS):
                await until_ended(backend, ref, run, pace)
    except NotFound:
        # A run that does not say whose it is; the next try shows whether it has ended.
        await anyio.sleep(pace.poll_longest)
    # The conversation is set free a moment after its run has ended.
    await anyio.sleep(pace.poll_first)


async def run_of_same(backend: Backend, ref: ConversationRef, message: Outgoing, busy: Busy) -> Run | None:
    """The run that holds a conversation, if it is seen to answer the same message: another process took that from the
    same caller, who gave up there. A server lists a message at once, after the first step, or with the reply."""
    if not busy.run_id or not isinstance(message, OutgoingMessage):
        return None
    newest = await backend.list_messages(ref, MessageQuery(limit=RECENT_MESSAGES))
    asked = next((each for each in reversed(newest.items) if each.run_id == busy.run_id and each.kind == "user"), None)
    if asked is None or not is_same_message(asked.otid, message.otid):
        return None
    return await backend.get_run(ref, busy.run_id)
