"""What ask_many answers: one row for each agent or conversation, all of them within one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from letta_conversations_mcp.conversations.transcript import cut, fair_share, length
from letta_conversations_mcp.core.model import ConversationRef, Turn, TurnStatus
from letta_conversations_mcp.core.quoting import quote
from letta_conversations_mcp.core.untrusted import quoted
from letta_conversations_mcp.tools.results.reply import REPEATED, UNCONFIRMED, describe_failure
from letta_conversations_mcp.tools.results.result import NAME_CHARS, Result

ROW_CHARS = 300
"""Characters that a row needs beside its reply."""

NOT_FINISHED = (
    "Not finished: call wait_for_reply with the conversation_id and the run_id or message_key of each; do not send the "
    "message to those again."
)

OTHERS_HAVE_IT = "To ask those that failed again, name only them: the others have the message."


@dataclass(frozen=True)
class Target:
    """Who is asked: `name` is an agent, which `opens` a new conversation, or the id of a conversation."""

    name: str
    opens: bool


class ReplyRow(Result):
    to: str
    status: TurnStatus | Literal["error"]
    conversation_id: str = ""
    agent_id: str = ""
    agent_name: str = ""
    run_id: str = ""
    message_key: str = ""
    reply: str = ""
    error: str = ""
    note: str = ""

    def to_text(self) -> str:
        agent = " ".join(filter(None, [self.agent_id, repr(self.agent_name) if self.agent_name else ""]))
        ids = " · ".join(filter(None, [self.status, self.conversation_id, agent, self.run_id, self.message_key]))
        return "\n".join(filter(None, [f"## {quote(self.to)} [{ids}]", self.error, self.note, quoted(self.reply)]))


class Replies(Result):
    answered: int = 0
    asked: int = 0
    replies: tuple[ReplyRow, ...] = ()
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        head = f"{self.answered} of {self.asked} answered."
        ours = "\n".join(filter(None, [head, self.note, self.next]))
        return "\n\n".join([ours, *(row.to_text() for row in self.replies)])


def row_of(
    target: Target,
    ref: ConversationRef | None,
    turn: Turn | None = None,
    *,
    agent_name: str = "",
    error: str = "",
    message_key: str = "",
) -> ReplyRow:
    """The row of one target. `message_key` names a message that has no run yet."""
    return ReplyRow(
        to=target.name,
        status=turn.status if turn else "error",
        conversation_id=ref.conversation_id if ref else "",
        agent_id=ref.agent_id if ref else "",
        agent_name=cut(agent_name, NAME_CHARS),
        run_id=turn.run_id if turn else "",
        message_key=message_key if turn and turn.status in UNCONFIRMED and not turn.run_id else "",
        reply=turn.reply if turn else "",
        error=error or (describe_failure(turn) if turn else ""),
        note=REPEATED if turn and turn.repeated else "",
    )


def collect(rows: Sequence[ReplyRow], budget: int) -> Replies:
    """All rows within `budget` characters."""
    texts = [text for row in rows for text in (row.reply, row.error)]
    share = fair_share([length(text) for text in texts], budget - ROW_CHARS * (len(rows) + 1))
    shown = [row.model_copy(update={"reply": cut(row.reply, share), "error": cut(row.error, share)}) for row in rows]
    answered = sum(row.status in ("completed", "empty") for row in rows)
    unfinished = [row for row in rows if row.status in ("running", "not_confirmed", "unknown", "needs_approval")]
    failed = [row for row in rows if row.status in ("error", "failed")]
    is_cut = any(length(text) > share for text in texts)
    return Replies(
        answered=answered,
        asked=len(rows),
        replies=tuple(shown),
        note="Cut to fit; list_messages(conversation_id=…, limit=5) shows a reply in full." if is_cut else "",
        next=" ".join(
            filter(None, [NOT_FINISHED if unfinished else "", OTHERS_HAVE_IT if 0 < len(failed) < len(rows) else ""])
        ),
    )
