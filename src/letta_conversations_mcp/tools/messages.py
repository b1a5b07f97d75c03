"""The tools that are about messages: sending one and waiting for its reply, stopping a turn, reading and searching."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations.history import DEFAULT_KINDS, find_history
from letta_conversations_mcp.conversations.images import read_images
from letta_conversations_mcp.conversations.lookup import check_message_id, check_run_id, find_agent, locate
from letta_conversations_mcp.conversations.names import agent_names, summaries
from letta_conversations_mcp.conversations.search import check_kinds, check_search_cursor, read_bound, search
from letta_conversations_mcp.conversations.sender import find_sender, introduce, next_hop
from letta_conversations_mcp.conversations.update import has_model_settings
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import (
    Chunk,
    ConversationRef,
    MessageKind,
    MessageQuery,
    MessageSearch,
    OnBusy,
    Order,
    OutgoingMessage,
    SearchMode,
    Turn,
)
from letta_conversations_mcp.tools.approvals import answer_of_person, settle
from letta_conversations_mcp.tools.base import (
    MOST_KEY_CHARS,
    ConversationArgument,
    DefaultAgentArgument,
    LimitArgument,
    MessageKeyArgument,
    NewKeyArgument,
    NewSummaryArgument,
    ToolContext,
    ToolSpec,
    WaitArgument,
    services_of,
    time_limit,
)
from letta_conversations_mcp.tools.calls import Destination, identity_of, reply_of
from letta_conversations_mcp.tools.progress import heartbeat, is_watched, reporter
from letta_conversations_mcp.tools.results.cancellation import Cancellation
from letta_conversations_mcp.tools.results.messages import MessageList
from letta_conversations_mcp.tools.results.reply import Reply, ReplyKind
from letta_conversations_mcp.tools.results.search import SearchResults
from letta_conversations_mcp.turns.idempotency import OTID_PREFIX
from letta_conversations_mcp.turns.sending import Send
from letta_conversations_mcp.turns.turn import NO_TRACE, TrackedTurn


async def send_message(
    ctx: ToolContext,
    message: Annotated[str, Field(description="the text", max_length=1_000_000)],
    conversation_id: Annotated[str, Field(description="conv-… or 'default' with agent; empty: a new one")] = "",
    agent: Annotated[str, Field(description="id or exact name; needed without a conv-… id")] = "",
    wait_seconds: WaitArgument = None,
    images: Annotated[
        list[Annotated[str, Field(max_length=7_000_000)]],
        Field(description="https://… or data:image/png;base64,…", max_length=20),
    ] = [],
    model: Annotated[str, Field(description="provider/model for this message only")] = "",
    max_steps: Annotated[int | None, Field(ge=1, le=1000, description="most model calls")] = None,
    on_busy: Annotated[
        OnBusy, Field(description="if a turn runs there: wait, fail at once, or let a branch answer")
    ] = "wait",
    kinds: Annotated[
        list[ReplyKind],
        Field(description="also: its thinking; its tools' arguments and results"),
    ] = [],
    summary: NewSummaryArgument = "",
    key: NewKeyArgument = "",
    sender: Annotated[str, Field(description="who speaks, if an agent does: id or name", max_length=200)] = "",
    message_key: MessageKeyArgument = "",
) -> Reply:
    """Ask or tell a Letta agent something and wait for its reply. Continue a conversation by conversation_id; agent
    alone opens a new one, whose id comes back. The agent may run its tools and change the memory that its
    conversations share. Status running: call wait_for_reply, do NOT send it again."""
    services = services_of(ctx)
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    # The message was sent in the round before, if this one brings the person's answer about a tool call.
    if answered := await answer_of_person(ctx, kinds, seconds):
        return answered
    if not message.strip() and not images:
        raise InvalidArgument("message", "a text or an image is needed.")
    # Before the call is hashed: large images take a while in each step, and other calls are served in between.
    read = await read_images(images)
    identity = identity_of(
        ctx,
        "send_message",
        conversation_id or agent,
        message_key,
        message,
        agent,
        images,
        model,
        max_steps,
        on_busy,
        sender,
        summary,
        key,
    )
    destination = Destination(services, identity, summary=summary, key=key)
    outgoing = OutgoingMessage(
        text=message,
        images=read,
        model=model.strip(),
        max_steps=max_steps,
        is_watched=is_watched(ctx, wait_seconds),
    )

    async def prepare(known: ConversationRef | None) -> tuple[ConversationRef, OutgoingMessage]:
        await services.backend.check_message(outgoing)
        speaker, hop, most = None, 0, services.settings.max_depth
        if sender.strip():
            speaker = await find_sender(services.backend, sender)
            hop = await next_hop(services.backend, services.scheduler, speaker, message, most)
        ref = known or await destination.find(conversation_id, agent)
        if speaker is None:
            return ref, outgoing
        return ref, outgoing.model_copy(update={"text": introduce(speaker, ref, message, hop, most)})

    try:
        turn, sent = await services.scheduler.send_and_wait(
            Send(prepare, identity, on_busy, destination.fork), seconds, reporter(ctx)
        )
    except ConversationError as error:
        if destination.made:
            error.add(f"The new conversation {destination.made.conversation_id} is there.")
        raise
    turn = await settle(ctx, sent.ref, turn, seconds)
    branch_of = str(sent.branch_of) if sent.branch_of else ""
    notes = [services.backend.image_note] if images and services.backend.image_note else []
    if outgoing.model and await has_model_settings(services.backend, sent.ref):
        notes.append(f"For this message {outgoing.model} was used, without the conversation's model_settings.")
    return await reply_of(
        services,
        turn,
        sent.ref,
        kinds,
        agent=destination.agent_name,
        branch_of=branch_of,
        message_key=key_of(sent, message_key),
        notes=notes,
    )


def key_of(sent: TrackedTurn, message_key: str) -> str:
    """What names a message that has no run yet: its key, or one made of its id."""
    if message_key or sent.message is None:
        return message_key
    return f"{OTID_PREFIX}{sent.message.otid}"


async def wait_for_reply(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    run_id: Annotated[str, Field(description="from send_message; left out: the latest turn")] = "",
    message_key: Annotated[str, Field(description="of the message, instead of run_id", max_length=MOST_KEY_CHARS)] = "",
    wait_seconds: WaitArgument = None,
    kinds: Annotated[list[ReplyKind], Field(description="as in send_message")] = [],
) -> Reply:
    """Go on waiting for a Letta agent's reply, or fetch it again; sends nothing. Use it after running, not_confirmed,
    unknown or a lost connection; for others' turns too. Answers like send_message."""
    services = services_of(ctx)
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    wanted, key = check_run_id(run_id), message_key.strip()
    if wanted and key:
        raise InvalidArgument("message_key", "give it or run_id, not both.")
    async with time_limit("find the turn", max(seconds, LOOK_UP_SECONDS)):
        ref = await locate(services.backend, conversation_id, agent)
        if key:
            found = await services.scheduler.find_message(ref, identity_of(ctx, "", "", key))
            if found is None:
                no_trace = Turn(status="not_confirmed", stop_reason=NO_TRACE)
                return await reply_of(services, no_trace, ref, kinds, message_key=key)
        else:
            found = await services.scheduler.find(ref, wanted)
    turn = await services.scheduler.wait(found, seconds, reporter(ctx))
    if isinstance(found.message, OutgoingMessage):
        turn = turn.model_copy(update={"message": found.message.text})
    return await reply_of(services, turn, ref, kinds, message_key=key)


LOOK_UP_SECONDS = 10.0
"""The least that a call may take to find what it waits for."""


async def cancel(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    run_id: Annotated[str, Field(description="only this run-… id")] = "",
) -> Cancellation:
    """Stop a Letta agent: end the running turn of a conversation, and take back messages queued behind it. What the
    agent did is not undone."""
    services = services_of(ctx)
    wanted = check_run_id(run_id)
    ref = await locate(services.backend, conversation_id, agent)
    # First, or the next of them would begin as soon as the turn before it ends.
    withdrawn = 0 if wanted else await services.scheduler.withdraw_queued(ref)
    try:
        stopped = tuple(await services.backend.cancel(ref, wanted))
    except ConversationError as error:
        if withdrawn:
            error.add(f"Taken back before they were handed over: {withdrawn} message(s).")
        raise
    await services.scheduler.report_stopped(ref, stopped)
    pending = () if stopped else await services.backend.list_approvals(ref)
    chunks: list[Chunk] = []
    # The turns are stopped, whether or not what they have said can be read.
    with suppress(ConversationError):
        for run in stopped:
            chunks.extend(await services.backend.list_run_chunks(ref, run))
    return Cancellation.of(
        ref,
        stopped,
        chunks,
        withdrawn=withdrawn,
        waits=bool(pending),
        is_partial=not (wanted or services.scheduler.reaches_replicas),
    )


async def list_messages(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    limit: LimitArgument = 20,
    before: Annotated[str, Field(description="only older than this message-… id")] = "",
    after: Annotated[str, Field(description="only newer than this one")] = "",
    order: Annotated[
        Order | None,
        Field(description="desc: newest; the default without after"),
    ] = None,
    kinds: Annotated[list[MessageKind], Field(description="left out: all but reasoning and system")] = [],
    skip_chars: Annotated[int, Field(ge=0, description="go this far into each message")] = 0,
    ids: Annotated[bool, Field(description="show ids, for fork")] = False,
) -> MessageList:
    """Read the transcript of a Letta conversation: a page of messages, oldest to newest, with cursors. Long ones are
    cut."""
    services = services_of(ctx)
    query = MessageQuery(
        before=check_message_id("before", before),
        after=check_message_id("after", after),
        order=order or ("asc" if after.strip() and not before.strip() else "desc"),
        limit=limit,
    )
    ref, page = await find_history(services.backend, conversation_id, agent, query, frozenset(kinds) or DEFAULT_KINDS)
    names = await agent_names(services.backend, [ref.agent_id])
    return MessageList.of(
        ref,
        query,
        page,
        services.settings.max_output_chars,
        skip_chars=skip_chars,
        ids=ids,
        agent_name=names.get(ref.agent_id, ""),
    )


async def search_messages(
    ctx: ToolContext,
    query: Annotated[str, Field(description="words or topic", max_length=1_000)],
    conversation_id: Annotated[str, Field(description="only in it")] = "",
    agent: Annotated[str, Field(description="only of this agent")] = "",
    kinds: Annotated[list[str], Field(description="as in list_messages")] = [],
    start_date: Annotated[str, Field(description="e.g. 2026-11-21 or 2026-11-21T06:12:00Z")] = "",
    end_date: Annotated[str, Field(description="likewise; a day counts whole")] = "",
    mode: Annotated[SearchMode, Field(description="what must match")] = "both",
    limit: Annotated[int, Field(ge=1, le=50, description="rows")] = 10,
    after: Annotated[str, Field(description="cursor from an answer")] = "",
) -> SearchResults:
    """Find where something was said to or by Letta agents, by words or meaning: everywhere, of an agent or in a
    conversation."""
    services = services_of(ctx)
    since, until = read_bound("start_date", start_date), read_bound("end_date", end_date, end=True)
    if since and until and until < since:
        raise InvalidArgument("end_date", "it is before start_date.")
    ref = await _scope(ctx, conversation_id, agent)
    wanted = MessageSearch(
        query=query,
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        mode=mode,
        since=since,
        until=until,
        limit=limit,
    )
    async with heartbeat(ctx, "searching"):
        result = await search(
            services.backend, wanted, check_kinds(kinds), check_search_cursor(after, ref.conversation_id)
        )
    names = await agent_names(services.backend, (each.agent_id for each in result.found))
    names |= await summaries(services.backend, (each.conversation_id for each in result.found))
    return SearchResults.of(result, wanted, services.settings.max_output_chars, names)


async def _scope(ctx: ToolContext, conversation_id: str, agent: str) -> ConversationRef:
    """Where to look; an empty id stands for everywhere."""
    backend = services_of(ctx).backend
    if conversation_id.strip():
        return await locate(backend, conversation_id, agent)
    owner = (await find_agent(backend, agent)).id if agent.strip() else ""
    return ConversationRef(conversation_id="", agent_id=owner)


MESSAGE_TOOLS = (
    ToolSpec(send_message, title="Ask a Letta agent", destructive=True, open_world=True),
    ToolSpec(wait_for_reply, title="Wait for a Letta agent's reply", read_only=True),
    ToolSpec(list_messages, title="Read a Letta conversation", read_only=True),
    ToolSpec(search_messages, title="Search messages of Letta agents", read_only=True),
    ToolSpec(cancel, title="Stop a Letta agent's turn", destructive=True, idempotent=True),
)
