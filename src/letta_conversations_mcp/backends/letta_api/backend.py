"""The backend for Letta REST servers, through letta-client.

Every method parses the SDK's raw response itself (see `letta_json`). Requests that change something are never retried.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import groupby

from letta_conversations_mcp.backends.letta_api.approvals import ApiApprovals
from letta_conversations_mcp.backends.letta_api.base import AFTER_READING
from letta_conversations_mcp.backends.letta_api.cancel import cancel_runs
from letta_conversations_mcp.backends.letta_api.conversations import ApiConversations
from letta_conversations_mcp.backends.letta_api.letta_json import (
    Json,
    agent_of_default,
    objects,
    read_agent,
    read_context_use,
    read_found,
    read_run,
    search_body,
)
from letta_conversations_mcp.backends.letta_api.summaries import unclear_runs, with_summaries
from letta_conversations_mcp.conversations.compaction import TOO_LITTLE, compaction_body
from letta_conversations_mcp.conversations.update import check_model
from letta_conversations_mcp.core.backend import NoSearch
from letta_conversations_mcp.core.errors import NotFound, Refused, Unreachable
from letta_conversations_mcp.core.message_json import int_field, read_message, text_field
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Agent,
    Chunk,
    Compaction,
    CompactionSettings,
    ContextUse,
    ConversationRef,
    Deletion,
    FoundMessage,
    Health,
    Message,
    MessageQuery,
    MessageSearch,
    NewAgent,
    OutgoingMessage,
    Page,
    Run,
)
from letta_conversations_mcp.core.quoting import without_password

RUN_MESSAGES = 1000
"""How many of a run's newest messages are read. A turn has two per step, and up to 50 steps by Letta's default."""

RUN_PAGE = 100
RUN_PAGES = 10
"""Pages searched for runs of `default` among those of all the agent's conversations: 1,000 runs."""

FREE_MODEL = "letta/letta-free"
"""A trial, which a self-hosted server lists first, with no provider connected too (0.16.8). Listed last here: the first
model is that of an agent for which none is chosen."""

RUNS_WITHOUT_STEPS = 5
"""Newest runs searched for the size of the context: a failed run reports no tokens."""


class ApiBackend(ApiConversations, ApiApprovals):
    """A Letta REST server. `async with` it; the SDK is loaded and connections are opened at the first request."""

    name = "api"
    deletion: Deletion = "deleted"
    keeps_tags = False
    isolates_blocks = True
    image_note = ""
    new_agent_note = ""
    no_models_advice = "The Letta server offers no model. A person has to connect a model provider to it."

    async def check(self) -> Health:
        client = await self._open()
        from letta_conversations_mcp.backends.letta_api.health import read_health

        return await read_health(client, without_password(self._settings.api_url))

    # Agents

    async def list_agents(
        self, *, name: str = "", search: str = "", tag: str = "", after: str = "", limit: int = 20
    ) -> Page[Agent]:
        client = await self._open()
        if after:
            # The server ignores an unknown cursor and would start from the beginning.
            await self.get_agent(after)
        filters: Json = {"name": name, "query_text": search, "tags": tag, "after": after}
        missing = Unreachable.no_letta_server(client.asking.base_url)
        with client.asking.to("list the agents", after=AFTER_READING, missing=missing):
            data = await client.json(
                client.retrying.agents.with_raw_response.list(
                    limit=limit, extra_query={key: value for key, value in filters.items() if value}
                )
            )
        agents = tuple(map(read_agent, objects(data)))
        return Page(items=agents, more=len(agents) >= limit)

    async def get_agent(self, agent_id: str) -> Agent:
        client = await self._open()
        with client.asking.to("find the agent", after=AFTER_READING, missing=NotFound.agent(agent_id)):
            data = await client.json(
                client.retrying.agents.with_raw_response.retrieve(agent_id, include=["agent.blocks"])
            )
        return read_agent(client.object(data), with_blocks=True)

    async def create_agent(self, new: NewAgent) -> Agent:
        client = await self._open()
        blocks: list[Json] = [{"label": label, "value": value} for label, value in new.memory.items()]
        body: Json = {"name": new.name, "model": new.model, "memory_blocks": blocks}
        if new.description:
            body["description"] = new.description
        with client.asking.to(
            "create an agent", after="It may have been created: look with list_agents before creating another."
        ):
            data = await client.json(client.once.agents.with_raw_response.create(extra_body=body))
        return read_agent(client.object(data))

    async def delete_agent(self, agent_id: str) -> None:
        client = await self._open()
        with client.asking.to(
            "delete the agent",
            after="It may be deleted: the same call can be made again, and says so.",
            missing=NotFound.agent(agent_id),
        ):
            await client.once.agents.with_raw_response.delete(agent_id)
        self._forget_agent(agent_id)

    async def list_models(self) -> Sequence[str]:
        client = await self._open()
        missing = Unreachable.no_letta_server(client.asking.base_url)
        with client.asking.to("list the models", after=AFTER_READING, missing=missing):
            data = await client.json(client.retrying.models.with_raw_response.list())
        handles = [text_field(each, "handle") for each in objects(data)]
        return sorted(handles, key=lambda each: each == FREE_MODEL)

    # Messages

    async def check_message(self, message: OutgoingMessage) -> None:
        if message.model:
            await check_model(self, message.model)

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """Reads the agent's list, filtered by conversation: the conversation's own list is out of order after a
        compaction and ignores an unknown cursor. A fork's older messages, which it shares with its source, are only in
        its own list, so a page that reaches them is read from there (seen on 0.16.8)."""
        items = await self._list_of_agent(ref, query)
        cursor = query.before or query.after
        if not items and not cursor and ref.conversation_id != DEFAULT_CONVERSATION:
            # The list of a deleted conversation is empty too; this request shows the difference.
            await self.get_conversation(ref.conversation_id)
        more = _stored(items) >= query.limit
        begins = not items or text_field(items[0], "message_type") == "system_message"
        if (begins or query.order == "asc" or not more) and await self._is_fork(ref):
            items = await self._list_of_conversation(ref, query)
            more = _stored(items) >= query.limit
        of_runs = [each for run_id in unclear_runs(items) for each in await self._messages_of_run(run_id)]
        return Page(items=tuple(map(read_message, with_summaries(items, of_runs))), more=more)

    async def list_with_owner(self, conversation_id: str, query: MessageQuery) -> tuple[str, Page[Message]]:
        owner = await self.owner_of(conversation_id)
        return owner, await self.list_messages(ConversationRef(conversation_id=conversation_id, agent_id=owner), query)

    async def get_prompt(self, ref: ConversationRef) -> str:
        """The first message of every conversation, a fork's too."""
        first = [read_message(each) for each in await self._list_of_agent(ref, MessageQuery(order="asc", limit=1))]
        return first[0].text if first and first[0].kind == "system" else ""

    async def search_messages(self, search: MessageSearch) -> Sequence[FoundMessage]:
        """Letta Cloud has it; 0.16.8 answers 400, as does a server without the search engine (seen)."""
        client = await self._open()
        try:
            with client.asking.to("search the messages", after=AFTER_READING):
                data = await client.json(
                    client.retrying.messages.with_raw_response.search(
                        query=search.query, extra_body=search_body(search)
                    )
                )
        except Refused as error:
            if "search requires" in error.reason:
                raise NoSearch from error
            raise
        found = map(read_found, objects(data))
        default = search.conversation_id == DEFAULT_CONVERSATION
        return [each for each in found if not default or each.conversation_id == DEFAULT_CONVERSATION]

    async def _list_of_agent(self, ref: ConversationRef, query: MessageQuery) -> list[Json]:
        """A page in chronological order, whatever the query's order."""
        client = await self._open()
        cursors = {key: value for key, value in (("before", query.before), ("after", query.after)) if value}
        missing = NotFound.message(next(iter(cursors.values()))) if cursors else NotFound.agent(ref.agent_id)
        with client.asking.to("list the messages", after=AFTER_READING, missing=missing):
            data = await client.json(
                client.retrying.agents.messages.with_raw_response.list(
                    ref.agent_id,
                    conversation_id=ref.conversation_id,
                    order=query.order,
                    limit=query.limit,
                    extra_query=cursors,
                )
            )
        return objects(data)

    async def _list_of_conversation(self, ref: ConversationRef, query: MessageQuery) -> list[Json]:
        client = await self._open()
        cursors = {key: value for key, value in (("before", query.before), ("after", query.after)) if value}
        missing = NotFound.conversation(ref.conversation_id)
        with client.asking.to("list the messages", after=AFTER_READING, missing=missing):
            data = await client.json(
                client.retrying.conversations.messages.with_raw_response.list(
                    ref.conversation_id, order=query.order, limit=query.limit, extra_query=cursors
                )
            )
        return _reversed(objects(data)) if query.order == "desc" else objects(data)

    async def _is_fork(self, ref: ConversationRef) -> bool:
        """True if the conversation shares older messages with another one: they are in its own list, before the system
        message that it got when it was created."""
        known = self._known.get(ref.conversation_id)
        if known is None or known.is_fork is not None:
            return bool(known and known.is_fork)
        beginning = await self._list_of_conversation(ref, MessageQuery(order="asc", limit=2))
        if _stored(beginning) < 2:
            return False
        second = text_field(beginning[-1], "id")
        known.is_fork = not await self._list_of_agent(ref, MessageQuery(before=second, limit=1))
        return known.is_fork

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        client = await self._open()
        wanted = compaction_body(settings)
        body: Json = agent_of_default(ref) | ({"compaction_settings": wanted} if wanted else {})
        with (
            _mode_advised(settings),
            client.asking.to(
                "compact the conversation",
                after="It may have been compacted: look at the newest messages with list_messages before repeating it.",
                missing=NotFound.conversation(ref.conversation_id),
                conversation_id=ref.conversation_id,
            ),
        ):
            data = client.object(
                await client.json(
                    client.once.conversations.messages.with_raw_response.compact(
                        ref.conversation_id, extra_body=body, timeout=client.timeout(self._settings.compact_timeout)
                    )
                )
            )
        return Compaction(
            # The server counts the system prompt too.
            before=max(int_field(data, "num_messages_before") - 1, 0),
            after=max(int_field(data, "num_messages_after") - 1, 0),
            summary=text_field(data, "summary"),
        )

    # Runs

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        """Runs of `default` have no conversation id (seen on 0.16.8), so they are picked from all runs of the agent, up
        to RUN_PAGES."""
        client = await self._open()
        default = ref.conversation_id == DEFAULT_CONVERSATION
        filters: Json = {"agent_id": ref.agent_id} if default else {"conversation_id": ref.conversation_id}
        size = RUN_PAGE if default else limit
        runs: list[Run] = []
        for _ in range(RUN_PAGES if default else 1):
            with client.asking.to("look for the running turn", after=AFTER_READING):
                data = await client.json(
                    client.retrying.runs.with_raw_response.list(limit=size, order="desc", extra_query=filters)
                )
            page = objects(data)
            runs += [read_run(each) for each in page if not default or not text_field(each, "conversation_id")]
            if len(runs) >= limit or len(page) < size:
                break
            filters["after"] = text_field(page[-1], "id")
        return runs[:limit]

    async def get_context_use(self, ref: ConversationRef) -> ContextUse | None:
        """From the newest step of the newest turn that has ended."""
        client = await self._open()
        for run in await self.list_runs(ref, limit=RUNS_WITHOUT_STEPS):
            if run.active:
                continue
            with client.asking.to("read the run's steps", after=AFTER_READING, missing=NotFound.run(run.id)):
                data = await client.json(
                    client.retrying.runs.steps.with_raw_response.list(run.id, limit=1, order="desc")
                )
            if uses := [use for use in map(read_context_use, objects(data)) if use.tokens]:
                return uses[0]
        return None

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        client = await self._open()
        with client.asking.to("look at the run", after=AFTER_READING, missing=NotFound.run(run_id)):
            data = client.object(await client.json(client.retrying.runs.with_raw_response.retrieve(run_id)))
        default = ref.conversation_id == DEFAULT_CONVERSATION
        place = (text_field(data, "agent_id"), text_field(data, "conversation_id"))
        if place != (ref.agent_id, "" if default else ref.conversation_id):
            raise NotFound.run(run_id)
        return read_run(data)

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        return await cancel_runs(self, await self._open(), ref, run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        client = await self._open()
        messages = await self._messages_of_run(run_id)
        with client.asking.to("read the run's messages", after=AFTER_READING, missing=NotFound.run(run_id)):
            usage = client.object(await client.json(client.retrying.runs.usage.with_raw_response.retrieve(run_id)))
        return [*with_summaries(messages), {**usage, "message_type": "usage_statistics"}]

    async def _messages_of_run(self, run_id: str) -> list[Json]:
        client = await self._open()
        with client.asking.to("read the run's messages", after=AFTER_READING, missing=NotFound.run(run_id)):
            return objects(
                await client.json(
                    client.retrying.runs.messages.with_raw_response.list(run_id, order="asc", limit=RUN_MESSAGES)
                )
            )


def _reversed(items: Sequence[Json]) -> list[Json]:
    """A descending page in chronological order. The parts of one stored message share its id and are in chronological
    order already (0.16.8)."""
    stored = [list(parts) for _, parts in groupby(items, key=lambda item: text_field(item, "id"))]
    return [part for parts in reversed(stored) for part in parts]


def _stored(items: Sequence[Json]) -> int:
    """How many stored messages a list contains: one may be shown as several with the same id."""
    return len({text_field(item, "id") for item in items})


@contextmanager
def _mode_advised(settings: CompactionSettings) -> Generator[None]:
    """Adds to a refusal that another mode needs fewer messages."""
    try:
        yield
    except Refused as error:
        if error.reason == TOO_LITTLE and settings.mode not in ("all", "self_compact_all"):
            error.add("mode='all' compacts shorter histories than 'sliding_window'.")
        raise
