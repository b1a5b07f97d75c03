"""The events that the MCP SDK's SubscriptionBus carries here.

* `conversation_changed(id)`: a conversation changed. No client can subscribe to its URI; the poller of every replica
receives it, reads the conversation, and publishes a ResourceUpdated for each URI that its clients watch.
* `AgentListChanged`: a conversation of this agent was created, renamed, archived or deleted. Clients whose caller sees
  the agent receive it as `LIST_CHANGED`.

An event says which resource to read again, never what is new there, so a superfluous event does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent

LIST_CHANGED = ResourcesListChanged()
"""Anybody's list, because it is not known whose."""


@dataclass(frozen=True)
class AgentListChanged(ResourcesListChanged):
    """The list of one agent's conversations. `account` names the Letta key it was seen with, "" for the server's
    own."""

    agent_id: str
    account: str = ""


_PREFIX = "letta://conversations/"
_SUFFIX = "#changed"


def conversation_changed(conversation_id: str) -> ResourceUpdated:
    return ResourceUpdated(f"{_PREFIX}{conversation_id}{_SUFFIX}")


def changed_conversation(event: ServerEvent) -> str:
    """The conversation id in an event of `conversation_changed`; "" for any other event."""
    if isinstance(event, ResourceUpdated) and event.uri.endswith(_SUFFIX):
        return event.uri.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return ""
