"""Every operation of the backend protocol, with arguments about one conversation."""

from __future__ import annotations

import inspect
from typing import Any

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.model import (
    Approvals,
    CompactionSettings,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    Decision,
    MessageQuery,
    MessageSearch,
    NewAgent,
    NewConversation,
    OutgoingMessage,
)

MESSAGE = OutgoingMessage(text="hello", otid="00000000-0000-4000-8000-000000000000")


def operations() -> set[str]:
    return {name for name, value in vars(Backend).items() if inspect.isfunction(value) and not name.startswith("_")}


async def call(backend: Backend, operation: str, ref: ConversationRef, run_id: str = "") -> Any:
    """Call an operation about this conversation, its agent or this run. A stream is opened and closed unread."""
    conversation = Conversation(id=ref.conversation_id, agent_id=ref.agent_id)
    arguments: dict[str, tuple[Any, ...]] = {
        "check": (),
        "check_message": (MESSAGE,),
        "list_agents": (),
        "list_models": (),
        "list_conversations": (ConversationQuery(),),
        "get_agent": (ref.agent_id,),
        "delete_agent": (ref.agent_id,),
        "create_agent": (NewAgent(name="x", model="m"),),
        "create_conversation": (NewConversation(agent_id=ref.agent_id),),
        "get_conversation": (ref.conversation_id,),
        "owner_of": (ref.conversation_id,),
        "list_isolated_blocks": (conversation,),
        "search_messages": (MessageSearch(query="secret", conversation_id=ref.conversation_id, agent_id=ref.agent_id),),
        "update_conversation": (ref.conversation_id, ConversationChanges(summary="mine now")),
        "delete_conversation": (ref.conversation_id,),
        "list_messages": (ref, MessageQuery()),
        "list_with_owner": (ref.conversation_id, MessageQuery()),
        "compact": (ref, CompactionSettings()),
        "send": (ref, MESSAGE),
        "resume": (ref, MESSAGE),
        "respond": (ref, Approvals(decisions=(Decision(tool_call_id="call_1", approve=True),), otid=MESSAGE.otid)),
        "get_run": (ref, run_id),
        "list_run_chunks": (ref, run_id),
        "run_of_otid": (ref, MESSAGE.otid),
    }
    named: dict[str, dict[str, Any]] = {"list_runs": {"limit": 5}, "resume": {"run_id": run_id, "after": 0}}
    called = getattr(backend, operation)(*arguments.get(operation, (ref,)), **named.get(operation, {}))
    if hasattr(called, "__aenter__"):
        async with called:
            return None
    return await called
