"""What the tools of the viewer answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from letta_conversations_mcp.conversations.transcript import CUT
from letta_conversations_mcp.core.model import Message, MessageKind, ToolCall
from letta_conversations_mcp.tools.results.result import Result

LONGEST_TEXT = 100_000
"""Most characters of a message or tool result that the viewer gets."""


Unlisted = Annotated[SkipJsonSchema[str], Field(exclude=True)]
"""A fact that only the text states."""


class Shown(Result):
    conversation_id: str = ""
    agent_id: str = ""
    agent_name: Unlisted = ""
    summary: Unlisted = ""
    note: Unlisted = ""
    transcript: Unlisted = ""

    def to_text(self) -> str:
        named = f" ({self.summary!r})" if self.summary else ""
        whose = f" of agent {self.agent_name!r} ({self.agent_id})" if self.agent_id else ""
        what = (
            f"Conversation {self.conversation_id}{named}{whose}." if self.conversation_id else f"Conversations{whose}."
        )
        return "\n\n".join(filter(None, [what, self.note, self.transcript]))


class ViewedCall(Result):
    tool_call_id: str = ""
    name: str = ""
    arguments: str = ""
    status: Literal["pending", "success", "error"] = "pending"
    result: str = ""
    client_side: bool = False
    asked_by: str = ""

    @classmethod
    def of(cls, call: ToolCall) -> ViewedCall:
        return cls(
            tool_call_id=call.id,
            name=call.name,
            # Never cut: a person decides about exactly this.
            arguments=call.arguments,
            status="error" if call.status == "denied" else call.status,
            result=call.result if len(call.result) <= LONGEST_TEXT else f"{call.result[:LONGEST_TEXT]}{CUT}",
            client_side=call.client_side,
            asked_by=call.asked_by,
        )


class ViewedMessage(Result):
    id: str
    kind: MessageKind
    at: str = ""
    text: str = ""
    calls: tuple[ViewedCall, ...] = ()
    cut: bool = False

    @classmethod
    def of(cls, message: Message) -> ViewedMessage:
        return cls(
            id=message.id,
            kind=message.kind,
            at=message.at,
            text=message.text[:LONGEST_TEXT],
            calls=tuple(map(ViewedCall.of, message.calls)),
            cut=len(message.text) > LONGEST_TEXT,
        )


class ViewedPage(Result):
    conversation_id: str
    agent_id: str
    messages: tuple[ViewedMessage, ...] = ()
    older: str = ""
    newer: str = ""
    approvals: tuple[ViewedCall, ...] = ()
    run_id: str = ""

    def to_text(self) -> str:
        return f"{len(self.messages)} messages of {self.conversation_id}, for the viewer."
