"""Operations on whole conversations, through the App Server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from letta_conversations_mcp.backends.app_server.agents import LocalAgents
from letta_conversations_mcp.backends.app_server.app_server_json import read_conversation
from letta_conversations_mcp.conversations.lookup import in_order
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, NotFound, Refused
from letta_conversations_mcp.core.message_json import mapping_field, mappings, text_field
from letta_conversations_mcp.core.model import (
    Block,
    ContextUse,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    NewConversation,
    Page,
)
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote

LIST_PAGE = 200
"""Conversations per request: the server sorts and filters little, so all are fetched and sorted here."""


SETTINGS = frozenset(("max_tokens", "reasoning_effort", "effort", "reasoning", "thinking", "service_tier"))
"""Model settings that Letta Code 0.34.12 uses. It stores others, such as temperature, max_output_tokens and any
provider_type, without effect (measured)."""


class LocalConversations(LocalAgents):
    """Creates, finds, changes, forks and hides conversations."""

    async def create_conversation(self, new: NewConversation) -> Conversation:
        _check_settings(new.model_settings)
        await self.get_agent(new.agent_id)
        connection = await self._open()
        wanted: dict[str, object] = {
            "agent_id": new.agent_id,
            "summary": new.summary,
            "description": new.description,
            "model": new.model,
            "model_settings": new.model_settings,
            "context_window_limit": new.context_window_limit,
            "hidden": new.hidden,
            "tags": list(new.tags),
        }
        body = {key: value for key, value in wanted.items() if value}
        answer = await connection.request("conversation_create", what="create a conversation", body=body)
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
        """Not cached: the server reuses the ids of a deleted agent's conversations (measured)."""
        return (await self.get_conversation(conversation_id)).agent_id

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        """A cursor is a position in the order: its conversation may be another agent's, or hidden by now."""
        every = {each.id: each for each in await self._all_conversations(query) if self._is_wanted(each, query)}
        if query.after and query.after not in every:
            every[query.after] = await self.get_conversation(query.after)
        ordered = in_order(every.values(), query)
        if query.after:
            ordered = ordered[[each.id for each in ordered].index(query.after) + 1 :]
        return Page(items=tuple(ordered[: query.limit]), more=len(ordered) > query.limit)

    def _is_wanted(self, conversation: Conversation, query: ConversationQuery) -> bool:
        archived = {"no": not conversation.archived, "only": bool(conversation.archived), "all": True}[query.archived]
        return archived and query.search in conversation.summary and (not query.tag or query.tag in conversation.tags)

    async def _all_conversations(self, query: ConversationQuery) -> list[Conversation]:
        found: dict[str, Conversation] = {}
        asked: dict[str, object] = {"limit": LIST_PAGE, "include_hidden": query.with_hidden}
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
        """The protocol cannot delete, so the conversation is hidden from every list. It loses its tags, so that its key
        can be used again."""
        await self.get_conversation(conversation_id)
        connection = await self._open()
        await connection.request(
            "conversation_update",
            what="hide the conversation",
            conversation_id=conversation_id,
            body={"hidden": True, "tags": []},
        )

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        """A conversation's own model settings are removed with its own model."""
        _check_settings(changes.model_settings or {})
        body: dict[str, object] = changes.model_dump(exclude_none=True)
        if changes.model == "":
            body = {"model_settings": None, **body, "model": None}
        return await self._change(conversation_id, body)

    async def _change(self, conversation_id: str, body: Mapping[str, object]) -> Conversation:
        connection = await self._open()
        try:
            answer = await connection.request(
                "conversation_update", what="update the conversation", conversation_id=conversation_id, body=body
            )
        except Refused as error:
            if "not found" in error.reason:
                raise NotFound.conversation(conversation_id) from error
            raise
        return read_conversation(mapping_field(answer, "conversation"))

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        """The server copies the messages under new ids, and the summary, which is cleared: two conversations with the
        same name are confusing."""
        connection = await self._open()
        wanted: dict[str, object] = {"agent_id": ref.agent_id, "message_id": at_message, "hidden": hidden}
        body = {key: value for key, value in wanted.items() if value}
        try:
            answer = await connection.request(
                "conversation_fork",
                what="fork the conversation",
                conversation_id=ref.conversation_id,
                body=body,
            )
        except Refused as error:
            if at_message and f"Message {at_message}" in error.reason:
                raise NotFound.message(at_message) from error
            if "not found" in error.reason:
                raise NotFound.conversation(ref.conversation_id) from error
            raise
        made = text_field(mapping_field(answer, "conversation"), "id")
        try:
            return await self._change(made, {"summary": None})
        except ConversationError as error:
            error.add(f"The branch {made} is there, with the summary of its source.")
            raise

    async def recompile(self, ref: ConversationRef, *, dry_run: bool = False) -> str:
        connection = await self._open()
        try:
            answer = await connection.request(
                "conversation_recompile",
                what="recompile the conversation",
                conversation_id=ref.conversation_id,
                body={"agent_id": ref.agent_id, "dry_run": dry_run},
            )
        except Refused as error:
            if "not found" in error.reason:
                raise NotFound.conversation(ref.conversation_id) from error
            raise
        return text_field(answer, "result")

    async def get_prompt(self, ref: ConversationRef) -> str:
        """The server does not report it."""
        return ""

    async def list_isolated_blocks(self, conversation: Conversation) -> Sequence[Block]:
        """The local backend has none."""
        return ()

    async def get_context_use(self, ref: ConversationRef) -> ContextUse | None:
        """The server reports it only while a turn runs."""
        return None


def _check_settings(settings: Mapping[str, object]) -> None:
    if ignored := [name for name in settings if name not in SETTINGS]:
        names = ", ".join(quote(name, NAME_CHARS) for name in ignored[:5])
        raise InvalidArgument(
            "model_settings", f"agents on this machine ignore {names}; they use {', '.join(sorted(SETTINGS))}."
        )
