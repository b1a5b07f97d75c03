"""Calls about a turn: the identity of a call that sends something, the conversation it goes to, and the answer.

Owns the identity of a call (taken before anything is derived from it) and the opening of a conversation for a message.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from letta_conversations_mcp.conversations import fork, keys
from letta_conversations_mcp.conversations.lookup import find_agent, locate
from letta_conversations_mcp.conversations.names import agent_name
from letta_conversations_mcp.conversations.update import check_text
from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import ConversationRef, NewConversation, Turn
from letta_conversations_mcp.tools.base import Services, ToolContext, services_of
from letta_conversations_mcp.tools.results.reply import Reply, ReplyKind
from letta_conversations_mcp.turns.idempotency import CallIdentity, fingerprint

REQUEST_ID = "x-request-id"
"""A proxy gives every request one of its own, and keeps it when it hands the request to the next server. With the id of
the JSON-RPC request, because some clients send the same one with every request."""

STDIO = "stdio"
"""The session of a process that serves one client over stdio."""


def identity_of(ctx: ToolContext, tool: str, target: str, message_key: str, *arguments: object) -> CallIdentity:
    """The identity of a call of `tool` with these arguments, as they were given."""
    headers = ctx.headers
    session = STDIO if headers is None else headers.get("mcp-session-id", "")
    unique = "" if headers is None else headers.get(REQUEST_ID, "") or session
    return CallIdentity(
        caller=services_of(ctx).scheduler.caller,
        origin=_origin(ctx),
        session=session,
        request=f"{unique} {ctx.request_id}" if unique else "",
        target=target.strip(),
        call=fingerprint(tool, target.strip(), *arguments),
        key=message_key.strip(),
    )


def _origin(ctx: ToolContext) -> str:
    """Where a call comes from: the client's address, in front of a proxy if that reports it, and its program."""
    headers = ctx.headers
    if headers is None:
        return ""
    client = getattr(ctx.request_context.request, "client", None)
    address = headers.get("x-forwarded-for", "") or getattr(client, "host", "")
    return fingerprint(address, headers.get("user-agent", ""))


async def reply_of(
    services: Services,
    turn: Turn,
    ref: ConversationRef,
    kinds: Collection[ReplyKind],
    *,
    agent: str = "",
    branch_of: str = "",
    message_key: str = "",
    notes: Sequence[str] = (),
) -> Reply:
    """The answer to a call about a turn, within the budget of an answer. `agent` is the agent's name if it is known."""
    return Reply.of(
        turn,
        ref,
        kinds,
        services.settings.max_output_chars,
        agent_name=agent or await agent_name(services.backend, ref.agent_id),
        branch_of=branch_of,
        message_key=message_key,
        notes=notes,
    )


class Destination:
    """Where a message goes: the conversation that was named, or a new one of the agent.

    With a `message_key` the conversation that was opened for the message is found again, and so is the branch that was
    made for it: both carry a key of their own.
    """

    def __init__(self, services: Services, identity: CallIdentity, *, summary: str = "", key: str = "") -> None:
        """`summary` and `key` are those of the conversation that is opened, as in create_conversation.

        Raises:
            InvalidArgument: one of them cannot be used.
        """
        check_text("summary", summary)
        self._services = services
        self.identity = identity
        self._summary = keys.without_mark(summary)
        self._key = keys.check_key(key) if key else ""
        key = fingerprint(identity.caller, identity.key)[:20] if identity.key else ""
        self._opened_key = f"message:{key}" if key else ""
        self._branch_key = f"branch:{key}" if key else ""
        self.made: ConversationRef | None = None
        """The conversation that was made for the message."""
        self.agent_name = ""
        """The agent's name, if it was looked up."""

    async def find(self, conversation_id: str, agent: str) -> ConversationRef:
        """The conversation that a call names, or a new one for it.

        Raises:
            InvalidArgument: neither a conversation nor an agent is named.
        """
        backend = self._services.backend
        if conversation_id.strip():
            if given := "summary" if self._summary else "key" if self._key else "":
                raise InvalidArgument(given, "it is for a conversation that is opened; here one is continued.")
            ref = await locate(backend, conversation_id, agent)
            return await self._earlier_branch(ref) or ref
        if not agent.strip():
            raise InvalidArgument(
                "conversation_id", "give a conversation_id to continue, or an agent to open a new conversation."
            )
        owner = await find_agent(backend, agent)
        self.agent_name = owner.name
        new = NewConversation(agent_id=owner.id, summary=self._summary)
        was_there = False
        if self._key:
            opened, was_there = await keys.open_with_key(backend, new, self._key)
        elif self._opened_key:
            opened, _ = await keys.open_with_key(backend, new, self._opened_key)
        else:
            opened = await backend.create_conversation(new)
        ref = ConversationRef(conversation_id=opened.id, agent_id=owner.id)
        if was_there:
            return await self._earlier_branch(ref) or ref
        self.made = ref
        return ref

    async def fork(self, ref: ConversationRef) -> ConversationRef:
        """A branch of a conversation that is busy."""
        branch = await fork.fork(self._services.backend, ref, key=self._branch_key)
        self.made = ConversationRef(conversation_id=branch.conversation.id, agent_id=ref.agent_id)
        return self.made

    async def _earlier_branch(self, ref: ConversationRef) -> ConversationRef | None:
        if not self._branch_key:
            return None
        found = await keys.find_with_key(self._services.backend, ref.agent_id, self._branch_key)
        return ConversationRef(conversation_id=found.id, agent_id=ref.agent_id) if found else None
