"""The tool that makes a second conversation of a first one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.conversations import fork as branching
from letta_conversations_mcp.conversations.lookup import check_message_id, locate
from letta_conversations_mcp.conversations.transcript import cut
from letta_conversations_mcp.tools.tool import (
    SUMMARY_CHARS,
    ConversationArgument,
    DefaultAgentArgument,
    Result,
    ToolContext,
    ToolSpec,
    services_of,
)


class Forked(Result):
    conversation_id: str
    agent_id: str
    source: str
    summary: str = ""
    shared_messages: int | None = None
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        named = f" ({self.summary!r})" if self.summary else ""
        shared = {None: "the messages", 0: "no messages", 1: "the one message"}.get(
            self.shared_messages, f"the {self.shared_messages} messages"
        )
        first = (
            f"Forked {self.source}: the branch is {self.conversation_id}{named} of {self.agent_id}. It begins with "
            f"{shared} in context; what is said from now on stays in each, and the agent's memory is shared."
        )
        return "\n".join(filter(None, [first, self.note, self.next]))


async def fork(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    agent: DefaultAgentArgument = "",
    at_message: Annotated[str, Field(description="message-… id that the branch ends with; empty: the newest")] = "",
    summary: Annotated[str, Field(description="name of the branch", max_length=10_000)] = "",
    hidden: Annotated[bool, Field(description="keep it out of lists")] = False,
) -> Forked:
    """Branch a conversation: open a new one that begins with the same messages, as far as they are in context. The
    first stays as it is. Returns the conversation_id of the branch."""
    ref = await locate(services_of(ctx).backend, conversation_id, agent)
    branch = await branching.fork(
        services_of(ctx).backend,
        ref,
        at_message=check_message_id("at_message", at_message),
        summary=summary,
        hidden=hidden,
    )
    made = branch.conversation
    return Forked(
        conversation_id=made.id,
        agent_id=ref.agent_id,
        source=ref.conversation_id,
        summary=cut(made.summary, SUMMARY_CHARS),
        shared_messages=branch.shared,
        note=" ".join(branch.notes),
        next=f"Talk in it with send_message(conversation_id={made.id!r}, message=…).",
    )


BRANCH_TOOLS = (ToolSpec(fork, title="Fork a conversation"),)
