"""The tool that asks several agents or conversations at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import anyio
from pydantic import Field

from letta_conversations_mcp.conversations.lookup import locate
from letta_conversations_mcp.conversations.transcript import cut, fair_share, length
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import ConversationRef, OutgoingMessage, Turn, TurnStatus
from letta_conversations_mcp.tools.opening import open_for
from letta_conversations_mcp.tools.progress import HEARTBEAT_SECONDS, reporter
from letta_conversations_mcp.tools.replies import REPEATED, describe_failure
from letta_conversations_mcp.tools.tool import Result, Services, ToolContext, ToolSpec, WaitArgument, services_of

logger = logging.getLogger(__name__)

MOST_ASKED = 50
"""Who can be asked in one call: more replies than this do not fit an answer."""

AT_ONCE = 16
"""Turns that one call has in flight: enough for a team of agents, and no flood for a self-hosted server."""

RESERVED_CHARS = 300
"""Of an answer's budget, what one reply's ids and words need."""


@dataclass(frozen=True)
class Target:
    """Who is asked: an agent, in a new conversation, or the conversation of this id."""

    name: str
    opens: bool


class ReplyRow(Result):
    to: str
    status: TurnStatus | Literal["error"]
    conversation_id: str = ""
    agent_id: str = ""
    run_id: str = ""
    reply: str = ""
    error: str = ""
    note: str = ""

    def to_text(self) -> str:
        ids = " · ".join(filter(None, [self.status, self.conversation_id, self.agent_id, self.run_id]))
        return "\n".join(filter(None, [f"## {self.to} [{ids}]", self.reply, self.error, self.note]))


class Replies(Result):
    answered: int = 0
    asked: int = 0
    replies: tuple[ReplyRow, ...] = ()
    note: str = ""
    next: str = ""

    def to_text(self) -> str:
        head = f"{self.answered} of {self.asked} answered."
        return "\n\n".join(filter(None, [head, *(row.to_text() for row in self.replies), self.note, self.next]))


async def ask_many(
    ctx: ToolContext,
    message: Annotated[str, Field(description="the text, the same for all", min_length=1, max_length=1_000_000)],
    agents: Annotated[
        list[str], Field(description="ids or exact names; each gets a new conversation", max_length=MOST_ASKED)
    ] = [],
    conversation_ids: Annotated[
        list[str], Field(description="conv-… ids of conversations to continue", max_length=MOST_ASKED)
    ] = [],
    wait_seconds: WaitArgument = None,
) -> Replies:
    """Send one message to many agents or conversations at once and collect the replies. One that is slow or fails does
    not hold up the others: each row has its own status and ids, and running ones are fetched with wait_for_reply."""
    services = services_of(ctx)
    targets = [
        *(Target(each.strip(), opens=True) for each in agents),
        *(Target(each.strip(), opens=False) for each in conversation_ids),
    ]
    _check(message, targets)
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    rows: list[ReplyRow | None] = [None] * len(targets)
    room = anyio.Semaphore(AT_ONCE)
    deadline = anyio.current_time() + seconds
    news = anyio.Event()

    async def ask(place: int, target: Target) -> None:
        async with room:
            rows[place] = await _ask(services, target, message, deadline)
        news.set()

    async def tell() -> None:
        nonlocal news
        report = reporter(ctx)
        while True:
            done = [row for row in rows if row is not None]
            latest = f", last {done[-1].to}" if done else ""
            await report(f"{len(done)} of {len(targets)} done{latest}")
            news = anyio.Event()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await news.wait()

    async with anyio.create_task_group() as telling:
        telling.start_soon(tell)
        async with anyio.create_task_group() as asking:
            for place, target in enumerate(targets):
                asking.start_soon(ask, place, target)
        telling.cancel_scope.cancel()
    return collect([row for row in rows if row is not None], services.settings.max_output_chars)


def _check(message: str, targets: Sequence[Target]) -> None:
    if not message.strip():
        raise InvalidArgument("message", "a text is needed.")
    if not targets:
        raise InvalidArgument("agents", "give at least one agent or conversation to ask.")
    if len(targets) > MOST_ASKED:
        raise InvalidArgument("agents", f"at most {MOST_ASKED} agents and conversations can be asked at once.")
    continued = [each.name for each in targets if not each.opens]
    if len(set(continued)) < len(continued):
        raise InvalidArgument("conversation_ids", "the same conversation is named twice.")


async def _ask(services: Services, target: Target, message: str, deadline: float) -> ReplyRow:
    """One of them, to its reply, or to what can be said of it at the deadline."""
    ref: ConversationRef | None = None
    seconds = deadline - anyio.current_time()
    if seconds < 0:
        return row_of(target, ref, error="Not asked: the time was over before its place came. Nothing was sent to it.")
    try:
        outgoing = OutgoingMessage(text=message, opens=target.opens)
        if target.opens:
            ref = await open_for(services, target.name, outgoing)
        else:
            ref = await locate(services.backend, target.name)
        turn = await services.sender.send_and_wait(
            ref, outgoing, max(deadline - anyio.current_time(), 0), _without_report
        )
    except ConversationError as error:
        return row_of(target, ref, error=str(error))
    except Exception:
        # One that fails in an unexpected way must not take the others' replies with it.
        logger.exception("asking %s failed unexpectedly", target.name)
        where = f"list_messages(conversation_id={ref.conversation_id!r})" if ref else "list_conversations"
        return row_of(target, ref, error=f"This failed inside the MCP server; look with {where} before asking again.")
    return row_of(target, ref, turn)


async def _without_report(words: str) -> None:
    """The call reports for all of them together."""


def row_of(target: Target, ref: ConversationRef | None, turn: Turn | None = None, *, error: str = "") -> ReplyRow:
    """What is told of one of them."""
    return ReplyRow(
        to=target.name,
        status=turn.status if turn else "error",
        conversation_id=ref.conversation_id if ref else "",
        agent_id=ref.agent_id if ref else "",
        run_id=turn.run_id if turn else "",
        reply=turn.reply if turn else "",
        error=error or (describe_failure(turn) if turn else ""),
        note=REPEATED if turn and turn.repeated else "",
    )


def collect(rows: Sequence[ReplyRow], budget: int) -> Replies:
    """All of them within `budget` characters."""
    texts = [text for row in rows for text in (row.reply, row.error)]
    share = fair_share([length(text) for text in texts], budget - RESERVED_CHARS * (len(rows) + 1))
    shown = [row.model_copy(update={"reply": cut(row.reply, share), "error": cut(row.error, share)}) for row in rows]
    answered = sum(row.status in ("completed", "empty") for row in rows)
    open_ones = [row for row in rows if row.status in ("running", "unknown", "needs_approval")]
    is_cut = any(length(text) > share for text in texts)
    return Replies(
        answered=answered,
        asked=len(rows),
        replies=tuple(shown),
        note="Cut to fit; list_messages(conversation_id=…, limit=5) shows a reply in full." if is_cut else "",
        next="Not finished: wait_for_reply with each one's conversation_id; do not send the message to those again."
        if open_ones
        else "",
    )


ASKING_TOOLS = (ToolSpec(ask_many, title="Ask several agents", open_world=True),)
