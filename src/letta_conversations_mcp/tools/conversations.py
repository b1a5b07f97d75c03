"""The tools that are about conversations as a whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from letta_conversations_mcp.conversations import describe as describing
from letta_conversations_mcp.conversations import fork as branching
from letta_conversations_mcp.conversations import update as updating
from letta_conversations_mcp.conversations.keys import (
    check_key,
    check_tags,
    open_with_key,
    open_with_summary,
    without_mark,
)
from letta_conversations_mcp.conversations.lookup import (
    check_blocks,
    check_conversation_cursor,
    check_conversation_id,
    check_message_id,
    find_agent,
    list_counted,
    locate,
)
from letta_conversations_mcp.conversations.names import agent_names
from letta_conversations_mcp.conversations.transcript import cut
from letta_conversations_mcp.conversations.update import check_model, check_text
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import NO_TAGS, InvalidArgument, NotConfirmed, Refused
from letta_conversations_mcp.core.model import (
    Archived,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    NewConversation,
    Order,
    OrderBy,
)
from letta_conversations_mcp.tools.base import (
    AgentArgument,
    ConfirmArgument,
    ConversationArgument,
    DefaultAgentArgument,
    LimitArgument,
    ToolContext,
    ToolSpec,
    services_of,
)
from letta_conversations_mcp.tools.results.conversations import ConversationList, Created, Deleted, Forked, Updated
from letta_conversations_mcp.tools.results.description import Described
from letta_conversations_mcp.tools.results.result import SUMMARY_CHARS


async def create_conversation(
    ctx: ToolContext,
    agent: AgentArgument,
    summary: Annotated[str, Field(description="name, such as 'invoice 4711'", max_length=10_000)] = "",
    description: Annotated[str, Field(description="longer text about it", max_length=50_000)] = "",
    model: Annotated[str, Field(description="provider/model, if not the agent's")] = "",
    model_settings: Annotated[
        dict[str, Any], Field(description="e.g. {'provider_type': 'openai', 'temperature': 0.2}")
    ] = {},
    context_window_limit: Annotated[int | None, Field(ge=1, description="tokens, if not the agent's")] = None,
    hidden: Annotated[bool, Field(description="keep out of lists")] = False,
    isolated_blocks: Annotated[list[str], Field(description="labels of memory blocks to copy for it alone")] = [],
    tags: Annotated[list[str], Field(description="with agents on this machine")] = [],
    key: Annotated[
        str, Field(min_length=1, description="your id for it, such as 'user:4711': opens one once, then finds it")
    ] = "",
    reuse: Annotated[bool, Field(description="find it by its exact summary instead")] = False,
) -> Created:
    """Open a conversation (thread) with a Letta agent: a new one, unless key or reuse finds one. An agent's
    conversations share its memory blocks, except isolated ones."""
    backend = services_of(ctx).backend
    check_text("summary", summary)
    check_text("description", description)
    if reuse and not key and not summary.strip():
        raise InvalidArgument("summary", "reuse=true finds a conversation by its summary, so one is needed.")
    if tags and not backend.keeps_tags:
        raise Refused("create a conversation with tags", NO_TAGS, "Nothing was created; leave tags out.")
    if model.strip():
        await check_model(backend, model.strip())
    owner = await find_agent(backend, agent)
    if isolated_blocks:
        await check_blocks(backend, owner, isolated_blocks)
    wanted = NewConversation(
        agent_id=owner.id,
        summary=summary if key else without_mark(summary),
        description=description if key else without_mark(description),
        model=model.strip(),
        model_settings=model_settings,
        context_window_limit=context_window_limit,
        hidden=hidden,
        tags=check_tags(tags),
        isolated_blocks=tuple(isolated_blocks),
    )
    conversation, found, same = await _open(backend, wanted, check_key(key) if key else "", reuse=reuse)
    notes = ["It existed already and was not changed." if found else _ignored(wanted, conversation)]
    if same > 1:
        notes.append("Several conversations have this summary; this is the oldest. A key names one only.")
    return Created(
        conversation_id=conversation.id,
        agent_id=owner.id,
        agent_name=owner.name,
        summary=cut(conversation.summary, SUMMARY_CHARS),
        reused=found,
        isolated_block_ids=conversation.isolated_block_ids,
        note=" ".join(filter(None, notes)),
        next=f"Talk in it with send_message(conversation_id={conversation.id!r}, message=…).",
    )


async def _open(backend: Backend, wanted: NewConversation, key: str, *, reuse: bool) -> tuple[Conversation, bool, int]:
    """The conversation, True if it existed before, and how many have its summary if `reuse`."""
    if key:
        return *await open_with_key(backend, wanted, key), 0
    if reuse:
        return await open_with_summary(backend, wanted)
    return await backend.create_conversation(wanted), False, 0


def _ignored(wanted: NewConversation, made: Conversation) -> str:
    """What the server ignored, in a sentence: 0.16.8 silently drops unknown fields."""
    dropped = [
        name
        for name, asked, got in (
            ("description", wanted.description, made.description),
            ("context_window_limit", wanted.context_window_limit, made.context_window_limit),
            ("hidden", wanted.hidden, made.hidden),
        )
        if asked and not got
    ]
    sentences = [f"This Letta server ignored: {', '.join(dropped)}."] if dropped else []
    if wanted.model_settings and made.model and not wanted.model:
        sentences.append(f"With settings of its own it keeps the model {made.model}, also when the agent's changes.")
    if wanted.isolated_blocks and len(made.isolated_block_ids) < len(wanted.isolated_blocks):
        sentences.append(
            "This Letta server ignored isolated_blocks: the conversation shares ALL memory blocks with the others."
        )
    return " ".join(sentences)


async def list_conversations(
    ctx: ToolContext,
    agent: Annotated[str, Field(description="id or exact name")] = "",
    search: Annotated[str, Field(description="part of the summary; case may matter")] = "",
    tag: Annotated[str, Field(description="has this tag")] = "",
    archived: Annotated[Archived, Field(description="no leaves archived ones out")] = "no",
    order: Annotated[Order, Field(description="desc: latest first")] = "desc",
    order_by: Annotated[OrderBy, Field(description="by opening, last message or last finished turn")] = "created_at",
    limit: LimitArgument = 20,
    after: Annotated[str, Field(description="last id of the page before")] = "",
) -> ConversationList:
    """List a Letta agent's conversations, or those of all agents, to find one to continue. An agent's history outside
    of them is not listed: conversation_id='default'."""
    backend = services_of(ctx).backend
    owner = await find_agent(backend, agent) if agent.strip() else None
    query = ConversationQuery(
        agent_id=owner.id if owner else "",
        search=search,
        tag=tag.strip(),
        archived=archived,
        order=order,
        order_by=order_by,
        after=check_conversation_cursor(after),
        limit=limit,
    )
    page, counted = await list_counted(backend, query)
    names = {} if owner else await agent_names(backend, (each.agent_id for each in page.items))
    return ConversationList.of(page, query, owner, names, services_of(ctx).settings.max_output_chars, counted)


async def describe(
    ctx: ToolContext, conversation_id: ConversationArgument, agent: DefaultAgentArgument = ""
) -> Described:
    """All about one Letta conversation: model, how full its context is, message counts, isolated blocks, running turn,
    tool calls that wait for approval."""
    services = services_of(ctx)
    ref = await locate(services.backend, conversation_id, agent)
    facts = await describing.describe(services.backend, ref)
    return Described.of(facts, services.settings.max_output_chars)


async def update(
    ctx: ToolContext,
    conversation_id: Annotated[str, Field(description="conv-… id")],
    summary: Annotated[str | None, Field(description="new name; '' clears it", max_length=10_000)] = None,
    description: Annotated[str | None, Field(description="'' clears it", max_length=50_000)] = None,
    archived: Annotated[Literal["yes", "no"] | None, Field(description="yes archives, no restores")] = None,
    model: Annotated[str | None, Field(description="provider/model; '': the agent's")] = None,
    model_settings: Annotated[dict[str, Any], Field(description="for that model")] = {},
    context_window_limit: Annotated[int | None, Field(ge=1, description="tokens")] = None,
    tags: Annotated[list[str] | None, Field(description="all of its tags")] = None,
) -> Updated:
    """Rename, describe, archive or restore a Letta conversation, or change its model or context window. The rest
    stays."""
    backend = services_of(ctx).backend
    changes = ConversationChanges(
        summary=summary,
        description=description,
        archived=None if archived is None else archived == "yes",
        model=None if model is None else model.strip(),
        model_settings=model_settings or None,
        context_window_limit=context_window_limit,
        tags=None if tags is None else tuple(tags),
    )
    done = await updating.update(backend, check_conversation_id(conversation_id), changes)
    now = done.conversation
    return Updated(
        conversation_id=now.id,
        changed=done.changed,
        ignored=done.ignored,
        summary=cut(now.summary, SUMMARY_CHARS),
        archived=now.archived,
        model=now.model,
    )


async def fork(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    at_message: Annotated[str, Field(description="message-… id where it ends")] = "",
    summary: Annotated[str, Field(description="name of the branch", max_length=10_000)] = "",
    hidden: Annotated[bool, Field(description="keep out of lists")] = False,
) -> Forked:
    """Branch a Letta conversation, to try something: open a new one that begins with the same messages, as far as they
    are in context."""
    ref = await locate(services_of(ctx).backend, conversation_id, agent)
    branch = await branching.fork(
        services_of(ctx).backend,
        ref,
        at_message=check_message_id("at_message", at_message),
        summary=summary,
        hidden=hidden,
    )
    made = branch.conversation
    return Forked(
        conversation_id=made.id,
        agent_id=ref.agent_id,
        source=ref.conversation_id,
        summary=cut(made.summary, SUMMARY_CHARS),
        shared_messages=branch.shared,
        note=" ".join(branch.notes),
        next=f"Talk in it with send_message(conversation_id={made.id!r}, message=…).",
    )


async def delete(
    ctx: ToolContext,
    conversation_id: Annotated[str, Field(description="conv-… id")],
    confirm: ConfirmArgument = False,
) -> Deleted:
    """Delete a Letta conversation with its messages and isolated memory blocks, for everybody and for good. Its agent
    and shared memory stay. Only when the user asked for it."""
    backend = services_of(ctx).backend
    conversation = await backend.get_conversation(check_conversation_id(conversation_id))
    named = f" ({cut(conversation.summary, SUMMARY_CHARS)!r})" if conversation.summary else ""
    count = len(conversation.isolated_block_ids)
    blocks = f"isolated memory block{'s' if count > 1 else ''}"
    if not confirm and backend.deletion == "hidden":
        raise NotConfirmed(
            f"This backend cannot delete: it would hide conversation {conversation.id}{named} from every list, "
            "and leave its messages on the disk."
        )
    if not confirm:
        own = f" and its {count} {blocks}" if count else ""
        raise NotConfirmed(f"This would delete conversation {conversation.id}{named}{own} for everybody and for good.")
    await backend.delete_conversation(conversation.id)
    return Deleted(
        conversation_id=conversation.id,
        outcome=backend.deletion,
        summary=cut(conversation.summary, SUMMARY_CHARS),
        note=f"Destroyed with it: {count} {blocks}." if count else "",
    )


CONVERSATION_TOOLS = (
    ToolSpec(create_conversation, title="Open a Letta conversation"),
    ToolSpec(list_conversations, title="List Letta conversations", read_only=True),
    ToolSpec(delete, title="Delete a Letta conversation", destructive=True, idempotent=True, deletes=True),
    ToolSpec(describe, title="Describe a Letta conversation", read_only=True),
    ToolSpec(update, title="Change a Letta conversation", destructive=True, idempotent=True),
    ToolSpec(fork, title="Fork a Letta conversation"),
)
