"""The state of the fake Letta server: agents, conversations and message rows, and how these are listed.

Everything here was seen on a Letta 0.16.8 server (PostgreSQL, Redis), quirks included: what looks wrong is wrong
there too. A *row* is one message of the database; it is shown as one or more Letta messages, which share its id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.rig.fake_run import Json, Run, new_id

USER_ID = "user-00000000-0000-4000-8000-000000000000"
ACTOR = (
    f"id='{USER_ID}' organization_id='org-00000000-0000-4000-8000-000000000000' name='default_user' "
    "created_at=datetime.datetime(2026, 1, 1, 0, 0, tzinfo=TzInfo(UTC)) "
    "updated_at=datetime.datetime(2026, 1, 1, 0, 0, tzinfo=TzInfo(UTC)) is_deleted=False"
)
INSTRUCTIONS = (
    "<base_instructions>\nYou are a helpful self-improving agent with advanced memory and file system capabilities.\n"
    "Base instructions complete.\n</base_instructions>"
)


class HttpError(Exception):
    """The request is answered with this status and body."""

    def __init__(self, status: int, detail: str, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.body: Json = {"detail": detail, **more}


def not_found(kind: str, identifier: str, end: str = "") -> HttpError:
    """404 in the server's words, which show who asked."""
    text = f"{kind} not found with id='['{identifier}']', access level in ['read'] for actor='{ACTOR}'{end}"
    return HttpError(404, text)


def part_otid(message_id: str, part: int) -> str:
    """The otid of one part of a row: the row's id with its last seven bits replaced by the number of the part."""
    uuid = message_id.removeprefix("message-")
    return f"{uuid[:-2]}{int(uuid[-2:], 16) & 0x80 | part:02x}"


def spoken(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %I:%M:%S %p UTC+0000")


@dataclass(eq=False)
class Row:
    """One message of the database. `call` is the tool call of an approval request."""

    agent_id: str
    conversation_id: str | None
    role: str
    created: datetime
    model_text: str
    step_id: str | None = None
    run_id: str | None = None
    id: str = field(default_factory=lambda: new_id("message"))
    items: list[Json] = field(default_factory=list[Json])
    call: Json | None = None
    sequence: int = 0
    linked: bool = False
    deleted: bool = False

    def show(self, message_type: str, otid: str | None, name: str | None = None, **fields: object) -> Json:
        """Add a Letta message to what the row is shown as."""
        item: Json = {
            "id": self.id,
            "date": self.created.isoformat(timespec="seconds"),
            "name": name,
            "message_type": message_type,
            "otid": otid,
            "sender_id": fields.pop("sender_id", None),
            "step_id": self.step_id,
            "is_err": None,
            "seq_id": None,
            "run_id": self.run_id,
            **fields,
        }
        self.items.append(item)
        return item

    def show_part(self, message_type: str, **fields: Any) -> Json:
        return self.show(message_type, part_otid(self.id, len(self.items)), **fields)


@dataclass(eq=False)
class Block:
    label: str
    value: str
    id: str = field(default_factory=lambda: new_id("block"))


@dataclass(eq=False)
class Agent:
    """An agent, which is also its own default conversation: `context` is what the model sees there."""

    id: str
    name: str
    created: datetime
    description: str | None = None
    model: str = "openai-proxy/fake-1"
    tags: list[str] = field(default_factory=list[str])
    tool_ids: dict[str, str] = field(
        default_factory=lambda: {n: new_id("tool") for n in ("conversation_search", "memory_insert", "memory_replace")}
    )
    own_tools: dict[str, str] = field(default_factory=dict[str, str])
    """Tools that a user made, and what each returns."""
    needing_approval: list[str] = field(default_factory=list[str])
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    rows: list[Row] = field(default_factory=list[Row])
    in_context: list[Row] = field(default_factory=list[Row])

    @property
    def agent(self) -> Agent:
        return self

    @property
    def conversation_id(self) -> None:
        return None

    def context(self) -> list[Row]:
        return list(self.in_context)

    def append(self, rows: Sequence[Row]) -> None:
        self.in_context.extend(rows)

    def replace_context(self, rows: Sequence[Row]) -> None:
        self.in_context = list(rows)


@dataclass(eq=False)
class Link:
    """A row's place in a conversation. Several rows may have the same position."""

    row: Row
    position: int
    in_context: bool = True


@dataclass(eq=False)
class Conversation:
    agent: Agent
    created: datetime
    updated: datetime
    id: str = field(default_factory=lambda: new_id("conv"))
    summary: str | None = None
    model: str | None = None
    model_settings: Json | None = None
    last_message_at: datetime | None = None
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    links: dict[str, Link] = field(default_factory=dict[str, Link])
    deleted: bool = False
    description: str | None = None
    hidden: bool | None = None
    context_window_limit: int | None = None
    archived_at: datetime | None = None

    @property
    def conversation_id(self) -> str:
        return self.id

    def context(self) -> list[Row]:
        seen = (link for link in self.links.values() if link.in_context)
        return [link.row for link in sorted(seen, key=lambda link: link.position)]

    def append(self, rows: Sequence[Row], position: int | None = None) -> None:
        if position is None:
            position = max((link.position for link in self.links.values()), default=-1) + 1
        for offset, row in enumerate(rows):
            self.links[row.id] = Link(row, position + offset)
            row.linked = True

    def replace_context(self, rows: Sequence[Row]) -> None:
        """Keep only `rows` in context, numbered from 0; the others keep their old positions (as 0.16.8 does)."""
        for link in self.links.values():
            link.in_context = False
        for position, row in enumerate(rows):
            link = self.links[row.id]
            link.in_context, link.position = True, position

    def messages(self, *, limit: int, descending: bool, before: str | None, after: str | None) -> list[Row]:
        """A page by position. `before` and `after` are earlier and later in time in both orders; unknown ones are
        ignored."""
        links = list(self.links.values())
        if before in self.links:
            links = [link for link in links if link.position < self.links[before].position]
        if after in self.links:
            links = [link for link in links if link.position > self.links[after].position]
        links.sort(key=lambda link: link.position, reverse=descending)
        return [link.row for link in links[:limit]]


Thread = Agent | Conversation


def direct_agent(conversation_id: str, agent_id: str | None) -> str | None:
    """The agent whose default conversation is meant: "default" with an agent, or (deprecated) an agent's id."""
    if conversation_id.startswith("agent-"):
        return conversation_id
    return agent_id if conversation_id == "default" else None


class Store:
    """All state of one server, in memory."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.conversations: dict[str, Conversation] = {}
        self.runs: dict[str, Run] = {}
        self.locks: dict[str, Run] = {}
        self.runs_by_otid: dict[str, Run] = {}
        self._sequence = 0
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The time, later than at any call before: creation times are cursors and must differ."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return self._last

    def add_agent(self, name: str, blocks: Iterable[tuple[str, str]], **fields: Any) -> Agent:
        agent = Agent(id=new_id("agent"), name=name, created=self.now(), **fields)
        agent.blocks = {label: Block(label, value) for label, value in blocks}
        self.agents[agent.id] = agent
        self.save(agent, [self.system_row(agent)])
        return agent

    def add_conversation(self, agent: Agent, *, shared: Sequence[Row] = (), **fields: Any) -> Conversation:
        """A new conversation with a system message of its own, and the `shared` rows of another after it."""
        now = self.now()
        conversation = Conversation(agent=agent, created=now, updated=now, **fields)
        self.conversations[conversation.id] = conversation
        conversation.append(shared, position=1)
        self.save(conversation, [self.system_row(conversation)], position=0)
        return conversation

    def system_row(self, thread: Thread) -> Row:
        row = self.new_row(thread, "system", self.prompt(thread.agent, thread.conversation_id or "default"))
        row.show("system_message", None, content=row.model_text)
        return row

    def prompt(self, agent: Agent, conversation_id: str) -> str:
        """The compiled system prompt. It has the agent's blocks even where the conversation has its own."""
        blocks = "\n\n".join(
            f"<{block.label}>\n<value>\n{block.value}\n</value>\n</{block.label}>" for block in agent.blocks.values()
        )
        return (
            f"{INSTRUCTIONS}\n\n<memory_blocks>\n"
            "The following memory blocks are currently engaged in your core memory unit:"
            f"\n\n{blocks}\n\n</memory_blocks>\n\n<memory_metadata>\n- AGENT_ID: {agent.id}\n"
            f"- CONVERSATION_ID: {conversation_id}\n- System prompt last recompiled: {spoken(self.now())}\n"
            f"- {len(agent.rows)} previous messages between you and the user are stored in recall memory\n"
            "</memory_metadata>"
        )

    def new_row(self, thread: Thread, role: str, model_text: str, **fields: Any) -> Row:
        """A row that is not stored yet."""
        return Row(thread.agent.id, thread.conversation_id, role, self.now(), model_text, **fields)

    def save(self, thread: Thread, rows: Sequence[Row], *, position: int | None = None) -> None:
        for row in rows:
            self._sequence += 1
            row.sequence = self._sequence
            thread.agent.rows.append(row)
        if isinstance(thread, Conversation):
            thread.append(rows, position)
        else:
            thread.append(rows)

    def conversation(self, conversation_id: str) -> Conversation:
        found = self.conversations.get(conversation_id)
        if found is None or found.deleted:
            raise not_found("Conversation", conversation_id, ", is_deleted=False")
        return found

    def agent(self, agent_id: str) -> Agent:
        if agent_id not in self.agents:
            raise HttpError(404, f"Agent with ID {agent_id} not found")
        return self.agents[agent_id]

    def agent_of_query(self, agent_id: str) -> Agent:
        """An agent that is not named by the path: the text of its absence is another one, as seen."""
        if agent_id not in self.agents:
            raise HttpError(404, "Agent not found")
        return self.agents[agent_id]

    def thread(self, conversation_id: str, agent_id: str | None) -> Thread:
        """The conversation, or the agent itself for its default one."""
        if direct := direct_agent(conversation_id, agent_id):
            return self.agent(direct)
        return self.conversation(conversation_id)

    def run(self, run_id: str) -> Run:
        if not re.fullmatch(r"run-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", run_id):
            raise HttpError(400, f"INVALID_ARGUMENT: Invalid run ID format: {run_id}. Expected format: 'run-<uuid4>'")
        if run_id not in self.runs:
            raise not_found("Run", run_id)
        return self.runs[run_id]

    def delete_conversation(self, conversation: Conversation) -> None:
        """Mark it deleted, and its rows too unless a fork shares them."""
        conversation.deleted = True
        others = [other for other in self.conversations.values() if not other.deleted]
        for row in conversation.agent.rows:
            if row.conversation_id == conversation.id and not any(row.id in other.links for other in others):
                row.deleted = True
        conversation.blocks = {}

    def delete_agent(self, agent: Agent) -> None:
        del self.agents[agent.id]
        for conversation in [c for c in self.conversations.values() if c.agent is agent]:
            del self.conversations[conversation.id]
        for run in [run for run in self.runs.values() if run.agent_id == agent.id]:
            del self.runs[run.id]

    def recall(
        self,
        agent: Agent,
        *,
        conversation_id: str | None,
        limit: int,
        descending: bool,
        before: str | None,
        after: str | None,
    ) -> list[Row]:
        """A page of the agent's rows by time, always ascending; `descending` takes it from the end.

        A fork shows only the rows made in it here, and "default" loses the rows that any fork shares (seen on 0.16.8).
        """
        rows = [row for row in agent.rows if not row.deleted]
        # A message of any agent is a cursor: only its place in the order counts (seen on 0.16.8).
        cursors = {row.id: row.sequence for each in self.agents.values() for row in each.rows if not row.deleted}
        if conversation_id == "default":
            rows = [row for row in rows if row.conversation_id is None and not row.linked]
        elif conversation_id is not None:
            rows = [row for row in rows if row.conversation_id == conversation_id]
        for cursor in (after, before):
            if cursor and cursor not in cursors:
                raise HttpError(404, f"No message found with id '{cursor}' for agent '{agent.id}'.")
        if after:
            rows = [row for row in rows if row.sequence > cursors[after]]
        if before:
            rows = [row for row in rows if row.sequence < cursors[before]]
        if descending:
            return rows[-limit:] if limit else []
        return rows[:limit]
