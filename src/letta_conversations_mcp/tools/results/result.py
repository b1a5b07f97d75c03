"""What every tool's answer has in common: facts, and the text that states them."""

from __future__ import annotations

from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict

from letta_conversations_mcp.core.untrusted import escaped

SUMMARY_CHARS = 200
"""Characters shown of a conversation's summary in a list or beside other facts; its resource has the rest."""


NAME_CHARS = 80
"""Characters shown of an agent's name beside its id."""


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Result(BaseModel):
    """The answer of a tool: facts, and a text that states the same facts.

    Fields at their default are left out of the structured form: nulls and empties cost the reader tokens.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    def to_text(self) -> str:
        raise TypeError(f"{type(self).__name__} has no text")

    def to_mcp(self) -> CallToolResult:
        return CallToolResult(
            content=[TextContent(type="text", text=escaped(self.to_text()))],
            structured_content=self.model_dump(mode="json", exclude_defaults=True),
        )
