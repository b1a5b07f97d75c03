"""The `sender` of a message: the introduction of an agent's message to another agent, and the count that ends chains of
agents.

The introduction uses the words of Letta's own tools for messages between agents (0.16.8), which agents know. It is part
of the text, because a system message would give the sender an authority that it does not have. It ends with the
position of the message in its chain (its hop), and the `sender` to give when passing it on.

A hop is one more than the highest of: the hop that the sender names, the hop in the text, that of the newest message in
the conversation that the sender names, and those of the messages that the sender is answering through this process.
This counts chains of agents that follow the introduction, across processes too, and most other chains within one
process. It misses a sender that conceals its conversation and its hop while another process serves it: a REST server
stores a message only after the tool calls of its first step, so it cannot be looked up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import InvalidArgument, TooManyHops
from letta_conversations_mcp.core.model import (
    AGENT_ID,
    CONVERSATION_ID,
    DEFAULT_CONVERSATION,
    ConversationRef,
    MessageQuery,
)
from letta_conversations_mcp.turns.scheduler import Scheduler

NEWEST = 20
"""Messages read to find the newest one that was sent to the agent: tool calls and replies may follow it."""

GIVEN_CHARS = 400
"""How much of a `sender` argument is read: a name or an id, and the hop."""

_GIVEN = re.compile(r"(?P<who>.*?)(?:[,;:]? hop (?P<hop>[0-9]{1,4}))?", re.IGNORECASE)
_NAME = re.compile(r"[^\[\]'\x00-\x1f\x7f]{1,80}")
_INTRODUCED = re.compile(
    r"\A\s*\[Incoming message from agent[^\]\n]{1,200}\](?:\s*\[hop ([0-9]{1,4}) of [0-9]{1,4}\b)?"
)


@dataclass(frozen=True)
class Sender:
    """A Letta agent by id, with its conversation if that is known, or another program by name."""

    agent_id: str = ""
    conversation_id: str = ""
    name: str = ""
    named_hop: int = 0

    def __str__(self) -> str:
        return f"agent with ID '{self.agent_id}'" if self.agent_id else f"agent '{self.name}'"


def hop_of(text: str) -> int:
    """The position of a message in a chain of agents: 0 for a person's message, at least 1 for an agent's."""
    found = _INTRODUCED.match(text)
    return int(found[1] or 1) if found else 0


async def find_sender(backend: Backend, given: str) -> Sender:
    """Parse a `sender` argument: an agent id, a conversation id or a name, and optionally the hop.

    Raises:
        InvalidArgument: it is something else.
        NotFound: there is no such agent or conversation.
    """
    # Collapse white space first: the pattern takes quadratic time over a long run of spaces.
    found = _GIVEN.fullmatch(" ".join(given[:GIVEN_CHARS].split()))
    who, hop = (found["who"].strip(), int(found["hop"] or 0)) if found else ("", 0)
    if AGENT_ID.fullmatch(who):
        # Only one that the caller sees may be named as the sender.
        await backend.get_agent(who)
        return Sender(agent_id=who, named_hop=hop)
    if CONVERSATION_ID.fullmatch(who):
        return Sender(agent_id=await backend.owner_of(who), conversation_id=who, named_hop=hop)
    if _NAME.fullmatch(who):
        return Sender(name=who, named_hop=hop)
    raise InvalidArgument("sender", "give your conversation id (conv-…), your agent id (agent-…) or a short name.")


async def next_hop(backend: Backend, scheduler: Scheduler, sender: Sender, text: str, most: int) -> int:
    """The position of this message in its chain. Raises TooManyHops beyond `most`."""
    hop = 1 + max(sender.named_hop, hop_of(text), await _hop_before(backend, scheduler, sender))
    if hop > most:
        raise TooManyHops(hop, most)
    return hop


def introduce(sender: Sender, ref: ConversationRef, text: str, hop: int, most: int) -> str:
    """The text with its introduction. Raises InvalidArgument if an agent sends to its own conversation."""
    if sender.conversation_id and sender.conversation_id == ref.conversation_id:
        raise InvalidArgument("sender", "that is the conversation that the message goes to; just answer there.")
    onward = ref.agent_id if ref.conversation_id == DEFAULT_CONVERSATION else ref.conversation_id
    return (
        f"[Incoming message from {sender} - your response will be delivered to the sender] "
        f"[hop {hop} of {most}; to message another agent because of this, give sender='{onward} hop {hop}'] {text}"
    )


async def _hop_before(backend: Backend, scheduler: Scheduler, sender: Sender) -> int:
    """The position of the message that the sender is answering; 0 if it is unknown."""
    if not sender.agent_id:
        return 0
    texts = scheduler.messages_to(sender.agent_id, sender.conversation_id)
    # These count also if other callers sent them.
    if sender.conversation_id:
        ref = ConversationRef(conversation_id=sender.conversation_id, agent_id=sender.agent_id)
        newest = await backend.list_messages(ref, MessageQuery(limit=NEWEST))
        texts += [message.text for message in newest.items if message.kind == "user"][-1:]
    return max(map(hop_of, texts), default=0)
