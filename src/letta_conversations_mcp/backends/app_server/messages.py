"""The turns of the App Server: handing over messages and decisions, following, stopping, and finding them again.

The protocol has no runs, so a turn is told by the message that began it (see `turn`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from letta_conversations_mcp.backends.app_server.app_server_json import (
    is_only_reminder,
    without_reminders,
    without_repeats,
)
from letta_conversations_mcp.backends.app_server.base import LocalBase
from letta_conversations_mcp.backends.app_server.connection import Connection, Frame, Frames, received
from letta_conversations_mcp.backends.app_server.conversation_state import (
    ControlRequest,
    LoopState,
    answer,
    read_state,
    scope,
)
from letta_conversations_mcp.backends.app_server.turn_stream import (
    RUN_PREFIX,
    TurnReader,
    is_of,
    run_id_of,
    run_of,
    shown,
    turns_of,
    with_run_ids,
)
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
    Approvals,
    Chunk,
    ConversationRef,
    Decision,
    MessageQuery,
    Outgoing,
    OutgoingMessage,
    Run,
    ToolCall,
)

NOT_OFFERED = "Tools on this machine are not offered here."

TURN_MESSAGES = 200
"""Messages looked through to find a turn again, the newest."""


class LocalTurns(LocalBase):
    """The verbs that begin, follow, stop and find a turn."""

    @asynccontextmanager
    async def send(self, ref: ConversationRef, message: OutgoingMessage) -> AsyncGenerator[AsyncIterator[Chunk]]:
        if message.model or message.max_steps is not None:
            raise Refused(
                "take this message",
                "the local backend has no model and no max_steps for a single message",
                "Nothing was sent; leave them out.",
            )
        connection = await self._subscribed(ref)
        state = await read_state(connection, ref)
        # The server would take it, and put it into the turn after the decision, or make one turn of all that wait.
        if self._tools != "off" and state.pending:
            raise AwaitingApproval(ref.conversation_id)
        if state.active:
            newest = await self.list_runs(ref, limit=1)
            raise Busy(ref.conversation_id, newest[0].id if newest and newest[0].active else "")
        with connection.listen(ref) as frames:
            started = await self._hand_over(connection, ref, message)
            yield self._chunks(connection, ref, frames, TurnReader(RUN_PREFIX + message.otid, started=started))

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        return [request.call for request in (await read_state(await self._subscribed(ref), ref)).pending]

    @asynccontextmanager
    async def respond(self, ref: ConversationRef, approvals: Approvals) -> AsyncGenerator[AsyncIterator[Chunk]]:
        connection = await self._subscribed(ref)
        pending = (await read_state(connection, ref)).pending
        check_pending(ref.conversation_id, [request.call for request in pending], approvals)
        turns = turns_of((await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES)))[0])
        reader = TurnReader(run_id_of(turns[-1]) if turns else "", started=True)
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
        """Stops a turn that waits for a decision too."""
        runs = await self.list_runs(ref, limit=TURN_MESSAGES)
        if run_id and run_id not in [run.id for run in runs]:
            raise NotFound.run(run_id)
        connection = await self._subscribed(ref)
        state = await read_state(connection, ref)
        if not (state.active or state.pending) or (run_id and run_id != runs[0].id):
            return ()
        stopped = await connection.request("abort_message", what="stop the turn", runtime=scope(ref))
        return [run.id for run in runs[:1]] if stopped.get("aborted") is True else ()

    def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        raise NotResumable

    async def _subscribed(self, ref: ConversationRef) -> Connection:
        connection = await self._open()
        await connection.subscribe(ref, self._mode)
        return connection

    async def _hand_over(self, connection: Connection, ref: ConversationRef, message: OutgoingMessage) -> bool:
        """Whether the turn has begun at once, or waits behind another. Raises StreamLost when nothing is sure."""
        parts: list[dict[str, object]] = [{"type": "text", "text": message.text}] if message.text else []
        for image in message.images:
            source = (
                {"type": "url", "url": image.url}
                if image.url
                else {"type": "base64", "media_type": image.media_type, "data": image.data}
            )
            parts.append({"type": "image", "source": source})
        content: object = parts if message.images else message.text
        payload: dict[str, object] = {
            "kind": "create_message",
            # The server keeps this id for ever, and drops a second message with it in silence.
            "messages": [{"role": "user", "content": content, "client_message_id": message.otid}],
            **self._offers,
        }
        try:
            answer = await connection.request("input", what="take the message", runtime=scope(ref), payload=payload)
        except Refused:
            raise
        except ConversationError as error:
            raise StreamLost(str(error)) from error
        return answer.get("disposition") != "queued"

    async def _chunks(
        self, connection: Connection, ref: ConversationRef, frames: Frames, reader: TurnReader, *before: Chunk
    ) -> AsyncIterator[Chunk]:
        yield {"message_type": "ping", "run_id": reader.run_id}
        for chunk in before:
            yield chunk
        while not reader.ended:
            for frame in await self._next(connection, ref, frames):
                for chunk in await self._read_frame(connection, ref, reader, frame):
                    yield chunk

    async def _read_frame(
        self, connection: Connection, ref: ConversationRef, reader: TurnReader, frame: Frame
    ) -> Iterable[Chunk]:
        if reader.ended:
            return ()
        if frame.get("type") != "control_request":
            return reader.read(frame)
        request = ControlRequest.of(frame)
        if self._tools != "off":
            return reader.stop_at(request.call)
        # Nobody was offered tools, and while the question is open the conversation is stuck.
        denial = Decision(tool_call_id=request.call.id, approve=False, reason=NOT_OFFERED)
        await answer(connection, ref, request.id, denial)
        return ()

    async def _next(self, connection: Connection, ref: ConversationRef, frames: Frames) -> Sequence[Frame]:
        """What comes next of a turn; after a while of silence, what comes when the server is asked whether one runs.

        It says nothing by itself while a model thinks, and nothing either of a message that it had before and has
        dropped. Raises StreamLost when no turn runs, when the server is silent, and when the connection breaks.
        """
        bounds = self._bounds
        try:
            with anyio.fail_after(bounds.silence_seconds):
                with anyio.move_on_after(bounds.look_seconds):
                    return [await frames.receive()]
                state = await read_state(connection, ref)
        except TimeoutError as error:
            raise StreamLost(f"silence for {bounds.silence_seconds:g} s") from error
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            raise StreamLost("the connection to the App Server broke") from error
        except ConversationError as error:
            raise StreamLost(str(error)) from error
        arrived = received(frames)
        # The turn may have ended while this was asked.
        if not (state.active or state.pending or any(each.get("type") == "turn_finished" for each in arrived)):
            raise StreamLost("the App Server runs no turn here")
        return arrived

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        turns, state = await self._turns(ref)
        return [run_of(turn, state if turn is turns[-1] else None) for turn in turns[: -limit - 1 : -1]]

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        """The App Server takes no id twice: a message that is handed over again shows its run."""
        return ""

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        turns, state = await self._turns(ref)
        for turn in turns:
            if is_of(turn, run_id):
                return run_of(turn, state if turn is turns[-1] else None).model_copy(update={"id": run_id})
        raise NotFound.run(run_id)

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        chunks, _ = await self._list_chunks(ref, MessageQuery(limit=TURN_MESSAGES))
        turns = turns_of(chunks)
        found = [turn for turn in turns if is_of(turn, run_id)]
        if not found:
            return []
        newest = found[0] is turns[-1]
        return shown(found[0], await read_state(await self._subscribed(ref), ref) if newest else None)

    async def _turns(self, ref: ConversationRef) -> tuple[list[list[Chunk]], LoopState]:
        """The newest turns, oldest first, and the state of the last of them."""
        query = MessageQuery(limit=TURN_MESSAGES)
        turns = turns_of((await self._list_chunks(ref, query))[0])
        state = await read_state(await self._subscribed(ref), ref)
        if turns and run_of(turns[-1], state).status == "failed":
            # It may have ended well after it was listed and before the state was told.
            newest = run_id_of(turns[-1])
            turns = turns_of((await self._list_chunks(ref, query))[0])
            ends = [place for place, turn in enumerate(turns, 1) if is_of(turn, newest)]
            turns = turns[: ends[-1]] if ends else turns
        return turns, state

    async def _list_chunks(self, ref: ConversationRef, query: MessageQuery) -> tuple[list[Chunk], bool]:
        wanted = {"agent_id": ref.agent_id, "limit": query.limit, "order": query.order}
        cursors = {key: value for key, value in (("before", query.before), ("after", query.after)) if value}
        answer = await self._read(
            "conversation_messages_list",
            what="list the messages",
            conversation_id=ref.conversation_id,
            query=wanted | cursors,
        )
        chunks: list[Chunk] = [without_reminders(each) for each in mappings(answer.get("messages"))]
        more = len({text_field(each, "id") for each in chunks}) >= query.limit
        chunks = [each for each in chunks if not is_only_reminder(each)]
        return with_run_ids(without_repeats(chunks[::-1] if query.order == "desc" else chunks)), more
