"""Finds out what became of a message from Letta's own records, its runs and messages.

Used where there is no stream: after a broken connection, in another process, after a restart. A message is recognised
by its otid, which Letta stores on the first message of a turn (0.16.8). So the runs are searched, never only the end
of the history: a turn with many tool calls is longer than any page of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio

from letta_conversations_mcp.core.backend import Backend, NotResumable, StreamLost
from letta_conversations_mcp.core.errors import Busy, ConversationError, InvalidArgument, NoReply, NotFound
from letta_conversations_mcp.core.message_json import int_field, read_message
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    ConversationRef,
    Message,
    MessageQuery,
    Outgoing,
    OutgoingMessage,
    Run,
    Turn,
    TurnFailure,
)
from letta_conversations_mcp.core.times import parse_time
from letta_conversations_mcp.turns.aggregate import TurnBuilder
from letta_conversations_mcp.turns.idempotency import CallIdentity, key_was_used, was_made_before
from letta_conversations_mcp.turns.timing import Timing

RECENT_RUNS = 20
"""How many of a conversation's newest runs are searched for a message that was just handed over."""

SEARCHED_MESSAGES = 500
"""How many messages back the history is searched for a message with a key: a few turns of 50 steps (Letta's maximum),
or hundreds of plain questions and answers."""

PAGE = 100

CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far Letta's clock may be behind ours."""

DIED = "died"
"""The stop reason of a run that Letta lists as active although nothing processes it any more."""

OTIDS_KNOWN = timedelta(hours=3, minutes=5)
"""How long a server can know the run of an otid: three hours (0.16.8), and what its clock may differ from ours."""

ATTEMPTS = 10
"""How many times the message of one key may fail."""


@dataclass(frozen=True)
class KeySearch:
    """The result of a search for a key: the message with the otid to send it under, the run that has it, its newest
    failed run, and whether the whole history was searched."""

    message: OutgoingMessage
    run: Run | None
    failed: Run | None
    is_whole: bool


async def newest_run(backend: Backend, ref: ConversationRef, timing: Timing) -> Run:
    """The active run, or else the newest.

    Looks a second time if none is active, because Letta lists a run only a moment after its message arrived. Looks for
    `settle` seconds if there is none at all: callers react to "nothing was sent" by sending again.

    Raises:
        NoReply: no turn has run in this conversation.
        NotFound: it is gone, perhaps with its agent.
    """
    settled_at = anyio.current_time() + timing.settle
    is_second_look = False
    newest: Run | None = None
    while True:
        runs = await backend.list_runs(ref, limit=RECENT_RUNS)
        taken = [each for each in runs if not (each.failure and each.failure.awaits_approval)]
        if active := next((each for each in taken if each.active and not _is_overtaken(each, taken)), None):
            return active
        newest = next((each for each in taken if not each.active), None) or next(iter(taken or runs), newest)
        if newest is not None and is_second_look:
            return newest
        if newest is None and not is_second_look:
            await _check_there(backend, ref)
        if newest is None and anyio.current_time() >= settled_at:
            is_default = ref.conversation_id == DEFAULT_CONVERSATION
            raise NoReply(f"the default conversation of {ref.agent_id}" if is_default else str(ref))
        is_second_look = True
        await anyio.sleep(timing.unseen)


async def _check_there(backend: Backend, ref: ConversationRef) -> None:
    """Raise NotFound if a conversation is gone: its owner may have come from a cache."""
    if ref.conversation_id == DEFAULT_CONVERSATION:
        await backend.get_agent(ref.agent_id)
    else:
        await backend.get_conversation(ref.conversation_id)


async def follow(backend: Backend, ref: ConversationRef, run: Run, timing: Timing) -> Turn:
    """Poll a run until it ends, and build its turn from what it stored. A dead run counts as ended."""
    run = await until_ended(backend, ref, run, timing)
    builder = TurnBuilder()
    builder.run_id = run.id
    stored = await backend.list_run_chunks(ref, run.id)
    for chunk in stored:
        builder.add(chunk)
    if run.active:
        has_message = any(read_message(each).kind == "user" for each in stored)
        return died(builder, has_message=has_message)
    builder.failure = run.failure
    ends = {"failed": "error", "cancelled": "cancelled"}
    builder.stop_reason = run.stop_reason or ends.get(run.status, "end_turn")
    return builder.build()


def died(builder: TurnBuilder, *, has_message: bool) -> Turn:
    """The turn of a dead run."""
    builder.stop_reason = DIED
    builder.failure = TurnFailure(
        type=DIED,
        message="Letta lists the turn as running, but nothing works on it any more: the server was probably restarted",
        stored=has_message,
    )
    return builder.build().model_copy(update={"status": "failed"})


async def until_ended(backend: Backend, ref: ConversationRef, run: Run, timing: Timing) -> Run:
    """Poll a run until it ends. A dead run is returned while still `active`: it has stored nothing for `silence`
    seconds, or a later run of the conversation has ended."""
    pause = timing.poll_first
    stored: int | None = None
    silent_since = anyio.current_time()
    while run.active:
        await anyio.sleep(pause)
        pause = min(pause * 1.5, timing.poll_longest)
        run = await backend.get_run(ref, run.id)
        if not run.active or pause < timing.poll_longest:
            continue
        if _is_overtaken(run, await backend.list_runs(ref, limit=RECENT_RUNS)):
            return run
        if stored is not None and anyio.current_time() - silent_since < timing.silence:
            continue
        now_stored = len(await backend.list_run_chunks(ref, run.id))
        if now_stored == stored:
            return run
        stored, silent_since = now_stored, anyio.current_time()
    return run


def _is_overtaken(run: Run, runs: Sequence[Run]) -> bool:
    """True if a later run of the conversation has ended. Turns do not overlap, so this run is dead."""
    began = parse_time(run.created_at)
    if began is None:
        return False
    later = (each for each in runs if not each.active and each.status == "completed" and each.id != run.id)
    return any((at := parse_time(each.created_at)) is not None and at > began for each in later)


async def until_free(backend: Backend, ref: ConversationRef, busy: Busy, timing: Timing) -> None:
    """Wait for the end of the turn that holds a conversation.

    Raises:
        Busy: that turn is dead, and holds the conversation until somebody cancels it.
    """
    try:
        if busy.run_id:
            runs: Sequence[Run] = [await backend.get_run(ref, busy.run_id)]
        else:
            runs = await backend.list_runs(ref, limit=RECENT_RUNS)
        for run in runs:
            if (await until_ended(backend, ref, run, timing)).active:
                raise Busy(ref.conversation_id, run.id, dead=True)
    except NotFound:
        # A run that cannot be identified. The next attempt shows whether it has ended.
        await anyio.sleep(timing.poll_longest)
    # Letta releases the conversation a moment after its run has ended.
    await anyio.sleep(timing.poll_first)


async def find_run(
    backend: Backend, ref: ConversationRef, message: Outgoing, since: datetime, timing: Timing
) -> Run | None:
    """The run that took a message handed over after `since`; None if none turns up within `settle` seconds.

    It is the run that stored the message's otid. A run that failed at its first step has stored nothing: it counts if
    it was created since the hand-over and shows no other message, unless the server knows the otids of all messages
    since then.
    """
    settled_at = anyio.current_time() + timing.settle
    pause = timing.poll_first
    while True:
        if run_id := await _known_run(backend, ref, message.otid):
            return await backend.get_run(ref, run_id)
        runs = [each for each in await backend.list_runs(ref, limit=RECENT_RUNS) if _is_created_since(each, since)]
        failed: Run | None = None
        for run in runs:
            ended, shown = await _until_message_shown(backend, ref, run, message, timing)
            if any(map(message.is_in, shown)):
                return ended
            if ended.status == "failed" and not _user_message(shown) and failed is None:
                failed = None if await _keeps_stream(backend, ref, message, run, timing) else ended
        if failed is not None:
            return failed
        if anyio.current_time() >= settled_at:
            return None
        await anyio.sleep(pause)
        pause = min(pause * 1.5, timing.poll_longest)


async def _keeps_stream(backend: Backend, ref: ConversationRef, message: Outgoing, run: Run, timing: Timing) -> bool:
    """Whether the server still has the stream of a run. If so, it also knows the otids of messages that arrived at that
    time: both are in its Redis, the otid first (0.16.8)."""
    if not run.keeps_stream:
        return False
    keeps = False
    with suppress(NotResumable, StreamLost, ConversationError), anyio.move_on_after(timing.unseen):
        async with backend.resume(ref, message, run_id=run.id, after=0) as chunks:
            async for chunk in chunks:
                if int_field(chunk, "seq_id"):
                    keeps = True
                    break
    return keeps


async def _belongs_to_another_message(
    backend: Backend, ref: ConversationRef, message: Outgoing, run: Run, timing: Timing
) -> bool:
    """True if the server knows the otids of all messages since the run began, and not that of this message. It is asked
    after the run was listed, because the message may have been sent meanwhile."""
    if not await _keeps_stream(backend, ref, message, run, timing):
        return False
    try:
        return not await backend.run_of_otid(ref, message.otid)
    except StreamLost:
        return False


async def _known_run(backend: Backend, ref: ConversationRef, otid: str) -> str:
    """The run that the server names for an otid; "" if it names none, or the connection breaks."""
    with suppress(StreamLost):
        return await backend.run_of_otid(ref, otid)
    return ""


async def find_by_key(
    backend: Backend, ref: ConversationRef, identity: CallIdentity, message: OutgoingMessage, timing: Timing
) -> KeySearch:
    """Find the run of the message with this key, sent before by any process.

    Searches the history (at most SEARCHED_MESSAGES back), the server's index of otids and the active runs: a turn is in
    the history only after its first step. A failed run is skipped, and the message gets the otid of the next attempt.
    The index is asked only if the history does not show the messages of all recent runs: for an otid that it does not
    have a server takes 1.8 s (0.16.8).

    Raises:
        InvalidArgument: the key was used for another message.
    """
    history, is_whole = await _history(backend, ref)
    shows_all = await _shows_recent_runs(backend, ref, history)
    failed: Run | None = None
    for attempt in range(ATTEMPTS):
        tried = message.model_copy(update={"otid": identity.otid(ref, attempt)})
        run_id = ""
        if known := next(filter(tried.is_in, history), None):
            _check_text(tried, known)
            run_id = known.run_id
        elif shows_all:
            return KeySearch(tried, None, failed, is_whole)
        run_id = run_id or await _known_run(backend, ref, tried.otid)
        run = await backend.get_run(ref, run_id) if run_id else await _active_run_of(backend, ref, tried, timing)
        if run is None:
            return KeySearch(tried, None, failed, is_whole)
        if run.status not in ("failed", "cancelled") or known is not None:
            if known is None:
                stored = map(read_message, await backend.list_run_chunks(ref, run.id))
                _check_text(tried, next(filter(tried.is_in, stored), None))
            return KeySearch(tried, run, failed, is_whole)
        failed = run
    raise InvalidArgument("message_key", f"its message has failed {ATTEMPTS} times. Use a new key to try again.")


async def _shows_recent_runs(backend: Backend, ref: ConversationRef, history: Sequence[Message]) -> bool:
    """True if the history shows the message of every run that is active, or of which the server may still know the
    otid: then a message that is not in it was not sent, or arrives only now."""
    runs = await backend.list_runs(ref, limit=PAGE)
    since = datetime.now(UTC) - OTIDS_KNOWN
    recent = [each for each in runs if each.active or _is_created_since(each, since)]
    shown = {each.run_id for each in history if each.kind == "user"}
    return len(recent) < PAGE and all(each.id in shown for each in recent)


async def _history(backend: Backend, ref: ConversationRef) -> tuple[list[Message], bool]:
    """The newest messages of a conversation, and True if these are all."""
    found: list[Message] = []
    before = ""
    while True:
        page = await backend.list_messages(ref, MessageQuery(limit=PAGE, before=before))
        found += page.items
        if not page.more or not page.items or page.items[0].id == before:
            return found, True
        if len(found) >= SEARCHED_MESSAGES:
            return found, False
        before = page.items[0].id


async def _active_run_of(
    backend: Backend, ref: ConversationRef, message: OutgoingMessage, timing: Timing
) -> Run | None:
    """The active run that answers a message. Waits until each run shows its message, unless the server knows that it
    belongs to another one."""
    for run in await backend.list_runs(ref, limit=RECENT_RUNS):
        if run.active and not await _belongs_to_another_message(backend, ref, message, run, timing):
            run, shown = await _until_message_shown(backend, ref, run, message, timing)
            if any(map(message.is_in, shown)):
                return run
    return None


def _check_text(message: OutgoingMessage, known: Message | None) -> None:
    """Raises InvalidArgument if the key was used for another message. An introduction may precede the text."""
    if known is not None and known.text and message.text.strip() not in known.text:
        raise key_was_used()


async def run_of_same_message(
    backend: Backend,
    ref: ConversationRef,
    message: Outgoing,
    busy: Busy,
    identity: CallIdentity,
    started_at: datetime,
    timing: Timing,
) -> Run | None:
    """The run that occupies a conversation, if it answers the same message: sent by another process, or by this one
    before it lost the connection. `started_at` is when this process started. Waits up to `settle` seconds until the
    run shows its message.

    For about 100 ms after it has taken a message Letta names no run (0.16.8); then the newest active run is checked.
    """
    if not isinstance(message, OutgoingMessage):
        return None
    run_id = busy.run_id
    if not run_id:
        run_id = next((each.id for each in await backend.list_runs(ref, limit=RECENT_RUNS) if each.active), "")
    if not run_id:
        return None
    try:
        run, shown = await backend.get_run(ref, run_id), list[Message]()
        with anyio.move_on_after(timing.settle):
            run, shown = await _until_message_shown(backend, ref, run, message, timing)
        asked = _user_message(shown)
    except NotFound:
        # A run that cannot be identified.
        return None
    if asked is None:
        return None
    if message.is_in(asked):
        return run
    began = parse_time(run.created_at)
    # Letta creates the run a moment after it took the message.
    is_from_before = (began is not None and began < started_at) or was_made_before(asked.otid, started_at)
    return run if is_from_before and identity.is_same_call(asked.otid) else None


async def _until_message_shown(
    backend: Backend, ref: ConversationRef, run: Run, message: Outgoing, timing: Timing
) -> tuple[Run, list[Message]]:
    """Poll a run until what it has stored shows which message it answers, or until it ends. Returns the run and what it
    stored."""
    pause = timing.poll_first
    while True:
        shown = list(map(read_message, await backend.list_run_chunks(ref, run.id)))
        if not run.active or _user_message(shown) is not None or any(map(message.is_in, shown)):
            return run, shown
        await anyio.sleep(pause)
        pause = min(pause * 1.5, timing.poll_longest)
        run = await backend.get_run(ref, run.id)
        if (
            run.active
            and pause >= timing.poll_longest
            and _is_overtaken(run, await backend.list_runs(ref, limit=RECENT_RUNS))
        ):
            return run, shown


def _user_message(messages: Sequence[Message]) -> Message | None:
    return next((each for each in messages if each.kind == "user"), None)


def _is_created_since(run: Run, since: datetime) -> bool:
    created = parse_time(run.created_at)
    return created is None or created >= since - CLOCK_TOLERANCE
