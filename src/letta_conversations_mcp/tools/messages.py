"""The tools that are about messages: sending one, waiting for its reply, reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations import fork as branching
from letta_conversations_mcp.conversations.history import DEFAULT_KINDS, HistoryPage, read_history
from letta_conversations_mcp.conversations.images import read_image
from letta_conversations_mcp.conversations.lookup import check_message_id, check_run_id, locate
from letta_conversations_mcp.conversations.sender import find_speaker, introduce, next_hop
from letta_conversations_mcp.conversations.transcript import body, shorten, to_markdown
from letta_conversations_mcp.core.errors import Busy, ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import (
    ConversationRef,
    MessageKind,
    MessageQuery,
    OnBusy,
    Order,
    OutgoingMessage,
)
from letta_conversations_mcp.tools.approvals import question_of, resume, settle
from letta_conversations_mcp.tools.opening import open_for
from letta_conversations_mcp.tools.progress import reporter
from letta_conversations_mcp.tools.replies import Reply, ReplyKind
from letta_conversations_mcp.tools.tool import (
    RESERVED_CHARS,
    ConversationArgument,
    DefaultAgentArgument,
    Result,
    Services,
    ToolContext,
    ToolSpec,
    WaitArgument,
    services_of,
)

MESSAGE_CHARS = 60
"""What a message costs beside its text, in either form of the answer."""

ID_CHARS = 60
"""What its id adds to that."""


class MessageRow(Result):
    kind: MessageKind
    id: str = ""
    at: str = ""
    text: str = ""


class MessageList(Result):
    conversation_id: str
    agent_id: str
    messages: tuple[MessageRow, ...] = ()
    older: str = ""
    newer: str = ""
    note: str = ""
    transcript: Annotated[str, Field(exclude=True)] = ""

    def to_text(self) -> str:
        cursors = [
            f"Older: before={self.older!r}." if self.older else "",
            f"Newer: after={self.newer!r}." if self.newer else "",
        ]
        parts = [
            f"[{self.conversation_id} · {self.agent_id}]",
            self.transcript,
            self.note,
            " ".join(filter(None, cursors)),
        ]
        return "\n\n".join(filter(None, parts))


async def send_message(
    ctx: ToolContext,
    message: Annotated[str, Field(description="the text", max_length=1_000_000)],
    conversation_id: Annotated[
        str, Field(description="conv-… id, or 'default' with agent; empty: opens a new one")
    ] = "",
    agent: Annotated[str, Field(description="agent id or exact name; needed without a conv-… id")] = "",
    wait_seconds: WaitArgument = None,
    images: Annotated[
        list[str], Field(description="https://… or data:image/png;base64,… (png, jpeg, gif, webp)", max_length=20)
    ] = [],
    model: Annotated[str, Field(description="provider/model for this message only")] = "",
    max_steps: Annotated[int | None, Field(ge=1, le=1000, description="most steps (model calls) of the agent")] = None,
    on_busy: Annotated[
        OnBusy, Field(description="if another turn runs there: wait for it, fail at once, or fork: a branch answers")
    ] = "wait",
    kinds: Annotated[
        list[ReplyKind],
        Field(description="also wanted: its thinking; arguments and results of its tools"),
    ] = [],
    sender: Annotated[
        str, Field(description="who speaks, if an agent does: conv-… or agent-… id, or a name", max_length=200)
    ] = "",
) -> Reply:
    """Send one message to a Letta agent and wait for its reply. Continue a conversation by conversation_id; with agent
    alone a new one is opened, whose id comes back. The agent remembers what is said, may run its tools, and may change
    memory that all its conversations share. Status running means that the reply takes longer: call wait_for_reply,
    do NOT send it again."""
    services = services_of(ctx)
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    if asked := question_of(ctx):
        # The message was sent in the round before; this one brings the person's answer about a tool call.
        return Reply.of(await resume(ctx, asked, seconds), asked.ref, kinds, services.settings.max_output_chars)
    if not message.strip() and not images:
        raise InvalidArgument("message", "a text or an image is needed.")
    opens = not conversation_id.strip()
    outgoing = OutgoingMessage(
        text=message,
        images=tuple(map(read_image, images)),
        model=model.strip(),
        max_steps=max_steps,
        opens=opens,
    )
    speaker, hop, most = None, 0, services.settings.max_depth
    if sender.strip():
        speaker = await find_speaker(services.backend, sender)
        hop = await next_hop(services.backend, services.sender, speaker, message, most)
    if opens and not agent.strip():
        raise InvalidArgument(
            "conversation_id", "give a conversation_id to continue, or an agent to open a new conversation."
        )
    ref = await (open_for(services, agent, outgoing) if opens else locate(services.backend, conversation_id, agent))
    branch_of = ""
    try:
        if speaker:
            outgoing = outgoing.model_copy(update={"text": introduce(speaker, ref, message, hop, most)})
        try:
            turn = await services.sender.send_and_wait(
                ref, outgoing, seconds, reporter(ctx), wait_if_busy=on_busy == "wait"
            )
        except Busy:
            if on_busy != "fork":
                raise
            branch_of, ref = str(ref), await _branch(services, ref)
            turn = await services.sender.send_and_wait(ref, outgoing, seconds, reporter(ctx))
    except ConversationError as error:
        if opens or branch_of:
            error.add(f"The new conversation {ref.conversation_id} is there.")
        raise
    turn = await settle(ctx, ref, turn, seconds)
    return Reply.of(turn, ref, kinds, services.settings.max_output_chars, branch_of=branch_of)


async def _branch(services: Services, ref: ConversationRef) -> ConversationRef:
    branch = await branching.fork(services.backend, ref)
    return ConversationRef(conversation_id=branch.conversation.id, agent_id=ref.agent_id)


async def wait_for_reply(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    run_id: Annotated[str, Field(description="run-… id from send_message; left out: the latest turn")] = "",
    wait_seconds: WaitArgument = None,
    kinds: Annotated[list[ReplyKind], Field(description="as in send_message")] = [],
) -> Reply:
    """Go on waiting for a reply, or fetch it again, without sending anything. Use it after send_message answered
    running or unknown, a time-out or a lost connection; it works after a restart, and for others' turns. Answers like
    send_message; `answers`: to which message."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    flight = await services.sender.find(ref, check_run_id(run_id))
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    turn = await services.sender.wait(flight, seconds, reporter(ctx))
    if isinstance(flight.message, OutgoingMessage):
        turn = turn.model_copy(update={"message": flight.message.text})
    return Reply.of(turn, ref, kinds, services.settings.max_output_chars)


async def list_messages(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
    before: Annotated[str, Field(description="cursor: only messages older than this message-… id")] = "",
    after: Annotated[str, Field(description="cursor: only messages newer than this message-… id")] = "",
    order: Annotated[
        Order | None,
        Field(description="take the newest (desc) or the oldest; left out: asc with after, else desc"),
    ] = None,
    kinds: Annotated[list[MessageKind], Field(description="only these; left out: all but reasoning and system")] = [],
    skip_chars: Annotated[int, Field(ge=0, description="start this far into each, to read on in one that was cut")] = 0,
    ids: Annotated[bool, Field(description="show their ids, for fork")] = False,
) -> MessageList:
    """Read a conversation back: one page of messages, oldest to newest, with cursors to older and newer ones. Long
    messages are cut to fit, none is left out. Changes nothing."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    query = MessageQuery(
        before=check_message_id("before", before),
        after=check_message_id("after", after),
        order=order or ("asc" if after.strip() and not before.strip() else "desc"),
        limit=limit,
    )
    page = await read_history(services.backend, ref, query, frozenset(kinds) or DEFAULT_KINDS)
    bodies = [body(each)[skip_chars:] for each in page.messages]
    room = services.settings.max_output_chars - RESERVED_CHARS - (MESSAGE_CHARS + ID_CHARS * ids) * len(bodies)
    shown = shorten(bodies, room)
    return MessageList(
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        messages=tuple(
            MessageRow(kind=each.kind, id=each.id if ids else "", at=each.at[:16], text=text)
            for each, text in zip(page.messages, shown, strict=True)
        ),
        older=page.older,
        newer=page.newer,
        note=_note(query, page, bodies, shown, skip_chars),
        transcript=to_markdown(page.messages, shown, with_ids=ids),
    )


def _note(query: MessageQuery, page: HistoryPage, bodies: Sequence[str], shown: Sequence[str], skipped: int) -> str:
    """Why the page is empty, or how to read on in what was cut."""
    if not page.messages:
        if page.older if query.order == "desc" else page.newer:
            return "None of the messages looked at is of these kinds; the cursor leads on."
        direction = "older " if query.before else "newer " if query.after else ""
        return f"No {direction}messages."
    cut_ones = [index for index, text in enumerate(shown) if text != bodies[index]]
    if not cut_ones:
        return ""
    first = cut_ones[0]
    following = page.messages[first + 1].id if first + 1 < len(page.messages) else ""
    at = f"before={following!r}, " if following else ""
    return (
        f"Cut to fit: {len(cut_ones)} of these messages. "
        f"To read on in the first of them: the same call with {at}limit=1, skip_chars={skipped + len(shown[first])}."
    )


MESSAGE_TOOLS = (
    ToolSpec(send_message, title="Send a message to an agent", open_world=True),
    ToolSpec(wait_for_reply, title="Wait for a reply", read_only=True),
    ToolSpec(list_messages, title="Read messages", read_only=True),
)
