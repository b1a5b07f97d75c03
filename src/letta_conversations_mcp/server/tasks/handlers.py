"""The tools whose calls can become tasks, and how the outcome of such a call is found again.

A turn is found by its run at Letta, in any process and at any later time. A compaction has no run: the process that
requested it waits for it, every other process looks for its summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, cast

import anyio
from mcp_types import CallToolResult

from letta_conversations_mcp.conversations.compaction import count_in_context
from letta_conversations_mcp.conversations.lookup import locate
from letta_conversations_mcp.conversations.names import agent_name
from letta_conversations_mcp.conversations.transcript import RESERVED_CHARS, cut
from letta_conversations_mcp.core.errors import ConversationError, NotFound, Refused
from letta_conversations_mcp.core.model import ConversationRef, MessageQuery, Turn
from letta_conversations_mcp.core.times import parse_time
from letta_conversations_mcp.tools.ask_many import AT_ONCE
from letta_conversations_mcp.tools.base import Services
from letta_conversations_mcp.tools.calls import reply_of
from letta_conversations_mcp.tools.progress import no_report
from letta_conversations_mcp.tools.results.ask_many import ReplyRow, Target, collect, row_of
from letta_conversations_mcp.tools.results.context import Compacted
from letta_conversations_mcp.tools.results.result import Result
from letta_conversations_mcp.turns.turn import TrackedTurn

Trace = dict[str, Any]
"""What is needed to find the work of a call again, as JSON. It becomes part of the task's id."""

FETCH_SECONDS = 20.0
"""For the messages of a run that has ended."""

ERROR_CHARS = 200
"""Characters of an error that are kept in a task's id."""

RECENT_MESSAGES = 50
"""Messages searched for the summary of a compaction."""

CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far Letta's clock may be behind ours."""


@dataclass(frozen=True)
class TaskState:
    """The state of a call: working, with `words` for a person, or ended with a result."""

    status: Literal["working", "completed", "cancelled"]
    words: str = ""
    result: Result | None = None


class TaskHandler(Protocol):
    """A tool whose call may become a task."""

    goes_on_here: bool
    """True if this process goes on with the call itself. Otherwise the call returns and its work goes on at Letta."""

    def suits(self, arguments: Mapping[str, Any]) -> bool:
        """True if a call with these arguments can become a task."""
        ...

    async def trace(self, services: Services, arguments: Mapping[str, Any], result: CallToolResult | None) -> Trace:
        """How to find the unfinished work: the rest of what `result` reports or, for a call that continues here, all of
        it. Empty if nothing is left to do, or if it could not be found again."""
        ...

    async def check(self, services: Services, trace: Trace) -> None:
        """Raises NotFound if the current caller may not see the conversation of the call, or it is deleted."""
        ...

    async def find(self, services: Services, trace: Trace, since: datetime) -> TaskState:
        """The progress of a call made at `since`. Raises as `check` does, Refused if the work failed, and the backend's
        errors if it cannot be reached."""
        ...

    def stoppable(self, trace: Trace) -> Sequence[Mapping[str, str]]:
        """The arguments of `cancel` for everything that was started at Letta."""
        ...


class OneTurn:
    """A tool that answers with a Reply."""

    goes_on_here = False

    def suits(self, arguments: Mapping[str, Any]) -> bool:
        return True

    async def trace(self, services: Services, arguments: Mapping[str, Any], result: CallToolResult | None) -> Trace:
        data = _data(result)
        if data.get("status") != "running" or not data.get("run_id"):
            return {}
        return {name: data[name] for name in ("conversation_id", "agent_id", "run_id")} | {
            "kinds": arguments.get("kinds") or []
        }

    async def check(self, services: Services, trace: Trace) -> None:
        await _locate(services, trace)

    async def find(self, services: Services, trace: Trace, since: datetime) -> TaskState:
        ref = await _locate(services, trace)
        found = await _turn(services, ref, trace["run_id"])
        if isinstance(found, str):
            return TaskState("working", found)
        reply = await reply_of(services, found, ref, trace["kinds"])
        return TaskState("cancelled" if found.status == "cancelled" else "completed", result=reply)

    def stoppable(self, trace: Trace) -> Sequence[Mapping[str, str]]:
        return [_ref(trace).arguments | {"run_id": trace["run_id"]}]


class ManyTurns:
    """A tool that answers with Replies."""

    goes_on_here = False

    def suits(self, arguments: Mapping[str, Any]) -> bool:
        """Not with more targets than run at once: nothing would start the rest."""
        return sum(len(arguments.get(name) or ()) for name in ("agents", "conversation_ids")) <= AT_ONCE

    async def trace(self, services: Services, arguments: Mapping[str, Any], result: CallToolResult | None) -> Trace:
        rows = cast("list[dict[str, str]]", _data(result).get("replies", []))
        if not any(row["status"] == "running" for row in rows) or not all(
            row.get("run_id") or row["status"] == "error" for row in rows
        ):
            return {}
        kept = ("to", "conversation_id", "agent_id", "run_id", "error")
        return {"rows": [{name: cut(row[name], ERROR_CHARS) for name in kept if row.get(name)} for row in rows]}

    async def check(self, services: Services, trace: Trace) -> None:
        for row in trace["rows"]:
            if row.get("run_id"):
                await _locate(services, row)

    async def find(self, services: Services, trace: Trace, since: datetime) -> TaskState:
        asked: list[dict[str, str]] = trace["rows"]
        rows: dict[int, ReplyRow] = {}
        failures: list[ConversationError] = []
        room = anyio.Semaphore(AT_ONCE)

        async def look(place: int, row: dict[str, str]) -> None:
            target = Target(row["to"], opens=False)
            if not row.get("run_id"):
                rows[place] = row_of(
                    target, _ref(row) if row.get("conversation_id") else None, error=row.get("error", "")
                )
                return
            async with room:
                try:
                    ref = await _locate(services, row)
                    found = await _turn(services, ref, row["run_id"])
                except (NotFound, Refused) as error:
                    rows[place] = row_of(target, _ref(row) if row.get("conversation_id") else None, error=str(error))
                except ConversationError as error:
                    failures.append(error)
                else:
                    if isinstance(found, Turn):
                        name = await agent_name(services.backend, ref.agent_id)
                        rows[place] = row_of(target, ref, found, agent_name=name)

        async with anyio.create_task_group() as tasks:
            for place, row in enumerate(asked):
                tasks.start_soon(look, place, row)
        if failures:
            raise failures[0]
        if len(rows) < len(asked):
            return TaskState("working", f"{len(rows)} of {len(asked)} done")
        ordered = [rows[place] for place in range(len(asked))]
        stopped = all(row.status in ("cancelled", "error") for row in ordered)
        stopped = stopped and any(row.status == "cancelled" for row in ordered)
        replies = collect(ordered, services.settings.max_output_chars)
        return TaskState("cancelled" if stopped else "completed", result=replies)

    def stoppable(self, trace: Trace) -> Sequence[Mapping[str, str]]:
        return [_ref(row).arguments | {"run_id": row["run_id"]} for row in trace["rows"] if row.get("run_id")]


class Compaction:
    """The tool `compact`."""

    goes_on_here = True

    def suits(self, arguments: Mapping[str, Any]) -> bool:
        return True

    async def trace(self, services: Services, arguments: Mapping[str, Any], result: CallToolResult | None) -> Trace:
        ref = await locate(services.backend, arguments["conversation_id"], arguments.get("agent") or "")
        return ref.model_dump() | {"before": await count_in_context(services.backend, ref) or 0}

    async def check(self, services: Services, trace: Trace) -> None:
        await _locate(services, trace)

    async def find(self, services: Services, trace: Trace, since: datetime) -> TaskState:
        """Looks for the summary in the conversation, in a process that did not request the compaction."""
        ref = await _locate(services, trace)
        page = await services.backend.list_messages(ref, MessageQuery(limit=RECENT_MESSAGES))
        made = [each for each in page.items if each.kind == "summary" and _is_since(each.at, since)]
        if made:
            room = services.settings.max_output_chars - RESERVED_CHARS
            return TaskState(
                "completed",
                result=Compacted(
                    conversation_id=ref.conversation_id,
                    messages_before=trace["before"],
                    messages_after=await count_in_context(services.backend, ref) or 0,
                    summary=cut(made[-1].text, room),
                    note="The counts are of before the compaction and of now.",
                ),
            )
        if datetime.now(UTC) - since < timedelta(seconds=services.settings.compact_timeout):
            return TaskState(
                "working", "writing the summary, as far as can be told: it was asked for by another process"
            )
        raise Refused(
            "say what became of the compaction",
            "the process that asked for it has ended, and the conversation holds no summary of that time",
            "Nothing was lost. compact can be called again.",
        )

    def stoppable(self, trace: Trace) -> Sequence[Mapping[str, str]]:
        """Letta cannot stop a compaction."""
        return ()


TASK_HANDLERS: Mapping[str, TaskHandler] = {
    "send_message": OneTurn(),
    "respond_to_approval": OneTurn(),
    "ask_many": ManyTurns(),
    "compact": Compaction(),
}
"""By the name of the tool."""


def _data(result: CallToolResult | None) -> Mapping[str, Any]:
    return (result.structured_content if result else None) or {}


def _ref(trace: Mapping[str, str]) -> ConversationRef:
    return ConversationRef(conversation_id=trace["conversation_id"], agent_id=trace["agent_id"])


async def _locate(services: Services, trace: Mapping[str, str]) -> ConversationRef:
    """The conversation. Raises NotFound if the current caller cannot see it."""
    return await locate(services.backend, **_ref(trace).arguments)


async def _turn(services: Services, ref: ConversationRef, run_id: str) -> Turn | str:
    """The turn of a run, or a few words about what it is doing."""
    tracked = await services.scheduler.find(ref, run_id)
    # Letta is asked about a turn of this process too: the stream of one that another process stopped stays open until
    # the model's call ends.
    run = tracked.run or await services.backend.get_run(ref, run_id)
    if run.active:
        return tracked.doing
    turn = await services.scheduler.wait(TrackedTurn(ref, run=run), FETCH_SECONDS, no_report)
    return tracked.doing if turn.status == "running" else turn


def _is_since(at: str, since: datetime) -> bool:
    moment = parse_time(at)
    return moment is not None and moment >= since - CLOCK_TOLERANCE
