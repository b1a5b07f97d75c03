"""The tools of the viewer, an MCP App: one that a model opens it with, and one that only the viewer reads with.

Everything else that the viewer does, it does with the tools that models have. It reads with a tool of its own because
theirs cuts long messages to a model's budget and joins the parts of a message that a person wants to unfold.
"""

from __future__ import annotations

from typing import Annotated

from mcp.server.apps import client_supports_apps
from pydantic import Field

from letta_conversations_mcp.conversations.history import DEFAULT_KINDS, find_history, read_history
from letta_conversations_mcp.conversations.lookup import check_message_id, find_agent, locate
from letta_conversations_mcp.conversations.transcript import body, cut, fit, to_markdown
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, MessageKind, MessageQuery
from letta_conversations_mcp.tools.base import (
    VIEWER_URI,
    ConversationArgument,
    DefaultAgentArgument,
    ToolContext,
    ToolSpec,
    services_of,
)
from letta_conversations_mcp.tools.results.result import SUMMARY_CHARS
from letta_conversations_mcp.tools.results.viewer import Shown, ViewedCall, ViewedMessage, ViewedPage

VIEWED_KINDS: frozenset[MessageKind] = frozenset({*DEFAULT_KINDS, "reasoning"})

NEWEST = 10
"""Messages that a client without apps is shown instead."""


async def show_conversation(
    ctx: ToolContext,
    conversation_id: Annotated[str, Field(description="empty: a list")] = "",
    agent: DefaultAgentArgument = "",
) -> Shown:
    """Show a Letta conversation to the user, who can read, write and approve there. list_messages is for yourself."""
    services = services_of(ctx)
    has_viewer = client_supports_apps(ctx)
    if not conversation_id.strip():
        owner = await find_agent(services.backend, agent) if agent.strip() else None
        note = (
            "The user sees the list." if has_viewer else "This client shows no viewer; list_conversations lists them."
        )
        return Shown(agent_id=owner.id if owner else "", agent_name=owner.name if owner else "", note=note)
    ref = await locate(services.backend, conversation_id, agent)
    owner = await services.backend.get_agent(ref.agent_id)
    summary = ""
    if ref.conversation_id != DEFAULT_CONVERSATION:
        summary = (await services.backend.get_conversation(ref.conversation_id)).summary
    transcript, note = "", "The user sees it now and can write there; list_messages reads it to you."
    if not has_viewer:
        page = await read_history(services.backend, ref, MessageQuery(limit=NEWEST))
        texts = fit([body(each) for each in page.messages], services.settings.max_output_chars)
        transcript = to_markdown(page.messages, texts)
        note = "This client shows no viewer. The newest messages follow; list_messages has the others."
    return Shown(
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        agent_name=owner.name,
        summary=cut(summary, SUMMARY_CHARS),
        note=note,
        transcript=transcript,
    )


async def view_messages(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 50,
    before: Annotated[str, Field(description="cursor: only messages older than this message-… id")] = "",
    after: Annotated[str, Field(description="cursor: only messages newer than this message-… id")] = "",
) -> ViewedPage:
    """For the viewer: a page of messages in full, the tool calls that wait for a decision, and the run that is active.
    Changes nothing."""
    backend = services_of(ctx).backend
    query = MessageQuery(
        before=check_message_id("before", before),
        after=check_message_id("after", after),
        order="asc" if after.strip() else "desc",
        limit=limit,
    )
    ref, page = await find_history(backend, conversation_id, agent, query, VIEWED_KINDS)
    if query.before:
        # The state of the conversation is that of its end.
        approvals, active = (), ""
    else:
        approvals = await backend.list_approvals(ref)
        active = next((run.id for run in await backend.list_runs(ref, limit=2) if run.active), "")
    return ViewedPage(
        conversation_id=ref.conversation_id,
        agent_id=ref.agent_id,
        messages=tuple(map(ViewedMessage.of, page.messages)),
        older=page.older,
        newer=page.newer,
        approvals=tuple(map(ViewedCall.of, approvals)),
        run_id=active,
    )


VIEWER_TOOLS = (
    ToolSpec(show_conversation, title="Show a Letta conversation", read_only=True, shown_in=VIEWER_URI),
    ToolSpec(
        view_messages, title="Read messages for the viewer", read_only=True, shown_in=VIEWER_URI, for_models=False
    ),
)
