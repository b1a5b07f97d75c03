"""Turns as runs, found in the list of messages and in the reported state of the conversation's loop.

The protocol has no runs to query, so a turn is named after the message that began it, and read from the list.
"""

from __future__ import annotations

from collections.abc import Sequence

from anyio.abc import TaskGroup

from letta_conversations_mcp.backends.app_server.app_server_json import (
    attempts_of,
    is_only_reminder,
    with_otid,
    without_reminders,
    without_repeats,
)
from letta_conversations_mcp.backends.app_server.base import LOOK_SECONDS, LocalBase, ServerContext
from letta_conversations_mcp.backends.app_server.connection import Connection
from letta_conversations_mcp.backends.app_server.conversation_state import LoopState, read_state
from letta_conversations_mcp.backends.app_server.error_texts import STALLED, STUCK
from letta_conversations_mcp.backends.app_server.turn_stream import RUN_PREFIX
from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.core.message_json import calls_of, mappings, text_field, text_of
from letta_conversations_mcp.core.model import Chunk, ConversationRef, MessageQuery, Run, TurnFailure
from letta_conversations_mcp.settings import BackendSettings

TURN_MESSAGES = 200
"""How many of the newest messages are searched for a turn."""

TOOL_KINDS = frozenset({"tool_call_message", "tool_return_message", "approval_request_message"})

INTERRUPTED = "Interrupted by user"
"""What the server stores as the result of a call that was waiting when its turn was stopped."""

FORGOTTEN = TurnFailure(
    type="interrupted",
    message="The turn stopped at a tool call that waited for a decision, and the local server has forgotten the "
    "question, as it does when its last client leaves. The call was not run; another message goes on without it.",
)

CUT_OFF = TurnFailure(
    type="interrupted", message=f"The turn was broken off, and its reply may be a part. {STUCK}", stored=True
)

STOPPED_SHORT = TurnFailure(type="stalled", message=STALLED, stored=True)


class LocalRuns(LocalBase):
    """The operations that find turns again."""

    def __init__(
        self, server: ServerContext, tasks: TaskGroup, settings: BackendSettings, look_seconds: float = LOOK_SECONDS
    ) -> None:
        super().__init__(server, tasks, settings, look_seconds)
        self._stopped: set[str] = set()
        """The runs that this process has stopped."""

    async def _subscribed(self, ref: ConversationRef) -> Connection:
        connection = await self._open()
        await connection.subscribe(ref, self._mode)
        return connection

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        turns, state = await self._turns(ref)
        return [self._run(turn, turns, state) for turn in turns[: -limit - 1 : -1]]

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        """ "" always: the App Server takes no id twice, so a message that is handed over again shows its run."""
        return ""

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        turns, state = await self._turns(ref)
        for turn in turns:
            if is_of(turn, run_id):
                return self._run(turn, turns, state).model_copy(update={"id": run_id})
        raise NotFound.run(run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        chunks, _ = await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES))
        turns = turns_of(chunks)
        found = [turn for turn in turns if is_of(turn, run_id)]
        if not found:
            return []
        newest = found[0] is turns[-1]
        return shown(found[0], await self._state(ref) if newest else None)

    def _run(self, turn: list[Chunk], turns: list[list[Chunk]], state: LoopState) -> Run:
        run = run_of(turn, state if turn is turns[-1] else None, self._settings.silence_timeout)
        if run.status == "failed" and run.id in self._stopped:
            # What is stored of a turn that was stopped before its first words looks the same as for a broken one.
            return Run(id=run.id, status="cancelled", stop_reason="cancelled")
        return run

    async def _state(self, ref: ConversationRef) -> LoopState:
        return await read_state(await self._open(), ref)

    async def _turns(self, ref: ConversationRef) -> tuple[list[list[Chunk]], LoopState]:
        """The newest turns, oldest first, and the state of the last of them."""
        query = MessageQuery(limit=TURN_MESSAGES)
        turns = turns_of((await self._list_chunks(ref, query))[0])
        state = await self._state(ref)
        if turns and self._run(turns[-1], turns, state).status == "failed" and not state.active:
            # A restarted server resumes a broken turn when a client subscribes to its conversation. The turn may also
            # have ended well after it was listed and before the state was reported.
            state = await read_state(await self._subscribed(ref), ref)
            newest = run_id_of(turns[-1])
            turns = turns_of((await self._list_chunks(ref, query))[0])
            ends = [place for place, turn in enumerate(turns, 1) if is_of(turn, newest)]
            turns = turns[: ends[-1]] if ends else turns
        return turns, state

    async def _list_chunks(self, ref: ConversationRef, query: MessageQuery) -> tuple[list[Chunk], bool]:
        """Oldest first, and whether there may be more. The server finds the agent itself if `ref` names none."""
        cursors = {"before": query.before, "after": query.after}
        wanted = {"agent_id": ref.agent_id, "limit": query.limit, "order": query.order, **cursors}
        answer = await self._read(
            "conversation_messages_list",
            what="list the messages",
            conversation_id=ref.conversation_id,
            query={key: value for key, value in wanted.items() if value},
        )
        chunks: list[Chunk] = [with_otid(without_reminders(each)) for each in mappings(answer.get("messages"))]
        more = len({text_field(each, "id") for each in chunks}) >= query.limit
        chunks = [each for each in chunks if not is_only_reminder(each)]
        return with_run_ids(without_repeats(chunks[::-1] if query.order == "desc" else chunks)), more


def turns_of(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Listed messages, oldest first, by turn: each begins with a user's message."""
    turns: list[list[Chunk]] = []
    for chunk in chunks:
        if chunk.get("message_type") == "user_message":
            turns.append([chunk])
        elif turns:
            turns[-1].append(chunk)
    return turns


def run_id_of(turn: Sequence[Chunk]) -> str:
    """The protocol has no runs to ask for, so a turn is named after the message that began it."""
    return RUN_PREFIX + (text_field(turn[0], "otid") or text_field(turn[0], "id"))


def with_run_ids(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Listed messages, oldest first, each with the id of its turn's run: "" for those of a turn whose beginning is not
    listed."""
    run_id = ""
    named: list[Chunk] = []
    for chunk in chunks:
        if chunk.get("message_type") == "user_message":
            run_id = run_id_of([chunk])
        named.append({**chunk, "run_id": run_id})
    return named


def is_of(turn: Sequence[Chunk], run_id: str) -> bool:
    """True if a run is this turn's: the server stores a message again, with another id, when it tries again."""
    return run_id == run_id_of(turn) or run_id.removeprefix(RUN_PREFIX) in attempts_of(turn[0])


def run_of(turn: Sequence[Chunk], state: LoopState | None, silence_seconds: float) -> Run:
    """A turn in the list of messages as a run; `state` is that of its conversation if it is the newest turn.

    One without an answer was stopped in the middle, or failed. One without a run at the server was broken off before
    its first words. One whose answer stalls for `silence_seconds` has failed."""
    run_id = run_id_of(turn)
    if state is not None and state.pending:
        return Run(id=run_id, status="completed", stop_reason="requires_approval")
    if state is not None and state.active and state.silent_seconds > silence_seconds:
        return Run(id=run_id, status="failed", stop_reason="error", failure=STOPPED_SHORT)
    if state is not None and state.active:
        return Run(id=run_id, status="running")
    if turn[-1].get("message_type") == "approval_request_message":
        return Run(id=run_id, status="failed", stop_reason="error", failure=FORGOTTEN)
    if INTERRUPTED in text_of(turn[-1].get("tool_return")):
        return Run(id=run_id, status="cancelled", stop_reason="cancelled")
    if any(text_of(chunk.get("content")) or chunk.get("message_type") in TOOL_KINDS for chunk in turn[1:]):
        if (
            state is not None
            and state.taken
            and state.taken.isdisjoint([*attempts_of(turn[0]), text_field(turn[0], "otid")])
        ):
            return Run(id=run_id, status="failed", stop_reason="error", failure=CUT_OFF)
        return Run(id=run_id, status="completed", stop_reason="end_turn")
    words = "The turn ended without an answer: it was stopped, or the local server was."
    failure = TurnFailure(type="interrupted", message=words, stored=True)
    return Run(id=run_id, status="failed", stop_reason="error", failure=failure)


def shown(turn: Sequence[Chunk], state: LoopState | None) -> list[Chunk]:
    """A turn's messages, with only those calls as requests that wait for a decision that really do: the server lists
    every call as one."""
    pending = {request.call.id for request in state.pending} if state else set[str]()
    chunks: list[Chunk] = []
    for chunk in turn:
        ids = {text_field(each, "tool_call_id") for each in calls_of(chunk)}
        is_call = chunk.get("message_type") == "approval_request_message" and not ids & pending
        chunks.append({**chunk, "message_type": "tool_call_message"} if is_call else chunk)
    return chunks
