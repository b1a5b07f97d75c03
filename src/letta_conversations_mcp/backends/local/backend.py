"""The verbs of a conversation, spoken to Letta Code's App Server with its local backend.

Owns the link to the server: opened at the first request, in a task of its own, and opened anew when it breaks. What the
server lacks, or has only in part, is done here as well as it can be and said where it cannot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from letta_conversations_mcp.backends.local.link import Frame, Frames, Link, LinkBroken, open_link
from letta_conversations_mcp.backends.local.process import AppServer
from letta_conversations_mcp.backends.local.reading import (
    read_agent,
    read_conversation,
    read_local_message,
    without_reminders,
    without_repeats,
)
from letta_conversations_mcp.backends.local.turn import TurnReader, run_id_of, run_of, turns_of
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import ConversationError, NotFound, Refused
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Agent,
    Chunk,
    Compaction,
    CompactionMode,
    Conversation,
    ConversationQuery,
    ConversationRef,
    Deletion,
    Message,
    MessageQuery,
    NewAgent,
    NewConversation,
    OutgoingMessage,
    Page,
    Run,
)
from letta_conversations_mcp.core.wire import int_field, mapping_field, mappings, text_field

LIST_PAGE = 200
"""Conversations asked for at a time: the server sorts and filters little, so all are fetched and sorted here."""

TURN_MESSAGES = 200
"""Messages looked through to find a turn again, the newest."""

ServerContext = Callable[[], AbstractAsyncContextManager[AppServer]]


@dataclass(frozen=True)
class LocalBounds:
    """All in seconds."""

    connect_seconds: float = 5.0
    request_seconds: float = 60.0
    silence_seconds: float = 120.0
    compact_seconds: float = 300.0


class LocalBackend:
    """Agents on this machine. Made by `open_local_backend`."""

    name = "local"
    deletion: Deletion = "hidden"
    without_models = (
        "No model is connected to the agents on this machine. Start Ollama or LM Studio here, or set OPENAI_API_KEY, "
        "ANTHROPIC_API_KEY, OLLAMA_BASE_URL or LMSTUDIO_BASE_URL for this MCP server and start it again."
    )

    def __init__(self, server: ServerContext, tasks: TaskGroup, bounds: LocalBounds, *, local_tools: bool) -> None:
        self._server = server
        self._tasks = tasks
        self._bounds = bounds
        # Without a mode the server is "unrestricted": the agent runs shell commands unasked (measured).
        self._mode = "unrestricted" if local_tools else "strict"
        self._offers: dict[str, object] = {} if local_tools else {"client_tool_allowlist": []}
        self._opening = anyio.Lock()
        self._link: Link | None = None

    async def _open(self) -> Link:
        async with self._opening:
            if self._link is None or self._link.closed:
                self._link = cast("Link", await self._tasks.start(self._keep_link))
            return self._link

    async def _read(self, command: str, *, what: str, **fields: object) -> Frame:
        """Ask for something that changes nothing; once more, over a new link, when the server ended in between."""
        try:
            return await (await self._open()).request(command, what=what, seconds=None, **fields)
        except LinkBroken:
            return await (await self._open()).request(command, what=what, seconds=None, **fields)

    async def _keep_link(self, *, task_status: TaskStatus[Link]) -> None:
        """Hold a link until it breaks. A failure before it is there is raised to who asked for it."""
        link: Link | None = None
        try:
            async with (
                self._server() as server,
                open_link(
                    server.url,
                    server.token,
                    connect_seconds=self._bounds.connect_seconds,
                    request_seconds=self._bounds.request_seconds,
                ) as link,
            ):
                task_status.started(link)
                await anyio.sleep_forever()
        except ConversationError:
            if link is None:
                raise

    # Agents

    async def list_agents(self, *, name: str = "", search: str = "", after: str = "", limit: int = 20) -> Page[Agent]:
        """The server gives all of them in no order that is told, and ignores filters (measured)."""
        answer = await self._read("agent_list", what="list the agents", query={"limit": 1000})
        agents = [read_agent(each) for each in mappings(answer.get("agents"))]
        agents = [each for each in agents if name in ("", each.name) and search.lower() in each.name.lower()]
        ids = [each.id for each in agents]
        if after:
            if after not in ids:
                raise NotFound.agent(after)
            agents = agents[ids.index(after) + 1 :]
        return Page(items=tuple(agents[:limit]), more=len(agents) > limit)

    async def get_agent(self, agent_id: str) -> Agent:
        try:
            answer = await self._read("agent_retrieve", what="find the agent", agent_id=agent_id)
        except Refused as error:
            raise NotFound.agent(agent_id) from error
        agent = mapping_field(answer, "agent")
        if not agent:
            raise NotFound.agent(agent_id)
        return read_agent(agent)

    async def create_agent(self, new: NewAgent) -> Agent:
        link = await self._open()
        blocks = [{"label": label, "value": value} for label, value in new.memory.items()]
        wanted = {"name": new.name, "model": new.model, "description": new.description, "memory_blocks": blocks}
        body = {key: value for key, value in wanted.items() if value}
        answer = await link.request("agent_create", what="create an agent", body=body)
        return read_agent(mapping_field(answer, "agent"))

    async def list_models(self) -> Sequence[str]:
        answer = await self._read("list_models", what="list the models")
        return [text_field(each, "handle") for each in mappings(answer.get("entries"))]

    # Conversations

    async def create_conversation(self, new: NewConversation) -> Conversation:
        await self.get_agent(new.agent_id)
        link = await self._open()
        wanted: dict[str, object] = {
            "agent_id": new.agent_id,
            "summary": new.summary,
            "description": new.description,
            "model": new.model,
            "model_settings": new.model_settings,
            "context_window_limit": new.context_window_limit,
            "hidden": new.hidden,
        }
        body = {key: value for key, value in wanted.items() if value}
        answer = await link.request("conversation_create", what="create a conversation", body=body)
        return read_conversation(mapping_field(answer, "conversation"))

    async def get_conversation(self, conversation_id: str) -> Conversation:
        try:
            answer = await self._read(
                "conversation_retrieve", what="find the conversation", conversation_id=conversation_id
            )
        except Refused as error:
            raise NotFound.conversation(conversation_id) from error
        conversation = mapping_field(answer, "conversation")
        if not conversation:
            raise NotFound.conversation(conversation_id)
        return read_conversation(conversation)

    async def owner_of(self, conversation_id: str) -> str:
        """Asked every time: the server gives the id of a deleted agent's conversation to a new one (measured)."""
        return (await self.get_conversation(conversation_id)).agent_id

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        every = [each for each in await self._all_conversations(query) if self._is_wanted(each, query)]
        by: Callable[[Conversation], str] = (
            (lambda each: each.created_at) if query.order_by == "created_at" else (lambda each: each.last_message_at)
        )
        # Without the value last, in both orders, as the REST API has it.
        having = sorted((each for each in every if by(each)), key=by, reverse=query.order == "desc")
        ordered = [*having, *(each for each in every if not by(each))]
        ids = [each.id for each in ordered]
        if query.after:
            if query.after not in ids:
                raise NotFound.conversation(query.after)
            ordered = ordered[ids.index(query.after) + 1 :]
        return Page(items=tuple(ordered[: query.limit]), more=len(ordered) > query.limit)

    def _is_wanted(self, conversation: Conversation, query: ConversationQuery) -> bool:
        archived = {"no": not conversation.archived, "only": bool(conversation.archived), "all": True}[query.archived]
        return archived and query.search in conversation.summary

    async def _all_conversations(self, query: ConversationQuery) -> list[Conversation]:
        found: dict[str, Conversation] = {}
        asked: dict[str, object] = {"limit": LIST_PAGE}
        if query.agent_id:
            asked["agent_id"] = query.agent_id
        while True:
            answer = await self._read("conversation_list", what="list the conversations", query=asked)
            page = [read_conversation(each) for each in mappings(answer.get("conversations"))]
            fresh = [each for each in page if each.id not in found]
            found |= {each.id: each for each in fresh}
            if len(page) < LIST_PAGE or not fresh:
                return list(found.values())
            asked = asked | {"after": page[-1].id}

    async def delete_conversation(self, conversation_id: str) -> None:
        """The protocol has no command for it, so the conversation is hidden from every list."""
        await self.get_conversation(conversation_id)
        link = await self._open()
        await link.request(
            "conversation_update",
            what="hide the conversation",
            conversation_id=conversation_id,
            body={"hidden": True},
        )

    # Messages

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """After a compaction the server lists only what is in context, with the summary in front."""
        chunks, more = await self._list_chunks(ref, query)
        if not chunks and not (query.before or query.after) and ref.conversation_id != DEFAULT_CONVERSATION:
            await self.get_conversation(ref.conversation_id)
        return Page(items=tuple(map(read_local_message, chunks)), more=more)

    async def _list_chunks(self, ref: ConversationRef, query: MessageQuery) -> tuple[list[Chunk], bool]:
        wanted = {"agent_id": ref.agent_id, "limit": query.limit, "order": query.order}
        cursors = {key: value for key, value in (("before", query.before), ("after", query.after)) if value}
        answer = await self._read(
            "conversation_messages_list",
            what="list the messages",
            conversation_id=ref.conversation_id,
            query=wanted | cursors,
        )
        chunks: list[Chunk] = [without_reminders(each) for each in mappings(answer.get("messages"))]
        more = len({text_field(each, "id") for each in chunks}) >= query.limit
        return without_repeats(chunks[::-1] if query.order == "desc" else chunks), more

    async def compact(
        self,
        ref: ConversationRef,
        *,
        mode: CompactionMode | None = None,
        model: str = "",
        model_settings: dict[str, object] | None = None,
        prompt: str = "",
        clip_chars: int | None = None,
        sliding_window_percentage: float | None = None,
    ) -> Compaction:
        if model or model_settings:
            raise Refused(
                "compact with another model",
                "the local backend writes the summary with the conversation's own model",
                "Nothing was changed; leave model and model_settings out.",
            )
        link = await self._open()
        wanted: dict[str, object] = {
            "mode": mode,
            "prompt": prompt,
            "clip_chars": clip_chars,
            "sliding_window_percentage": sliding_window_percentage,
        }
        settings = {key: value for key, value in wanted.items() if value not in (None, "")}
        body: dict[str, object] = {"agent_id": ref.agent_id}
        if settings:
            body["compaction_settings"] = settings
        answer = await link.request(
            "conversation_compact",
            what="compact the conversation",
            seconds=self._bounds.compact_seconds,
            conversation_id=ref.conversation_id,
            body=body,
        )
        done = mapping_field(answer, "compaction")
        return Compaction(
            before=int_field(done, "num_messages_before"),
            after=int_field(done, "num_messages_after"),
            summary=text_field(done, "summary"),
            older_listed=False,
        )

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        if message.model or message.max_steps is not None:
            raise Refused(
                "take this message",
                "the local backend has no model and no max_steps for a single message",
                "Nothing was sent; leave them out.",
            )
        link = await self._open()
        await link.subscribe(ref, self._mode)
        with link.listen(ref) as frames:
            started = await self._hand_over(link, ref, message)
            yield self._chunks(link, ref, frames, TurnReader(message.otid, started=started))

    async def _hand_over(self, link: Link, ref: ConversationRef, message: OutgoingMessage) -> bool:
        """Whether the turn has begun at once, or waits behind another. Raises StreamLost when nothing is sure."""
        parts: list[dict[str, object]] = [{"type": "text", "text": message.text}] if message.text else []
        for image in message.images:
            source = (
                {"type": "url", "url": image.url}
                if image.url
                else {"type": "base64", "media_type": image.media_type, "data": image.data}
            )
            parts.append({"type": "image", "source": source})
        content: object = parts if message.images else message.text
        payload: dict[str, object] = {
            "kind": "create_message",
            # The server keeps this id for ever, and drops a second message with it in silence.
            "messages": [{"role": "user", "content": content, "client_message_id": message.otid}],
            **self._offers,
        }
        try:
            answer = await link.request("input", what="take the message", runtime=_scope(ref), payload=payload)
        except Refused:
            raise
        except ConversationError as error:
            raise StreamLost(str(error)) from error
        return answer.get("disposition") != "queued"

    async def _chunks(
        self, link: Link, ref: ConversationRef, frames: Frames, reader: TurnReader
    ) -> AsyncIterator[Chunk]:
        yield {"message_type": "ping", "run_id": reader.run_id}
        while not reader.ended:
            try:
                with anyio.fail_after(self._bounds.silence_seconds):
                    frame = await frames.receive()
            except TimeoutError as error:
                raise StreamLost(f"silence for {self._bounds.silence_seconds:g} s") from error
            except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
                raise StreamLost("the connection to the App Server broke") from error
            if frame.get("type") == "control_request":
                await self._deny(link, ref, frame)
            for chunk in reader.read(frame):
                yield chunk

    async def _deny(self, link: Link, ref: ConversationRef, frame: Frame) -> None:
        """Answer a request to run a tool: nobody has allowed it, and while it is open the conversation is stuck."""
        payload = {
            "kind": "approval_response",
            "request_id": text_field(frame, "request_id"),
            "decision": {"behavior": "deny", "message": "Tools on this machine are not offered here."},
        }
        await link.request("input", what="deny a tool", runtime=_scope(ref), payload=payload)

    # Runs: the protocol has none, so a turn is told by the message that began it.

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        chunks, _ = await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES))
        turns = turns_of(chunks)
        active = await self._is_active(ref)
        return [run_of(turn, active=active and turn is turns[-1]) for turn in turns[: -limit - 1 : -1]]

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        for run in await self.list_runs(ref, limit=TURN_MESSAGES):
            if run.id == run_id:
                return run
        raise NotFound.run(run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        chunks, _ = await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES))
        found = [turn for turn in turns_of(chunks) if run_id_of(turn) == run_id]
        return found[0][1:] if found else []

    async def _is_active(self, ref: ConversationRef) -> bool:
        """Whether a turn runs now: the server replays its state when it is asked to."""
        link = await self._open()
        await link.subscribe(ref, self._mode)
        status: Mapping[str, object] = {}
        with link.listen(ref) as frames:
            await link.request("sync", what="tell its state", runtime=_scope(ref), recover_approvals=False)
            while True:
                try:
                    frame = frames.receive_nowait()
                except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
                    break
                if frame.get("type") == "update_loop_status":
                    status = mapping_field(frame, "loop_status")
        return text_field(status, "status") not in ("", "WAITING_ON_INPUT")


@asynccontextmanager
async def open_local_backend(
    server: ServerContext, bounds: LocalBounds, *, local_tools: bool = False
) -> AsyncGenerator[LocalBackend]:
    """A backend whose link lives in this context. `server` gives an App Server for as long as its own context lasts."""
    async with anyio.create_task_group() as tasks:
        try:
            yield LocalBackend(server, tasks, bounds, local_tools=local_tools)
        finally:
            tasks.cancel_scope.cancel()


def _scope(ref: ConversationRef) -> dict[str, object]:
    return {"agent_id": ref.agent_id, "conversation_id": ref.conversation_id}
