"""A new conversation for a message that is sent to an agent alone."""

from __future__ import annotations

from letta_conversations_mcp.conversations.lookup import find_agent
from letta_conversations_mcp.core.model import ConversationRef, NewConversation, OutgoingMessage
from letta_conversations_mcp.tools.tool import Services


async def open_for(services: Services, agent: str, message: OutgoingMessage) -> ConversationRef:
    """Open a conversation with an agent, given by id or name; or give the one that was opened for this message by a
    call whose client gave up, and now tries again."""
    owner = await find_agent(services.backend, agent)
    if earlier := services.sender.opened_before(owner.id, message):
        return earlier
    opened = await services.backend.create_conversation(NewConversation(agent_id=owner.id))
    return ConversationRef(conversation_id=opened.id, agent_id=owner.id)
