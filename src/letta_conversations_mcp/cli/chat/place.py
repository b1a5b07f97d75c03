"""Where the person is: an agent, one of its conversations, and what is known of both."""

from __future__ import annotations

from dataclasses import dataclass

from letta_conversations_mcp.cli.chat.formatting import one_line, short_id
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION


@dataclass
class Place:
    """Without an `agent_id`, none is chosen yet; without a `conversation_id`, the next message opens a conversation.
    `newest` is the id of the newest message that was shown or known at the last look."""

    agent_id: str = ""
    agent: str = ""
    agent_model: str = ""
    conversation_id: str = ""
    summary: str = ""
    model: str = ""
    used: int | None = None
    limit: int | None = None
    newest: str = ""

    @property
    def address(self) -> dict[str, str]:
        """The arguments that name the conversation in a call."""
        named = {"conversation_id": self.conversation_id}
        return named | {"agent": self.agent_id} if self.conversation_id == DEFAULT_CONVERSATION else named

    @property
    def name(self) -> str:
        """The conversation for a person: its summary, or the beginning of its id."""
        if not self.conversation_id:
            return "new conversation"
        return one_line(self.summary, 60) or short_id(self.conversation_id)

    @property
    def quoted(self) -> str:
        """The same within a sentence."""
        if not self.summary.strip():
            return self.name
        return f"'{one_line(self.summary, 60)}' ({short_id(self.conversation_id)})"
