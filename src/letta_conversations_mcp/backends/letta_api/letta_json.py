"""From the REST API's JSON to our types, leniently: a field that is absent or of a wrong type reads as absent.

The SDK's typed objects are not used: they are not validated, turn unknown kinds into system messages, and take seven to
ten times as long (measured with letta-client 1.12.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from letta_conversations_mcp.core.message_json import (
    int_field,
    mapping_field,
    mappings,
    read_failure,
    read_message,
    text_field,
)
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Agent,
    Approvals,
    ContextUse,
    Conversation,
    ConversationChanges,
    ConversationRef,
    FoundMessage,
    MessageSearch,
    NewConversation,
    Outgoing,
    Run,
    SearchMode,
)

Json = dict[str, object]

SEARCH_MODES: dict[SearchMode, str] = {"words": "fts", "meaning": "vector", "both": "hybrid"}


def objects(data: object) -> list[Json]:
    """The objects in a JSON list; a page object's are under `items`."""
    items = cast("Mapping[str, object]", data).get("items") if isinstance(data, Mapping) else data
    return [cast("Json", item) for item in mappings(items)]


def read_agent(data: Mapping[str, object], *, with_blocks: bool = False) -> Agent:
    """`with_blocks` if the request included them: otherwise the server returns an empty list (0.16.8)."""
    labels = tuple(text_field(each, "label") for each in mappings(data.get("blocks")))
    return Agent(
        id=text_field(data, "id"),
        name=text_field(data, "name"),
        model=text_field(data, "model"),
        description=text_field(data, "description"),
        created_at=text_field(data, "created_at"),
        tags=_texts(data.get("tags")),
        block_labels=labels if with_blocks else None,
        in_context=_context(data.get("message_ids")),
        context_window=int_field(mapping_field(data, "llm_config"), "context_window") or None,
    )


def read_conversation(data: Mapping[str, object]) -> Conversation:
    limit = data.get("context_window_limit")
    return Conversation(
        id=text_field(data, "id"),
        agent_id=text_field(data, "agent_id"),
        summary=text_field(data, "summary"),
        description=text_field(data, "description"),
        model=text_field(data, "model"),
        # Without its own model they are stored but not used (seen on 0.16.8).
        model_settings=dict(mapping_field(data, "model_settings")) if data.get("model") else {},
        context_window_limit=limit if isinstance(limit, int) else None,
        isolated_block_ids=_texts(data.get("isolated_block_ids")),
        hidden=_flag(data, "hidden"),
        archived=_flag(data, "archived"),
        created_at=text_field(data, "created_at"),
        created_by=text_field(data, "created_by_id"),
        changed_at=text_field(data, "updated_at"),
        changed_by=text_field(data, "last_updated_by_id"),
        last_message_at=text_field(data, "last_message_at"),
        in_context=_context(data.get("in_context_message_ids")),
    )


def _context(ids: object) -> tuple[str, ...] | None:
    """The ids of the messages in context without the first, the system prompt. An empty list means unknown: 0.16.8
    fills it in only when a single conversation is read."""
    every = cast("list[object]", ids) if isinstance(ids, list) else []
    return tuple(map(str, every[1:])) if every else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, cast("list[object]", value))) if isinstance(value, list) else ()


def _flag(data: Mapping[str, object], name: str) -> bool | None:
    value = data.get(name)
    return value if isinstance(value, bool) else None


def read_run(data: Mapping[str, object]) -> Run:
    """The full error of a failed run is in `metadata.error`. Letta keeps the streams of background runs only, and never
    answers a request for the stream of another run (0.16.8)."""
    error = mapping_field(mapping_field(data, "metadata"), "error")
    return Run(
        id=text_field(data, "id"),
        status=text_field(data, "status"),
        stop_reason=text_field(data, "stop_reason"),
        created_at=text_field(data, "created_at"),
        failure=read_failure(error) if error else None,
        keeps_stream=_flag(data, "background") is not False,
    )


def read_context_use(step: Mapping[str, object]) -> ContextUse:
    """The prompt and completion of the last step are the beginning of the next context."""
    return ContextUse(
        tokens=int_field(step, "prompt_tokens") + int_field(step, "completion_tokens"),
        limit=int_field(step, "context_window_limit") or None,
    )


def read_found(data: Mapping[str, object]) -> FoundMessage:
    """A search result has different field names for a message's id and time, and no conversation id outside of
    conversations (source of 0.16.8)."""
    fields = {**data, "id": data.get("message_id"), "date": data.get("created_at")}
    return FoundMessage(
        conversation_id=text_field(data, "conversation_id") or DEFAULT_CONVERSATION,
        agent_id=text_field(data, "agent_id"),
        message=read_message(fields),
    )


def agent_of_default(ref: ConversationRef) -> Json:
    """The field that a request about a `default` conversation needs beside its path; none for any other."""
    return {"agent_id": ref.agent_id} if ref.conversation_id == DEFAULT_CONVERSATION else {}


def search_body(search: MessageSearch) -> Json:
    default = search.conversation_id == DEFAULT_CONVERSATION
    body: Json = {
        "query": search.query,
        "search_mode": SEARCH_MODES[search.mode],
        "agent_id": search.agent_id,
        "conversation_id": "" if default else search.conversation_id,
        "start_date": search.since.isoformat() if search.since else "",
        "end_date": search.until.isoformat() if search.until else "",
        "limit": search.limit,
    }
    return {name: value for name, value in body.items() if value != ""}


def conversation_body(new: NewConversation) -> Json:
    """The body of a create request. The SDK no longer has a parameter for isolated blocks, but 0.16.8 servers do."""
    body: Json = {
        "summary": new.summary or None,
        "description": new.description or None,
        "model": new.model or None,
        "model_settings": new.model_settings or None,
        "context_window_limit": new.context_window_limit,
        "hidden": new.hidden or None,
        "isolated_block_labels": list(new.isolated_blocks) or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def changes_body(changes: ConversationChanges) -> Json:
    return changes.model_dump(exclude_none=True)


def message_body(message: Outgoing) -> Json:
    """One user message, plain text or text and images as content parts; or decisions about tool calls."""
    if isinstance(message, Approvals):
        return _approvals_body(message)
    if not message.images:
        return {"role": "user", "content": message.text, "otid": message.otid}
    parts: list[Json] = [{"type": "text", "text": message.text}] if message.text else []
    for image in message.images:
        source: Json = (
            {"type": "url", "url": image.url}
            if image.url
            else {"type": "base64", "media_type": image.media_type, "data": image.data}
        )
        parts.append({"type": "image", "source": source})
    return {"role": "user", "content": parts, "otid": message.otid}


def _approvals_body(approvals: Approvals) -> Json:
    decisions: list[Json] = [
        {
            "type": "approval",
            "approve": each.approve,
            "tool_call_id": each.tool_call_id,
            "reason": each.reason or None,
        }
        for each in approvals.decisions
    ]
    return {"type": "approval", "approvals": decisions, "otid": approvals.otid}
