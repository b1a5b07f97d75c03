"""The operations on a turn: handing over messages and decisions, following the turn, and stopping it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.backends.app_server.base import LOOK_SECONDS, ServerContext
from letta_conversations_mcp.backends.app_server.connection import Connection, Frame, Frames, received
from letta_conversations_mcp.backends.app_server.conversation_state import (
    ControlRequest,
    LoopState,
    answer,
    read_state,
    scope,
)
from letta_conversations_mcp.backends.app_server.error_texts import STALLED, STUCK
from letta_conversations_mcp.backends.app_server.hand_over import Outcome, hand_over
from letta_conversations_mcp.backends.app_server.runs import TURN_MESSAGES, LocalRuns, run_id_of, turns_of
from letta_conversations_mcp.backends.app_server.turn_lock import turn_lock
from letta_conversations_mcp.backends.app_server.turn_stream import RUN_PREFIX, TurnReader
from letta_conversations_mcp.conversations.approvals import calls_chunk, check_pending
from letta_conversations_mcp.core.backend import NotResumable, StreamLost
from letta_conversations_mcp.core.errors import (
    AwaitingApproval,
    Busy,
    ConversationError,
    NotFound,
    NothingPending,
    Refused,
)
from letta_conversations_mcp.core.message_json import mappings, text_field
from letta_conversations_mcp.core.model import (
    DEFAULT_CONVERSATION,
    Approvals,
    Chunk,
    ConversationRef,
    Decision,
    MessageQuery,
    Outgoing,
    OutgoingMessage,
    ToolCall,
)
from letta_conversations_mcp.settings import BackendSettings

NOT_OFFERED = "Tools on this machine are not offered here."

CONFLICT_SECONDS = 0.5
"""How long a turn that has just ended may still occupy its conversation before it counts as stuck."""

MOST_ATTEMPTS = 20
"""Ids to try for a message that the server seems to know although nothing is stored."""


class LocalMessages(LocalRuns):
    """The operations that begin, follow and stop a turn."""

    def __init__(
        self, server: ServerContext, tasks: TaskGroup, settings: BackendSettings, look_seconds: float = LOOK_SECONDS
    ) -> None:
        super().__init__(server, tasks, settings, look_seconds)
        self._attempts: dict[str, int] = {}
        """How many ids were used up for each message whose turn could not begin yet."""
        self._holder: ConversationRef | None = None
        """The conversation `default` that last blocked another agent's."""

    async def check_message(self, message: OutgoingMessage) -> None:
        if message.model or message.max_steps is not None:
            raise Refused(
                "take this message",
                "the local backend has no model and no max_steps for a single message",
                "Nothing was sent; leave them out.",
            )
        if any(image.url for image in message.images):
            # The server accepts it, but the model never sees it (0.34.12).
            raise Refused(
                "take an image by its URL",
                "agents on this machine do not fetch it",
                "Nothing was sent; give the image itself, as data:image/png;base64,…",
            )

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        connection = await self._subscribed(ref)
        async with turn_lock(connection.lock_folder, ref) as release:
            await self._check_free(connection, ref)
            with connection.listen(ref) as frames:
                reader, early = await self._begin(connection, ref, message, frames)
                # The conversations `default` of all agents block each other, and an agent's state does not show
                # another's turn.
                if ref.conversation_id != DEFAULT_CONVERSATION:
                    release()
                yield self._chunks(connection, ref, frames, reader, *early)

    async def _check_free(self, connection: Connection, ref: ConversationRef) -> None:
        """Raises AwaitingApproval, Busy, or Refused if the conversation's turn is stuck."""
        state = LoopState(active=False) if await connection.is_settled(ref) else await read_state(connection, ref)
        # The server would accept it and answer it after the decision, in one turn with all others that wait.
        if self._settings.local_tools != "off" and state.pending:
            raise AwaitingApproval(ref.conversation_id)
        if state.silent_seconds > self._settings.silence_timeout:
            raise Refused("take the message", "a turn is stuck here", f"Nothing was sent. {STALLED}")
        if state.active:
            newest = await self.list_runs(ref, limit=1)
            raise Busy(ref.conversation_id, newest[0].id if newest and newest[0].active else "")
        if ref.conversation_id == DEFAULT_CONVERSATION and self._holder is not None:
            if (await read_state(connection, self._holder)).active:
                raise Busy(ref.conversation_id)
            self._holder = None

    async def _begin(
        self, connection: Connection, ref: ConversationRef, message: OutgoingMessage, frames: Frames
    ) -> tuple[TurnReader, list[Chunk]]:
        """Hand the message over until its turn has begun.

        Raises Busy if another turn blocks it, Refused if something else does, and StreamLost if the server has, or may
        have, the message already.
        """
        had_conflict = False
        while True:
            attempt = self._attempts.get(message.otid, 1)
            reader = TurnReader(RUN_PREFIX + message.otid)
            early: list[Chunk] = []
            outcome = await hand_over(connection, ref, message, attempt, self._offers, frames, reader, early)
            match outcome:
                case Outcome.BEGUN:
                    self._attempts.pop(message.otid, None)
                    return reader, early
                case Outcome.WITHDRAWN:
                    raise Busy(ref.conversation_id)
                case Outcome.CONFLICT:
                    self._attempts[message.otid] = attempt + 1
                    if await self._is_held(connection, ref):
                        raise Busy(ref.conversation_id)
                    if had_conflict:
                        words = f"Conversation {ref.conversation_id} already has an active run"
                        raise Refused("take the message", words, f"Nothing was sent. {STUCK}")
                    # The other turn may have ended since.
                    had_conflict = True
                    await anyio.sleep(CONFLICT_SECONDS)
                case Outcome.DROPPED:
                    if attempt == MOST_ATTEMPTS or await self._may_have(ref, message.otid):
                        raise StreamLost("the App Server has had this message before, and runs no turn here")
                    self._attempts[message.otid] = attempt + 1

    async def _is_held(self, connection: Connection, ref: ConversationRef) -> bool:
        """True if a turn runs whose end releases this conversation: its own or, for `default`, that of any agent's
        `default`."""
        places = [ref]
        if ref.conversation_id == DEFAULT_CONVERSATION:
            listed = await self._read("agent_list", what="list the agents", query={"limit": 1000})
            ids = [text_field(each, "id") for each in mappings(listed.get("agents"))]
            places = [ref.model_copy(update={"agent_id": agent_id}) for agent_id in ids]
        for place in places:
            if (await read_state(connection, place)).active:
                self._holder = place if place != ref else None
                return True
        return False

    async def _may_have(self, ref: ConversationRef, otid: str) -> bool:
        """True if the message is stored, or may be among those that are no longer listed."""
        chunks, more = await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES))
        kinds = {text_field(each, "message_type") for each in chunks}
        return more or "summary_message" in kinds or otid in [text_field(each, "otid") for each in chunks]

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        return [request.call for request in (await self._state(ref)).pending]

    @asynccontextmanager
    async def respond(self, ref: ConversationRef, approvals: Approvals) -> AsyncGenerator[AsyncIterator[Chunk]]:
        connection = await self._subscribed(ref)
        pending = (await read_state(connection, ref)).pending
        check_pending(ref.conversation_id, [request.call for request in pending], approvals)
        turns = turns_of((await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES)))[0])
        reader = TurnReader(run_id_of(turns[-1]) if turns else "", begun=True)
        decisions = {each.tool_call_id: each for each in approvals.decisions}
        with connection.listen(ref) as frames:
            for request in pending:
                try:
                    await answer(connection, ref, request.id, decisions[request.call.id])
                except Refused as error:
                    raise NothingPending(ref.conversation_id) from error
                except ConversationError as error:
                    raise StreamLost(str(error)) from error
            yield self._chunks(connection, ref, frames, reader, calls_chunk(approvals.calls))

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        """Stops a turn that waits for a decision, too. Reads the messages only if the server does not report which turn
        runs: after a full disk they may be unreadable, and the turn must be stopped nevertheless."""
        connection = await self._subscribed(ref)
        state = await read_state(connection, ref)
        runs_now = state.active or bool(state.pending)
        current = RUN_PREFIX + state.current if runs_now and state.current else ""
        if run_id and run_id != current:
            runs = await self.list_runs(ref, limit=TURN_MESSAGES)
            if run_id not in [run.id for run in runs]:
                raise NotFound.run(run_id)
            if current or run_id != runs[0].id:
                return ()
            current = run_id
        if not runs_now:
            return ()
        if not current:
            current = next(iter([run.id for run in await self.list_runs(ref, limit=1)]), RUN_PREFIX)
        stopped = await connection.request("abort_message", what="stop the turn", runtime=scope(ref))
        if stopped.get("aborted") is not True:
            return ()
        self._stopped.add(current)
        return [current]

    def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        raise NotResumable

    async def _chunks(
        self, connection: Connection, ref: ConversationRef, frames: Frames, reader: TurnReader, *before: Chunk
    ) -> AsyncIterator[Chunk]:
        yield {"message_type": "ping", "run_id": reader.run_id}
        for chunk in before:
            yield chunk
        while not reader.ended:
            arrived, stalled = await self._next(connection, ref, frames)
            for frame in arrived:
                for chunk in await self._read_frame(connection, ref, reader, frame):
                    yield chunk
            if stalled and reader.begun and not reader.ended:
                for chunk in reader.give_up():
                    yield chunk

    async def _read_frame(
        self, connection: Connection, ref: ConversationRef, reader: TurnReader, frame: Frame
    ) -> Iterable[Chunk]:
        if reader.ended:
            return ()
        if frame.get("type") != "control_request":
            return reader.read(frame)
        request = ControlRequest.of(frame)
        if self._settings.local_tools != "off":
            return reader.stop_at(request.call)
        # No tools were offered, and an open question blocks the conversation.
        denial = Decision(tool_call_id=request.call.id, approve=False, reason=NOT_OFFERED)
        await answer(connection, ref, request.id, denial)
        return ()

    async def _next(self, connection: Connection, ref: ConversationRef, frames: Frames) -> tuple[Sequence[Frame], bool]:
        """The next frame of a turn, and True if its answer has stalled. After a while of silence the server is asked
        whether a turn runs: it sends nothing by itself while a model thinks, nor about a message that it knew before
        and has dropped.

        Raises StreamLost when no turn runs, when the server is silent, and when the connection breaks.
        """
        silence_timeout = self._settings.silence_timeout
        try:
            with anyio.move_on_after(min(self._look_seconds, silence_timeout)):
                return [await frames.receive()], False
            with anyio.fail_after(silence_timeout):
                state = await read_state(connection, ref)
        except TimeoutError as error:
            raise StreamLost(f"silence for {silence_timeout:g} s") from error
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            raise StreamLost("the connection to the App Server broke") from error
        except ConversationError as error:
            raise StreamLost(str(error)) from error
        arrived = received(frames)
        # The turn may have ended while this was asked.
        if not (state.active or state.pending or any(each.get("type") == "turn_finished" for each in arrived)):
            raise StreamLost("the App Server runs no turn here")
        return arrived, state.silent_seconds > silence_timeout
