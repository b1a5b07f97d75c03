"""The tool that sends one message to several agents or conversations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import anyio
from pydantic import Field

from letta_conversations_mcp.conversations.keys import check_key
from letta_conversations_mcp.conversations.names import agent_name
from letta_conversations_mcp.conversations.update import check_text
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument
from letta_conversations_mcp.core.model import ConversationRef, OutgoingMessage
from letta_conversations_mcp.tools.base import (
    MessageKeyArgument,
    NewKeyArgument,
    NewSummaryArgument,
    Services,
    ToolContext,
    ToolSpec,
    WaitArgument,
    services_of,
)
from letta_conversations_mcp.tools.calls import Destination, identity_of
from letta_conversations_mcp.tools.messages import key_of
from letta_conversations_mcp.tools.progress import HEARTBEAT_SECONDS, no_report, reporter
from letta_conversations_mcp.tools.results.ask_many import Replies, ReplyRow, Target, collect, row_of
from letta_conversations_mcp.turns.sending import Send

logger = logging.getLogger(__name__)


MOST_ASKED = 50
"""Targets in one call: more replies than this do not fit an answer."""

NOT_ASKED = "Not asked: the time was over before its place came. Nothing was sent to it."

AT_ONCE = 16
"""Turns of one call that run at the same time: enough for a team of agents, and no flood for a self-hosted server."""

START_SECONDS = 4.0
"""The least time in which those behind the first `AT_ONCE` are still asked, however short `wait_seconds`."""


async def ask_many(
    ctx: ToolContext,
    message: Annotated[str, Field(description="the text", min_length=1, max_length=1_000_000)],
    agents: Annotated[
        list[str], Field(description="ids or exact names; opens a conversation with each", max_length=MOST_ASKED)
    ] = [],
    conversation_ids: Annotated[list[str], Field(description="conv-… ids to continue", max_length=MOST_ASKED)] = [],
    wait_seconds: WaitArgument = None,
    summary: NewSummaryArgument = "",
    key: NewKeyArgument = "",
    message_key: MessageKeyArgument = "",
) -> Replies:
    """Ask several Letta agents or conversations the same at once. A slow or failing one holds up no other: each row has
    its own reply, status and ids; wait_for_reply fetches running ones."""
    services = services_of(ctx)
    targets = [
        *(Target(each.strip(), opens=True) for each in agents),
        *(Target(each.strip(), opens=False) for each in conversation_ids),
    ]
    _check(message, targets)
    check_text("summary", summary)
    key = check_key(key) if key else ""
    if not agents and (given := "summary" if summary else "key" if key else ""):
        raise InvalidArgument(given, "it is for conversations that are opened, and without agents none is.")
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    rows: list[ReplyRow | None] = [None] * len(targets)
    room = anyio.Semaphore(AT_ONCE)
    started = anyio.current_time()
    deadline, begin_until = started + seconds, started + max(seconds, START_SECONDS)
    news = anyio.Event()

    async def ask(place: int, target: Target) -> None:
        async with room:
            if place >= AT_ONCE and anyio.current_time() > begin_until:
                rows[place] = row_of(target, None, error=NOT_ASKED)
                return
            # A target named several times is asked as many times, with a key too.
            earlier = targets[:place].count(target)
            name = f"{message_key} {earlier + 1}" if message_key.strip() and earlier else message_key
            new = (summary, key) if target.opens else ("", "")
            identity = identity_of(ctx, "ask_many", target.name, name, message, target.opens, earlier, *new)
            destination = Destination(services, identity, summary=new[0], key=new[1])
            rows[place] = await _ask(services, target, message, deadline, destination)
        news.set()

    async def report_progress() -> None:
        nonlocal news
        report = reporter(ctx)
        while True:
            done = [row for row in rows if row is not None]
            latest = f", last {done[-1].to}" if done else ""
            await report(f"{len(done)} of {len(targets)} done{latest}")
            news = anyio.Event()
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await news.wait()

    async with anyio.create_task_group() as reporting:
        reporting.start_soon(report_progress)
        async with anyio.create_task_group() as asking:
            for place, target in enumerate(targets):
                asking.start_soon(ask, place, target)
        reporting.cancel_scope.cancel()
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


async def _ask(services: Services, target: Target, message: str, deadline: float, destination: Destination) -> ReplyRow:
    """Ask one target. Returns its reply, or its state at the deadline."""
    seconds = max(deadline - anyio.current_time(), 0.0)
    identity = destination.identity
    ref: ConversationRef | None = None

    async def prepare(known: ConversationRef | None) -> tuple[ConversationRef, OutgoingMessage]:
        nonlocal ref
        conversation_id, agent = ("", target.name) if target.opens else (target.name, "")
        ref = known or await destination.find(conversation_id, agent)
        return ref, OutgoingMessage(text=message)

    try:
        turn, sent = await services.scheduler.send_and_wait(Send(prepare, identity), seconds, no_report)
    except ConversationError as error:
        return row_of(target, ref, error=str(error))
    except Exception:
        # An unexpected failure of one must not lose the others' replies.
        logger.exception("asking %s failed unexpectedly", target.name)
        where = f"list_messages({ref.in_call})" if ref else "list_conversations"
        return row_of(target, ref, error=f"This failed inside the MCP server; look with {where} before asking again.")
    name = destination.agent_name or await agent_name(services.backend, sent.ref.agent_id)
    return row_of(target, sent.ref, turn, agent_name=name, message_key=key_of(sent, identity.key))


ASK_MANY_TOOLS = (ToolSpec(ask_many, title="Ask several Letta agents", destructive=True, open_world=True),)
