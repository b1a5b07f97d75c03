"""The data types: Agent, Conversation, Message, Turn, Run, Page, and the queries and changes that go with them.

Shapes only. Times are ISO 8601 strings in UTC, as Letta writes them; ids are Letta's own. An absent text is "", never
None. Numbers and flags that a server may not report are None if it did not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Chunk = Mapping[str, object]
"""One element of a turn's stream, or one listed message, in Letta's JSON form; told apart by its `message_type`."""

DEFAULT_CONVERSATION = "default"
"""Names the history of an agent outside of any conversation. It is not unique: the agent's id is needed too."""

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
AGENT_ID = re.compile(rf"agent-(?:local-)?{_UUID}")
CONVERSATION_ID = re.compile(rf"conv-{_UUID}|local-conv-[0-9]{{1,12}}")
MESSAGE_ID = re.compile(r"(?:message|ui-msg)-[0-9A-Za-z-]{1,64}")
RUN_ID = re.compile(r"(?:local-)?run-[0-9a-f-]{1,64}")

MessageKind = Literal["user", "assistant", "reasoning", "tool", "approval", "system", "summary", "other"]
TurnStatus = Literal[
    "completed", "running", "needs_approval", "empty", "failed", "cancelled", "not_confirmed", "unknown"
]
CompactionMode = Literal["all", "sliding_window", "self_compact_all", "self_compact_sliding_window"]
Order = Literal["asc", "desc"]
OrderBy = Literal["created_at", "last_run_completion", "last_message_at"]
Deletion = Literal["deleted", "hidden"]
OnBusy = Literal["wait", "fail", "fork"]
SearchMode = Literal["words", "meaning", "both"]
Archived = Literal["no", "only", "all"]
ServerKind = Literal["cloud", "self_hosted", "local", "app_server", "other"]


class Frozen(BaseModel):
    """Base of the data types: immutable. Schemas are built at first use, because a server that starts needs few."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Agent(Frozen):
    """`block_labels` names its memory blocks; `in_context` as in Conversation, for its default one; `context_window` in
    tokens. None if the server did not report it."""

    id: str
    name: str
    model: str = ""
    description: str = ""
    created_at: str = ""
    tags: tuple[str, ...] = ()
    block_labels: tuple[str, ...] | None = None
    in_context: tuple[str, ...] | None = None
    context_window: int | None = None


class Conversation(Frozen):
    """`in_context`: the ids of the messages that the agent sees, oldest first, without the system prompt; None when the
    server did not report them."""

    id: str
    agent_id: str
    summary: str = ""
    description: str = ""
    model: str = ""
    model_settings: dict[str, object] = Field(default_factory=dict)
    context_window_limit: int | None = None
    isolated_block_ids: tuple[str, ...] = ()
    hidden: bool | None = None
    archived: bool | None = None
    tags: tuple[str, ...] = ()
    created_at: str = ""
    created_by: str = ""
    """The id of a user of the server; "" if it does not say."""
    changed_at: str = ""
    changed_by: str = ""
    last_message_at: str = ""
    in_context: tuple[str, ...] | None = None


class ConversationRef(Frozen):
    """Where a message goes: a conversation and its agent. `default` is a different place for every agent."""

    conversation_id: str
    agent_id: str

    def __str__(self) -> str:
        if self.conversation_id == DEFAULT_CONVERSATION:
            return f"default of {self.agent_id}"
        return self.conversation_id

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments that name this conversation in a call of any tool."""
        if self.conversation_id == DEFAULT_CONVERSATION:
            return {"conversation_id": self.conversation_id, "agent": self.agent_id}
        return {"conversation_id": self.conversation_id}

    @property
    def in_call(self) -> str:
        """The same as text, for advice such as `list_messages(conversation_id='conv-…')`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


class ToolCall(Frozen):
    """A tool call of the agent. `arguments` is the JSON text as the model wrote it, which may be no JSON at all."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    status: Literal["pending", "success", "error", "denied"] = "pending"
    result: str = ""
    client_side: bool = False
    """True if only the client that offered this tool can run it. Set only on calls that wait for a decision."""
    asked_by: str = ""
    """The id of the approval request that the call belongs to: a later call can look the same."""


class Message(Frozen):
    """One entry of a conversation's history; `calls` only in kind tool and approval."""

    id: str
    kind: MessageKind
    type: str
    at: str = ""
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    otid: str = ""
    run_id: str = ""


class Usage(Frozen):
    """Tokens of one turn, over all its steps; `context_tokens` is how full the context was at its end."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    step_count: int = 0
    context_tokens: int = 0


class TurnFailure(Frozen):
    """Why a turn failed, in the server's own words (untrusted text)."""

    type: str = ""
    message: str = ""
    detail: str = ""
    stored: bool = False
    """True if Letta stored the user's message nevertheless, so that the agent sees it from now on."""

    @property
    def awaits_approval(self) -> bool:
        """True if the message was not accepted because an approval is pending; a stream reports it like this
        (0.16.8)."""
        return "waiting for approval" in self.message + self.detail


class Turn(Frozen):
    """What one message led to: the aggregate of a turn's stream.

    `message` is the text that it answers, where the server tells it; `reply` joins everything that the agent said;
    `tool_calls` are all calls in order; `approvals` those of them that wait for a decision; `unknown_kinds` counts the
    chunks of kinds that this version does not know; `repeated` is true if the call was a retry, and the message was not
    sent a second time; `at` is when the newest part was written; `note` is a remark for the reader on how the message
    was sent.
    """

    status: TurnStatus
    message: str = ""
    reply: str = ""
    at: str = ""
    note: str = ""
    reasoning: str = ""
    stop_reason: str = ""
    run_id: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    approvals: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    failure: TurnFailure | None = None
    compacted: bool = False
    repeated: bool = False
    unknown_kinds: dict[str, int] = Field(default_factory=dict)


class Run(Frozen):
    """The server's record of a turn. `active` while it is created or running.

    `keeps_stream` is False if the server says that its stream cannot be resumed.
    """

    id: str
    status: str
    stop_reason: str = ""
    created_at: str = ""
    failure: TurnFailure | None = None
    keeps_stream: bool = True

    @property
    def active(self) -> bool:
        return self.status in ("created", "running")


class Block(Frozen):
    """A piece of memory that is part of the system prompt."""

    label: str
    value: str = ""


class ContextUse(Frozen):
    """How full the context was at the end of the latest turn, in tokens. `limit` is None if the server did not report
    it."""

    tokens: int
    limit: int | None = None


class CompactionSettings(Frozen):
    """How to summarise; the server chooses what is not given. `model` writes the summary, `clip_chars` is its maximum
    length; `keep_percent` is the share of the messages in context that a sliding window keeps."""

    mode: CompactionMode | None = None
    model: str = ""
    prompt: str = ""
    clip_chars: int | None = None
    keep_percent: int | None = None


class Compaction(Frozen):
    """`before` and `after` count the messages in context. `older_listed`: list_messages still returns the older
    ones."""

    before: int
    after: int
    summary: str = ""
    older_listed: bool = True


T = TypeVar("T")


class Page(Frozen, Generic[T]):
    """One page of a list. `more`: the server has, or may have, further items."""

    items: tuple[T, ...]
    more: bool = False


class NewAgent(Frozen):
    """`memory` is the agent's first memory blocks, by label."""

    name: str
    model: str
    description: str = ""
    memory: dict[str, str] = Field(default_factory=dict)


class NewConversation(Frozen):
    agent_id: str
    summary: str = ""
    description: str = ""
    model: str = ""
    model_settings: dict[str, object] = Field(default_factory=dict)
    context_window_limit: int | None = None
    hidden: bool = False
    tags: tuple[str, ...] = ()
    isolated_blocks: tuple[str, ...] = ()


class ConversationChanges(Frozen):
    """Changes to a conversation. None leaves a field as it is, "" clears a text. A conversation without a `model` uses
    its agent's."""

    summary: str | None = None
    description: str | None = None
    archived: bool | None = None
    tags: tuple[str, ...] | None = None
    model: str | None = None
    model_settings: dict[str, object] | None = None
    context_window_limit: int | None = None


class ConversationQuery(Frozen):
    """Which conversations to list. `after` is the last id of the page before; `tag` lists those with this tag only;
    `with_hidden` includes hidden ones."""

    agent_id: str = ""
    search: str = ""
    tag: str = ""
    with_hidden: bool = False
    archived: Archived = "no"
    order: Order = "desc"
    order_by: OrderBy = "created_at"
    after: str = ""
    limit: int = 20


class MessageQuery(Frozen):
    """Which messages to list. `before` and `after` are message ids: earlier and later in time, whatever the order.
    `order` says from which end the page is taken; the page itself is always oldest first."""

    before: str = ""
    after: str = ""
    order: Order = "desc"
    limit: int = 20


class MessageSearch(Frozen):
    """What to search for: in a conversation, in an agent, or everywhere. `since` and `until` are inclusive."""

    query: str
    conversation_id: str = ""
    agent_id: str = ""
    mode: SearchMode = "both"
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 20


class FoundMessage(Frozen):
    """A message that a search found, and the conversation that it is in."""

    conversation_id: str
    message: Message
    agent_id: str = ""

    @property
    def ref(self) -> ConversationRef:
        return ConversationRef(conversation_id=self.conversation_id, agent_id=self.agent_id)


class Health(Frozen):
    """What answers at the configured address. The kinds `app_server` and `other` cannot be used like that.

    `background`: True if the server keeps streams and locks conversations; a self-hosted one does so only with Redis.
    None if that is unknown or makes no difference. `needs_key`: False if the server also answers without a key, None
    if that is unknown. `remarks` are sentences about what a person should fix.
    """

    kind: ServerKind
    address: str
    version: str = ""
    background: bool | None = None
    needs_key: bool | None = None
    remarks: tuple[str, ...] = ()


class Image(Frozen):
    """An image of a message: a URL that the server fetches, or base64 data with its media type."""

    url: str = ""
    media_type: str = ""
    data: str = ""


class OutgoingMessage(Frozen):
    """What is sent. `otid` names the message: one that is handed over again with the same otid is the same message.
    With `is_watched` the reply is streamed token by token where the server can do that, otherwise message by message.
    """

    text: str
    otid: str = ""
    images: tuple[Image, ...] = ()
    model: str = ""
    max_steps: int | None = None
    is_watched: bool = False

    def is_in(self, message: Message) -> bool:
        """True if a listed message shows that Letta has this one."""
        return bool(self.otid) and message.otid == self.otid


class Decision(Frozen):
    """The decision about one tool call. The agent gets the reason."""

    tool_call_id: str
    approve: bool
    reason: str = ""


class Approvals(Frozen):
    """Decisions, handed over together like a message. `calls` are the calls they decide."""

    decisions: tuple[Decision, ...]
    otid: str
    calls: tuple[ToolCall, ...] = ()

    def is_in(self, message: Message) -> bool:
        """True if a listed message shows that Letta has these. Their otid is not stored (seen on 0.16.8), but the calls
        then have results, denied ones too."""
        decided = {each.tool_call_id for each in self.decisions}
        return any(call.status != "pending" and call.id in decided for call in message.calls)


Outgoing = OutgoingMessage | Approvals
"""What begins a turn."""
