"""One turn while the chat waits for it: on the screen as it grows, and found again when Letta was away.

The reply comes from the call of the tool. Its growth is read from the turn that this process follows, which is the same
that the call waits for.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from time import monotonic
from typing import Any

import anyio
from rich.console import RenderableType

from letta_conversations_mcp.cli.chat.connection import Connection, ToolFailed
from letta_conversations_mcp.cli.chat.entries import Folds, Note, Unfolded
from letta_conversations_mcp.cli.chat.formatting import lasted, one_line
from letta_conversations_mcp.cli.chat.place import Place
from letta_conversations_mcp.cli.chat.screen import Screen
from letta_conversations_mcp.cli.chat.turn_display import Seen, TurnDisplay
from letta_conversations_mcp.core.model import ToolCall
from letta_conversations_mcp.tools.results.reply import UNCONFIRMED, Reply
from letta_conversations_mcp.turns.turn import State, TrackedTurn

FRAME_SECONDS = 0.05
"""Pause between two redraws of a reply that grows."""

TICK_SECONDS = 0.25
"""Pause between two redraws of one that does not: its clock runs on."""

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Pauses before retries while Letta cannot be reached; the last one repeats."""

TRACELESS = 3
"""How many times Letta is asked for a message that it may not have received."""

COMMAND_OF = {"list_messages": "/history", "cancel": "/cancel", "wait_for_reply": "/switch"}
_CALL = re.compile(rf"({'|'.join(COMMAND_OF)})\([^)]*\)")


class RunningTurn:
    """A turn in a conversation. `doing` is what is said of one that was begun elsewhere."""

    def __init__(self, place: Place, connection: Connection, screen: Screen, *, doing: str = "") -> None:
        self.place = place
        self.display = TurnDisplay(place.agent, datetime.now().astimezone().strftime("%H:%M"), monotonic)
        self.live: RenderableType | None = None
        self.is_watched = True
        """False once the person has stopped waiting."""
        self.is_here = True
        """False once the person has gone to another conversation."""
        self._connection = connection
        self._screen = screen
        self._began = monotonic()
        self._given_doing = doing
        self._trouble = ""
        self._tracked: TrackedTurn | None = None

    @property
    def doing(self) -> str:
        """What happens, in words, with the seconds since it began."""
        if self._trouble:
            return self._trouble
        doing = self._given_doing or (self._tracked.doing if self._tracked else "handing the message over")
        return f"{one_line(doing, 40)}, {lasted(max(monotonic() - self._began, 1))}"

    @property
    def hint(self) -> str:
        return "Ctrl-C stops waiting" if self.is_watched else "/cancel stops it"

    @property
    def run_id(self) -> str:
        return self._tracked.run_id if self._tracked else ""

    @property
    def is_handed_over(self) -> bool:
        """True if Letta may have the message."""
        return self._tracked is not None and self._tracked.state is not State.QUEUED

    async def run(self, send: Callable[[], Awaitable[Reply]]) -> Reply:
        """Send, and wait as long as it takes. Raises ToolFailed when nothing was sent."""
        self._connection.on_sent(self._track)
        failure: ToolFailed | None = None
        reply: Reply | None = None
        async with anyio.create_task_group() as growing:
            growing.start_soon(self._grow)
            try:
                reply = await send()
                if reply.status in UNCONFIRMED:
                    reply = await self.wait_for(reply)
            except ToolFailed as error:
                failure = error
            growing.cancel_scope.cancel()
        # Raised out here: the task group would wrap it.
        if failure is not None:
            raise failure
        assert reply is not None  # noqa: S101 - the task group ends with one of the two
        return reply

    async def wait_for(self, reply: Reply | None = None, *, run_id: str = "") -> Reply:
        """Wait for the end of a turn that Letta has, or may have, however long it is away. Raises ToolFailed."""
        failures = traceless = 0
        while True:
            key = reply.message_key if reply else ""
            named = (reply.run_id if reply else "") or run_id
            wanted: dict[str, Any] = {"run_id": named} if named else {"message_key": key} if key else {}
            try:
                latest = await self._connection.call(
                    "wait_for_reply",
                    Reply,
                    **self.place.address,
                    **wanted,
                    kinds=["reasoning", "tool"],
                    wait_seconds=3600,
                )
            except ToolFailed as error:
                if not error.passing:
                    raise
                self._trouble = "Letta cannot be reached, trying again"
                self._screen.refresh()
                await anyio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1
                continue
            self._trouble, failures = "", 0
            if latest.status not in UNCONFIRMED:
                return latest
            if not latest.run_id:
                traceless += 1
                if traceless >= TRACELESS:
                    return latest
            reply = latest

    def stop_watching(self) -> None:
        """The person does not wait any more. The turn goes on, and its reply is shown when it is there."""
        self.is_watched = False
        self.live = None

    def leave(self) -> None:
        """The person has gone elsewhere."""
        self.stop_watching()
        self.is_here = False

    def rest(self, reply: Reply, *, unfold: bool) -> list[RenderableType]:
        """What was not shown yet of a turn that has ended, and how it ended."""
        entries = self.display.finish(_seen_of(reply))
        if unfold:
            entries = [
                shown
                for each in entries
                for shown in (map(Unfolded, each.folds) if isinstance(each, Folds) else [each])
            ]
        if words := _ending(reply):
            entries.append(Note(words, "error" if reply.status == "failed" else "warning"))
        return entries

    def _track(self, turn: TrackedTurn) -> None:
        self._tracked = self._tracked or turn

    async def _grow(self) -> None:
        while True:
            turn = self._tracked
            if turn is not None and self.is_watched:
                so_far = turn.builder.build()
                growth = self.display.look(Seen(so_far.reply, so_far.reasoning, so_far.tool_calls))
                self.live = growth.live
                # What was counted as shown must be shown, also when the turn ends meanwhile.
                with anyio.CancelScope(shield=True):
                    await self._screen.show(growth.entries, growth.live)
            self._screen.refresh()
            with anyio.move_on_after(TICK_SECONDS):
                await (turn.changed() if turn is not None else anyio.sleep(FRAME_SECONDS))
            await anyio.sleep(FRAME_SECONDS)


def _seen_of(reply: Reply) -> Seen:
    calls = [
        ToolCall(name=row.name, arguments=row.arguments, status=row.status, result=row.result)
        for row in reply.tool_calls
        if row.status != "waiting"
    ]
    return Seen(reply.reply or reply.reply_so_far, reply.reasoning, calls)


def _ending(reply: Reply) -> str:
    """How a turn ended, when its text alone does not say it."""
    match reply.status:
        case "cancelled":
            return "The turn was stopped. What the agent did before stays done."
        case "not_confirmed" | "unknown":
            return "Letta has no trace of this message. /history shows what it has; if it is not there, send it again."
        case "failed":
            return _CALL.sub(lambda call: COMMAND_OF[call[1]], " ".join(filter(None, [reply.note, reply.next])))
        case _:
            return _CALL.sub(lambda call: COMMAND_OF[call[1]], reply.note)
