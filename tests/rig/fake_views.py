"""How the fake Letta server reads requests and writes agents and conversations as JSON.

Owns the checks that answer 422 with the server's texts (`detail` is the Python repr of pydantic's error list), and
the fields of an agent and of a conversation in their order on 0.16.8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from tests.rig.fake_run import Json, zulu
from tests.rig.fake_store import INSTRUCTIONS, USER_ID, Agent, Block, Conversation, HttpError, Row

UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
CONVERSATION_PATTERN = f"^conv-{UUID4}$"
ANY_CONVERSATION_PATTERN = f"^(default|conv-{UUID4}|agent-{UUID4})$"
AGENT_PATTERN = f"^agent-{UUID4}$"
CONVERSATION_ID_LENGTH = 41
PROVIDERS = [
    "openai",
    "sglang",
    "anthropic",
    "google_ai",
    "google_vertex",
    "azure",
    "xai",
    "zai",
    "groq",
    "deepseek",
    "together",
    "bedrock",
    "baseten",
    "openrouter",
    "chatgpt_oauth",
]
OPENAI_SETTINGS: Json = {
    "max_output_tokens": 4096,
    "parallel_tool_calls": True,
    "provider_type": "openai",
    "temperature": 0.7,
    "reasoning": {"reasoning_effort": "high"},
    "response_format": None,
    "strict": True,
}
LABEL_DESCRIPTIONS = {
    "human": "The human block: Stores key details about the person you are conversing with, allowing for more "
    "personalized and friend-like conversation.",
    "persona": "The persona block: Stores details about your current persona, guiding how you behave and respond. "
    "This helps you to maintain consistency and personality in your interactions.",
}
AGENT_SETTINGS: Json = {
    "max_output_tokens": 16384,
    "parallel_tool_calls": True,
    "provider_type": "openai",
    "temperature": 1.0,
    "reasoning": {"reasoning_effort": "minimal"},
    "response_format": None,
    "strict": False,
}
COMPACTION_SETTINGS: Json = {
    "model": "openai/gpt-5-mini",
    "model_settings": None,
    "prompt": "The following messages are being evicted from the BEGINNING of your context window. Write a summary.",
    "prompt_acknowledgement": False,
    "clip_chars": 50000,
    "mode": "sliding_window",
    "sliding_window_percentage": 0.3,
}
NULL_BLOCK_FIELDS = ["project_id", "template_name", "template_id", "base_template_id", "deployment_id", "entity_id"]


def unprocessable(kind: str, where: Sequence[object], message: str, given: object, **context: object) -> HttpError:
    """422 for one value that does not validate."""
    problem: Json = {"type": kind, "loc": tuple(where), "msg": message, "input": given}
    if context:
        problem["ctx"] = context
    failure = HttpError(422, repr([problem]))
    failure.body = {"trace_id": "", **failure.body}
    return failure


def check_pattern(name: str, value: str, pattern: str, shown: str | None = None) -> str:
    if re.fullmatch(pattern, value):
        return value
    message = f"String should match pattern '{shown or pattern}'"
    raise unprocessable("string_pattern_mismatch", ("path", name), message, value, pattern=pattern)


def path_agent(request: Request) -> str:
    try:
        return check_pattern("agent_id", request.path_params["agent_id"], AGENT_PATTERN, "agent-{uuid4}")
    except HttpError as failure:
        failure.body["examples"] = ["agent-123e4567-e89b-42d3-8456-426614174000"]
        raise


def path_conversation(request: Request) -> str:
    """A `conv-` id: the routes that retrieve, update and delete take no other."""
    value: str = request.path_params["conversation_id"]
    length = CONVERSATION_ID_LENGTH
    where = ("path", "conversation_id")
    if len(value) < length:
        raise unprocessable(
            "string_too_short", where, f"String should have at least {length} characters", value, min_length=length
        )
    if len(value) > length:
        raise unprocessable(
            "string_too_long", where, f"String should have at most {length} characters", value, max_length=length
        )
    return check_pattern("conversation_id", value, CONVERSATION_PATTERN)


def path_any_conversation(request: Request) -> str:
    return check_pattern("conversation_id", request.path_params["conversation_id"], ANY_CONVERSATION_PATTERN)


def required(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise unprocessable("missing", ("query", name), "Field required", None)
    return value


def choice(value: str, where: Sequence[object], choices: Sequence[str]) -> str:
    if value in choices:
        return value
    *first, last = [f"'{name}'" for name in choices]
    expected = f"{', '.join(first)} or {last}"
    raise unprocessable("literal_error", where, f"Input should be {expected}", value, expected=expected)


def descending(request: Request, default: str = "desc") -> bool:
    return choice(request.query_params.get("order", default), ("query", "order"), ("asc", "desc")) == "desc"


def limit(request: Request, default: int) -> int:
    """The limit as given. A negative one breaks the server's query."""
    given = request.query_params.get("limit", str(default))
    value = integer(given, ("query", "limit"))
    if value < 0:
        raise HttpError(500, "A database error occurred.")
    return value


def integer(given: Any, where: Sequence[object]) -> int:
    try:
        return int(given)
    except ValueError:
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise unprocessable("int_parsing", where, message, given) from None


async def body_of(request: Request, *, needed: bool = False) -> Json:
    raw = await request.body()
    if not raw:
        if needed:
            raise unprocessable("missing", ("body",), "Field required", None)
        return {}
    try:
        return await request.json() or {}
    except ValueError as problem:
        reason = getattr(problem, "msg", "")
        where = ("body", getattr(problem, "pos", 0))
        raise unprocessable("json_invalid", where, "JSON decode error", {}, error=reason) from None


def check_text(body: Json, name: str) -> None:
    if not isinstance(body.get(name), str | None):
        raise unprocessable("string_type", ("body", name), "Input should be a valid string", body[name])


def check_conversation_fields(body: Json) -> None:
    check_text(body, "summary")
    if "\x00" in (body.get("summary") or ""):
        raise HttpError(500, "A database error occurred.")
    if body.get("model") and "/" not in body["model"]:
        raise HttpError(400, "INVALID_ARGUMENT: The model handle should be in the format provider/model-name")
    settings = body.get("model_settings")
    if settings and settings.get("provider_type") not in PROVIDERS:
        tag = settings.get("provider_type")
        tags = ", ".join(f"<ProviderType.{name}: '{name}'>" for name in PROVIDERS)
        message = f"Input tag '{tag}' found using 'provider_type' does not match any of the expected tags: {tags}"
        context = {"discriminator": "'provider_type'", "tag": tag, "expected_tags": tags}
        raise unprocessable("union_tag_invalid", ("body", "model_settings"), message, settings, **context)


def stored_settings(settings: Json | None) -> Json | None:
    if settings and settings["provider_type"] == "openai":
        return {**OPENAI_SETTINGS, **settings}
    return settings


def check_messages(body: Json) -> None:
    """What the server says before it looks for the conversation."""
    messages: list[Json] | None = body.get("messages")
    if messages is None and body.get("input") is None:
        problem = "Must specify either 'input' or 'messages'."
        raise unprocessable("value_error", ("body",), f"Value error, {problem}", body, error=ValueError(problem))
    if messages is not None and body.get("input") is not None:
        problem = "Cannot specify both 'input' and 'messages'. Use one or the other."
        given = {**body, "messages": [{**message, "type": message.get("type", "message")} for message in messages]}
        raise unprocessable("value_error", ("body",), f"Value error, {problem}", given, error=ValueError(problem))
    if messages is not None and not messages:
        raise HttpError(422, "Messages must not be empty")
    for index, message in enumerate(messages or ()):
        is_text = message.get("type", "message") == "message"
        if is_text and message.get("role") not in ("user", "system", "assistant"):
            where = ("body", "messages", index, "function-after[generate_otid_if_missing(), MessageCreate]", "role")
            roles = "<MessageRole.user: 'user'>, <MessageRole.system: 'system'> or <MessageRole.assistant: 'assistant'>"
            raise unprocessable("literal_error", where, f"Input should be {roles}", message.get("role"), expected=roles)
    if body.get("max_steps") is not None:
        integer(body["max_steps"], ("body", "max_steps"))


def shown(rows: Sequence[Row], types: Sequence[str]) -> list[Json]:
    """The Letta messages of a page of rows; `types` filter after the page was cut."""
    return [item for row in rows for item in row.items if not types or item["message_type"] in types]


def conversation_json(conversation: Conversation, *, cloud: bool, retrieved: bool = False) -> Json:
    """Only retrieve fills in_context_message_ids."""
    result: Json = {
        "created_by_id": USER_ID,
        "last_updated_by_id": USER_ID,
        "created_at": zulu(conversation.created),
        "updated_at": zulu(conversation.updated),
        "id": conversation.id,
        "agent_id": conversation.agent.id,
        "summary": conversation.summary,
        "in_context_message_ids": [row.id for row in conversation.context()] if retrieved else [],
        "isolated_block_ids": [block.id for block in conversation.blocks.values()],
        "model": conversation.model,
        "model_settings": conversation.model_settings,
        "last_message_at": zulu(conversation.last_message_at),
    }
    if cloud:
        del result["isolated_block_ids"]
        result |= {
            "description": conversation.description,
            "hidden": conversation.hidden,
            "context_window_limit": conversation.context_window_limit,
            "archived": conversation.archived_at is not None,
            "archived_at": zulu(conversation.archived_at),
        }
    return result


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def block_json(block: Block) -> Json:
    return {
        "value": block.value,
        "limit": 100000,
        **dict.fromkeys(NULL_BLOCK_FIELDS),
        "is_template": False,
        "preserve_on_migration": False,
        "label": block.label,
        "read_only": False,
        "description": LABEL_DESCRIPTIONS.get(block.label),
        "metadata": {},
        "hidden": None,
        "id": block.id,
        "created_by_id": None,
        "last_updated_by_id": None,
        "tags": [],
    }


def agent_json(agent: Agent) -> Json:
    name = agent.model.split("/")[-1]
    blocks = [block_json(block) for block in agent.blocks.values()]
    rules = [
        {"tool_name": tool, "type": "requires_approval", "prompt_template": None} for tool in agent.needing_approval
    ]
    memory: Json = {
        "agent_type": "letta_v1_agent",
        "git_enabled": False,
        "blocks": blocks,
        "file_blocks": [],
        "prompt_template": "",
    }
    nothing = ["project_id", "template_id", "base_template_id", "deployment_id", "entity_id"]
    unknown = (
        "enable_sleeptime multi_agent_group managed_group last_run_completion last_run_duration_ms last_stop_reason"
    )
    return {
        "created_by_id": USER_ID,
        "last_updated_by_id": USER_ID,
        "created_at": zulu(agent.created),
        "updated_at": zulu(agent.created),
        "id": agent.id,
        "name": agent.name,
        "tool_rules": rules,
        "message_ids": [row.id for row in agent.in_context],
        "system": INSTRUCTIONS,
        "agent_type": "letta_v1_agent",
        "llm_config": {"model": name, "model_endpoint_type": "openai", "context_window": 30000, "handle": agent.model},
        "embedding_config": {"embedding_endpoint_type": "openai", "embedding_model": "text-embedding-3-small"},
        "model": agent.model,
        "embedding": "openai/text-embedding-3-small",
        "model_settings": AGENT_SETTINGS,
        "compaction_settings": COMPACTION_SETTINGS,
        "response_format": None,
        "description": agent.description,
        "metadata": None,
        "memory": memory,
        "blocks": blocks,
        "tools": [tool_json(tool_id, tool) for tool, tool_id in agent.tool_ids.items()],
        "sources": [],
        "tags": agent.tags,
        "tool_exec_environment_variables": [],
        "secrets": [],
        **dict.fromkeys(nothing),
        "identity_ids": [],
        "identities": [],
        "pending_approval": None,
        "message_buffer_autoclear": False,
        **dict.fromkeys(unknown.split()),
        "timezone": "UTC",
        "max_files_open": 5,
        "per_file_view_window_char_limit": 15000,
        "hidden": None,
    }


def tool_json(tool_id: str, name: str) -> Mapping[str, object]:
    kind = "letta_core" if name == "conversation_search" else "letta_sleeptime_core"
    return {
        "id": tool_id,
        "tool_type": kind,
        "description": f"The {name} tool.",
        "source_type": "python",
        "name": name,
        "tags": [kind],
        "source_code": None,
        "json_schema": {
            "name": name,
            "description": f"The {name} tool.",
            "parameters": {"type": "object", "properties": {}},
        },
        "args_json_schema": None,
        "return_char_limit": 50000,
        "pip_requirements": None,
        "npm_requirements": None,
        "default_requires_approval": None,
        "enable_parallel_execution": name == "conversation_search",
        "created_by_id": USER_ID,
        "last_updated_by_id": USER_ID,
        "metadata_": {},
        "project_id": None,
    }
