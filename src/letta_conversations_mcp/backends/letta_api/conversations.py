"""Operations on whole conversations of a Letta REST server."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.to_thread

from letta_conversations_mcp.backends.letta_api.base import AFTER_READING, ApiBase
from letta_conversations_mcp.backends.letta_api.letta_json import (
    Json,
    agent_of_default,
    changes_body,
    conversation_body,
    objects,
    read_conversation,
)
from letta_conversations_mcp.backends.letta_api.model_settings import check_model_settings
from letta_conversations_mcp.core.errors import (
    NO_TAGS,
    ConversationError,
    InvalidArgument,
    NotFound,
    Refused,
    Unreachable,
)
from letta_conversations_mcp.core.message_json import text_field
from letta_conversations_mcp.core.model import (
    Block,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    NewConversation,
    Page,
)


class ApiConversations(ApiBase):
    """Creates, finds, changes, forks and deletes conversations."""

    async def create_conversation(self, new: NewConversation) -> Conversation:
        client = await self._open()
        if new.model_settings:
            model = new.model or await self._model_of_agent(new.agent_id)
            await self._check_settings(new.model_settings, model)
            new = new.model_copy(update={"model": model})
        with client.asking.to(
            "create a conversation",
            after="It may have been created: look with list_conversations before creating another.",
            missing=NotFound.agent(new.agent_id),
        ):
            data = await client.json(
                client.once.conversations.with_raw_response.create(
                    agent_id=new.agent_id, extra_body=conversation_body(new)
                )
            )
        return self._remember(read_conversation(client.object(data)))

    async def _check_settings(self, settings: dict[str, object], model: str) -> None:
        """Raises InvalidArgument for settings that would have no effect: they need a model of the same provider (0.16.8
        accepts any)."""
        if not model:
            raise InvalidArgument("model_settings", "they need a model beside them.")
        client = await self._open()
        with client.asking.to("list the models", after=AFTER_READING):
            data = await client.json(client.retrying.models.with_raw_response.list())
        providers = {text_field(each, "handle"): text_field(each, "provider_type") for each in objects(data)}
        await anyio.to_thread.run_sync(check_model_settings, settings, providers.get(model, ""))

    async def _model_of_agent(self, agent_id: str) -> str:
        """The handle of the agent's model: settings alone have no effect on 0.16.8 (seen)."""
        client = await self._open()
        with client.asking.to("find the agent", after=AFTER_READING, missing=NotFound.agent(agent_id)):
            data = await client.json(client.retrying.agents.with_raw_response.retrieve(agent_id))
        return text_field(client.object(data), "model")

    async def get_conversation(self, conversation_id: str) -> Conversation:
        client = await self._open()
        missing = NotFound.conversation(conversation_id)
        with client.asking.to("find the conversation", after=AFTER_READING, missing=missing):
            data = await client.json(client.retrying.conversations.with_raw_response.retrieve(conversation_id))
        return self._remember(read_conversation(client.object(data)))

    async def owner_of(self, conversation_id: str) -> str:
        if conversation_id not in self._known:
            return (await self.get_conversation(conversation_id)).agent_id
        self._known.move_to_end(conversation_id)
        return self._known[conversation_id].agent_id

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]:
        """Raises Refused for a tag: the API has no tags, and a server would list everything."""
        if query.tag:
            raise Refused("list conversations by tag", NO_TAGS, "Leave tag out.")
        client = await self._open()
        filters: Json = {
            "agent_id": query.agent_id,
            "summary_search": query.search,
            "after": query.after,
            "order": query.order,
            "order_by": query.order_by,
            "archive_status": {"no": "unarchived", "only": "archived", "all": "all"}[query.archived],
        }
        missing = NotFound.conversation(query.after) if query.after else None
        if not (query.after or query.agent_id):
            missing = Unreachable.no_letta_server(client.asking.base_url)
        with client.asking.to("list the conversations", after=AFTER_READING, missing=missing):
            data = await client.json(
                client.retrying.conversations.with_raw_response.list(
                    limit=query.limit, extra_query={key: value for key, value in filters.items() if value}
                )
            )
        conversations = tuple(self._remember(read_conversation(item)) for item in objects(data))
        return Page(items=conversations, more=len(conversations) >= query.limit)

    async def delete_conversation(self, conversation_id: str) -> None:
        client = await self._open()
        with client.asking.to(
            "delete the conversation",
            after="It may be deleted: the same call can be made again, and says so.",
            missing=NotFound.conversation(conversation_id),
        ):
            await client.once.conversations.with_raw_response.delete(conversation_id)
        self._known.pop(conversation_id, None)

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        """0.16.8 ignores a summary of null, so "" clears it."""
        client = await self._open()
        if changes.model_settings:
            model = changes.model
            if model is None:
                now = await self.get_conversation(conversation_id)
                model = now.model or await self._model_of_agent(now.agent_id)
            await self._check_settings(changes.model_settings, model)
            changes = changes.model_copy(update={"model": model})
        with client.asking.to(
            "update the conversation",
            after="It may have been changed; the same call can be made again.",
            missing=NotFound.conversation(conversation_id),
        ):
            data = await client.json(
                client.once.conversations.with_raw_response.update(conversation_id, extra_body=changes_body(changes))
            )
        return self._remember(read_conversation(client.object(data)))

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        client = await self._open()
        wanted: Json = {
            **agent_of_default(ref),
            "message_id": at_message,
            "hidden": "true" if hidden else "",
        }
        with client.asking.to(
            "fork the conversation",
            after="It may have been forked: look with list_conversations before doing it again.",
            missing=NotFound.message(at_message) if at_message else NotFound.conversation(ref.conversation_id),
        ):
            data = await client.json(
                client.once.conversations.with_raw_response.fork(
                    ref.conversation_id, extra_query={key: value for key, value in wanted.items() if value}
                )
            )
        made = self._remember(read_conversation(client.object(data)))
        try:
            # Only this response contains the ids in context (seen on 0.16.8).
            return await self.get_conversation(made.id)
        except ConversationError:
            return made

    async def recompile(self, ref: ConversationRef, *, dry_run: bool = False) -> str:
        client = await self._open()
        query: Json = {"dry_run": "true"} if dry_run else {}
        with client.asking.to(
            "recompile the conversation",
            after="It may have been recompiled; the same call can be made again.",
            missing=NotFound.conversation(ref.conversation_id),
        ):
            prompt = await client.json(
                client.once.conversations.with_raw_response.recompile(
                    ref.conversation_id, extra_query=query, extra_body=agent_of_default(ref)
                )
            )
        return prompt if isinstance(prompt, str) else ""

    async def list_isolated_blocks(self, conversation: Conversation) -> Sequence[Block]:
        client = await self._open()
        blocks: list[Block] = []
        for block_id in conversation.isolated_block_ids:
            with client.asking.to("read a memory block", after=AFTER_READING, missing=NotFound.block(block_id)):
                data = client.object(await client.json(client.retrying.blocks.with_raw_response.retrieve(block_id)))
            blocks.append(Block(label=text_field(data, "label"), value=text_field(data, "value")))
        return blocks
