"""Conversations as MCP resources: their facts (JSON), their transcript (Markdown or JSON), and the list of recent ones
for a person to choose from. Read-only, and within the budget of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from mcp.server import MCPServer, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp_types import (
    Annotations,
    CompleteResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    ListResourcesResult,
    PromptReference,
    Resource,
    ResourceTemplateReference,
)
from pydantic import BaseModel
from pydantic_core import to_json

from letta_conversations_mcp.conversations.history import HistoryPage, find_history
from letta_conversations_mcp.conversations.lookup import check_conversation_id, check_message_id
from letta_conversations_mcp.conversations.names import agent_names
from letta_conversations_mcp.conversations.transcript import body, cut, fit, minute, to_markdown
from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import CONVERSATION_ID, Conversation, ConversationQuery, MessageQuery
from letta_conversations_mcp.core.untrusted import escaped
from letta_conversations_mcp.server.completion import complete_argument
from letta_conversations_mcp.tools.base import Services, ToolContext, services_of
from letta_conversations_mcp.tools.mcp_errors import raising_mcp_errors, raising_resource_errors

CONVERSATION_URI = "letta://conversations/{conversation_id}"
TRANSCRIPT_URI = "letta://conversations/{conversation_id}/transcript{?before,limit}"
TRANSCRIPT_JSON_URI = "letta://conversations/{conversation_id}/transcript.json{?before,limit}"

MOST_IDS = 200
"""Ids of messages in context that a conversation's resource has, the newest."""

TITLE_CHARS = 80

RECENT = 50
"""Conversations per page of the list, which clients show as a menu."""

TRANSCRIPT_LIMIT = 50
"""Messages per page of a transcript, unless the URI has a limit."""


def add_resources(server: MCPServer[Services]) -> None:
    """Register completion, the list of recent conversations, and the templates."""

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Announces the capability; `ask_letta` answers, because the SDK's handler cannot reach the backend."""

    # Once, at the first request for them: deriving their schemas would slow down the start.
    add_templates = cache(partial(_add_templates, server))

    async def have_templates(ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method in ("resources/templates/list", "resources/read"):
            add_templates()
        return await call_next(ctx)

    server.middleware.extend([have_templates, ask_letta])


def _add_templates(server: MCPServer[Services]) -> None:
    @server.resource(
        CONVERSATION_URI,
        name="conversation",
        title="Conversation",
        description="What a conversation is: agent, summary, model, times, isolated blocks.",
        mime_type="application/json",
    )
    async def conversation(conversation_id: str, ctx: ToolContext) -> str:
        with raising_resource_errors():
            return await _describe(services_of(ctx), conversation_id)

    @server.resource(
        TRANSCRIPT_URI,
        name="transcript",
        title="Transcript",
        description="What was said in a conversation, oldest first: the newest page, with a link to the one before.",
        mime_type="text/markdown",
        annotations=Annotations(audience=["user", "assistant"]),
    )
    async def transcript(conversation_id: str, ctx: ToolContext, before: str = "", limit: str = "") -> str:
        with raising_resource_errors():
            return await _markdown(services_of(ctx), conversation_id, before, limit)

    @server.resource(
        TRANSCRIPT_JSON_URI,
        name="transcript-json",
        title="Transcript as JSON",
        description="The same as an object with messages (kind, at, text) and the cursor to the page before.",
        mime_type="application/json",
    )
    async def transcript_json(conversation_id: str, ctx: ToolContext, before: str = "", limit: str = "") -> str:
        with raising_resource_errors():
            return await _json(services_of(ctx), conversation_id, before, limit)


async def _describe(services: Services, conversation_id: str) -> str:
    conversation = await services.backend.get_conversation(check_conversation_id(conversation_id))
    facts = conversation.model_dump(exclude_defaults=True)
    if conversation.isolated_block_ids:
        facts["isolated_blocks"] = [each.label for each in await services.backend.list_isolated_blocks(conversation)]
    context = conversation.in_context or ()
    if len(context) > MOST_IDS:
        facts |= {"in_context": context[-MOST_IDS:], "in_context_left_out": len(context) - MOST_IDS}
    return to_json(facts).decode()


async def _page(services: Services, conversation_id: str, before: str, limit: str) -> HistoryPage:
    if limit and not (limit.isdecimal() and 1 <= int(limit) <= 100):
        raise InvalidArgument("limit", "a number from 1 to 100 is needed.")
    query = MessageQuery(before=check_message_id("before", before), limit=int(limit or TRANSCRIPT_LIMIT))
    _, page = await find_history(services.backend, check_conversation_id(conversation_id), "", query)
    return page


def _fitting(services: Services, page: HistoryPage) -> list[str]:
    return fit([body(each) for each in page.messages], services.settings.max_output_chars)


async def _markdown(services: Services, conversation_id: str, before: str, limit: str) -> str:
    page = await _page(services, conversation_id, before, limit)
    texts = _fitting(services, page)
    parts = [
        f"[older messages]({_older_uri(conversation_id, page, limit, '')})" if page.older else "",
        _cut_note(page, texts),
        to_markdown(page.messages, texts) or "(no messages)",
    ]
    return "\n\n".join(filter(None, parts))


async def _json(services: Services, conversation_id: str, before: str, limit: str) -> str:
    page = await _page(services, conversation_id, before, limit)
    texts = _fitting(services, page)
    answer: dict[str, object] = {
        "conversation_id": conversation_id,
        "messages": [
            {"kind": each.kind, "at": minute(each.at), "text": text}
            for each, text in zip(page.messages, texts, strict=True)
        ],
    }
    if page.older:
        answer["older"] = _older_uri(conversation_id, page, limit, ".json")
    if note := _cut_note(page, texts):
        answer["note"] = note
    return to_json(answer).decode()


def _older_uri(conversation_id: str, page: HistoryPage, limit: str, ending: str) -> str:
    size = f"&limit={limit}" if limit else ""
    return f"letta://conversations/{conversation_id}/transcript{ending}?before={page.older}{size}"


def _cut_note(page: HistoryPage, texts: list[str]) -> str:
    count = sum(text != body(each) for each, text in zip(page.messages, texts, strict=True))
    return f"(Cut to fit: {count} of these messages. The tool list_messages reads on in them.)" if count else ""


def _as_resource(conversation: Conversation, agent_name: str) -> Resource:
    when = minute(conversation.last_message_at or conversation.created_at)
    title = cut(escaped(" ".join(conversation.summary.split())), TITLE_CHARS) or f"Conversation of {when}"
    agent = repr(cut(escaped(agent_name), TITLE_CHARS)) if agent_name else conversation.agent_id
    return Resource(
        uri=f"letta://conversations/{conversation.id}/transcript",
        name=conversation.id,
        title=title,
        description=f"Transcript; agent {agent}, last message {when}.",
        mime_type="text/markdown",
    )


async def _recent(services: Services, cursor: object) -> ListResourcesResult:
    """A page of conversations, newest first. The cursor is the id of the last one."""
    after = cursor if isinstance(cursor, str) else ""
    if after and not CONVERSATION_ID.fullmatch(after):
        raise InvalidArgument("cursor", "it is not one that this server gave; list again without it.")
    page = await services.backend.list_conversations(ConversationQuery(after=after, limit=RECENT))
    names = await agent_names(services.backend, {each.agent_id for each in page.items})
    return ListResourcesResult(
        resources=[_as_resource(each, names.get(each.agent_id, "")) for each in page.items],
        next_cursor=page.items[-1].id if page.more else None,
    )


async def ask_letta(ctx: ServerRequestContext[Services, Any], call_next: CallNext) -> HandlerResult:
    """Answers `resources/list` and completions from the backend.

    A middleware, because the SDK's list holds fixed resources only and does not page, and its completion handlers get
    no context. The SDK's own handler runs first: it checks the request and the state of the connection, and its result
    has the fields of the client's version of the protocol, which stay.
    """
    result = await call_next(ctx)
    if ctx.request_id is None:
        return result
    params = ctx.params or {}
    with raising_mcp_errors():
        if ctx.method == "resources/list":
            page = await _recent(ctx.lifespan_context, params.get("cursor"))
            return _with_fields_of(result, page, {"resources", "next_cursor"})
        if ctx.method == "completion/complete":
            completion = CompleteResult(completion=await complete_argument(ctx.lifespan_context, params))
            return _with_fields_of(result, completion, {"completion"})
    return result


def _with_fields_of(result: HandlerResult, other: BaseModel, fields: set[str]) -> HandlerResult:
    """A result of the SDK, already in the form that goes to the client, with these fields of ours in it."""
    ours = other.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields)
    return {**result, **ours} if isinstance(result, Mapping) else ours
