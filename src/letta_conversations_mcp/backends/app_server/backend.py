"""The backend for agents on this machine, through Letta Code's App Server.

What the server lacks is emulated here where possible, and refused with an explanation where not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from letta_conversations_mcp.backends.app_server.base import LOOK_SECONDS, ServerContext
from letta_conversations_mcp.backends.app_server.connection import TESTED_VERSION
from letta_conversations_mcp.backends.app_server.conversations import LocalConversations
from letta_conversations_mcp.backends.app_server.messages import LocalMessages
from letta_conversations_mcp.conversations.compaction import compaction_body
from letta_conversations_mcp.core.backend import NoSearch
from letta_conversations_mcp.core.errors import Refused
from letta_conversations_mcp.core.message_json import int_field, mapping_field, read_message, text_field
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Compaction,
    CompactionSettings,
    ConversationRef,
    Deletion,
    FoundMessage,
    Health,
    Message,
    MessageQuery,
    MessageSearch,
    Page,
)
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.settings import BackendSettings

WITHOUT_TOOLS = (
    "It has no tools here, so it cannot write to its own memory: it knows what persona and human say, and what was "
    "said in the same conversation. A person can give it tools with --local-tools."
)
"""Letta Code has no tool for memory alone: agents write it with their shell and file tools (0.34.12)."""


class LocalBackend(LocalConversations, LocalMessages):
    """Agents on this machine. Made by `open_local_backend`."""

    name = "local"
    deletion: Deletion = "hidden"
    keeps_tags = True
    isolates_blocks = False
    image_note = (
        "Letta Code shows an image only to a model that it knows to take images; any other is told '(image omitted: "
        "model does not support images)' instead."
    )
    no_models_advice = (
        "No model is connected to the agents on this machine. Start Ollama or LM Studio here, or set OPENAI_API_KEY, "
        "ANTHROPIC_API_KEY, OLLAMA_BASE_URL or LMSTUDIO_BASE_URL for this MCP server and start it again."
    )

    @property
    def new_agent_note(self) -> str:
        return WITHOUT_TOOLS if self._settings.local_tools == "off" else ""

    async def check(self) -> Health:
        info = await self._read("app_server_info", what="tell its version")
        connection = await self._open()
        version = text_field(info, "letta_code_version")
        tested = f"Letta Code {version or 'of an unknown version'} runs here; {TESTED_VERSION} is what was tested."
        return Health(
            kind="local",
            address=connection.url,
            version=version,
            remarks=() if version == TESTED_VERSION else (tested,),
        )

    # Messages

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """After a compaction the server lists only what is in context, with the summary in front."""
        chunks, more = await self._list_chunks(ref, query)
        if not chunks and not (query.before or query.after) and ref.conversation_id != DEFAULT_CONVERSATION:
            await self.get_conversation(ref.conversation_id)
        return Page(items=tuple(map(read_message, chunks)), more=more)

    async def list_with_owner(self, conversation_id: str, query: MessageQuery) -> tuple[str, Page[Message]]:
        """Every message names the conversation's agent, whichever agent the server is asked about (seen with
        0.34.12)."""
        try:
            chunks, more = await self._list_chunks(ConversationRef(conversation_id=conversation_id, agent_id=""), query)
        except Refused:
            # It names an agent that nobody asked about if there is no such conversation.
            await self.owner_of(conversation_id)
            raise
        owner = text_field(chunks[0], "agent_id") if chunks else ""
        return owner or await self.owner_of(conversation_id), Page(items=tuple(map(read_message, chunks)), more=more)

    async def search_messages(self, search: MessageSearch) -> Sequence[FoundMessage]:
        """The protocol has no command for it."""
        raise NoSearch

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        if settings.model:
            raise Refused(
                "compact with another model",
                "the local backend writes the summary with the conversation's own model",
                "Nothing was changed; leave model out.",
            )
        newest, _ = await self._list_chunks(ref, MessageQuery(limit=2))
        if [each.get("message_type") for each in newest] in ([], ["summary_message"]):
            # The server would summarise a summary and lose its content.
            raise Refused(
                "compact the conversation",
                "there is no message in its context besides the summary of an earlier compaction"
                if newest
                else "there is no message in its context",
                "Nothing was changed.",
            )
        connection = await self._open()
        body: dict[str, object] = {"agent_id": ref.agent_id}
        if wanted := compaction_body(settings):
            body["compaction_settings"] = wanted
        answer = await connection.request(
            "conversation_compact",
            what="compact the conversation",
            seconds=self._settings.compact_timeout,
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
async def open_local_backend(
    server: ServerContext, settings: BackendSettings, look_seconds: float = LOOK_SECONDS
) -> AsyncGenerator[LocalBackend]:
    """A backend whose connection lives in this context; `server` provides the App Server during its own context."""
    async with background_tasks() as tasks:
        yield LocalBackend(server, tasks, settings, look_seconds)
