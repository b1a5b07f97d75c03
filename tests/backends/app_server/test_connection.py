"""What a connection knows of a conversation from the frames that the App Server sends by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic_core import from_json, to_json
from websockets.asyncio.server import ServerConnection, serve

from letta_conversations_mcp.backends.app_server.connection import NEEDED, Connection, Frame, open_connection
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.core.model import ConversationRef

HERE = ConversationRef(conversation_id="conv-1", agent_id="agent-1")
RUNTIME: Frame = {"conversation_id": HERE.conversation_id, "agent_id": HERE.agent_id}
ENDED: Frame = {"type": "turn_finished", "runtime": RUNTIME}
AT_REST: Frame = {"type": "update_device_status", "runtime": RUNTIME, "device_status": {"pending_control_requests": []}}
ASKS: Frame = {
    "type": "update_device_status",
    "runtime": RUNTIME,
    "device_status": {"pending_control_requests": [{"request_id": "1"}]},
}
QUESTION: Frame = {"type": "control_request", "runtime": RUNTIME, "request_id": "1"}
BEGINS: Frame = {"type": "update_loop_status", "runtime": RUNTIME, "loop_status": {"status": "SENDING_API_REQUEST"}}
QUEUED: Frame = {"type": "update_queue", "runtime": RUNTIME, "queue": [{"id": "1"}]}
ELSEWHERE: Frame = {**RUNTIME, "conversation_id": "conv-2"}

CASES: list[tuple[list[Frame], bool]] = [
    ([], False),
    ([ENDED], True),
    ([BEGINS, ENDED, AT_REST], True),
    ([ENDED, BEGINS], False),
    ([ENDED, QUEUED], False),
    ([ENDED, QUESTION], False),
    ([ENDED, ASKS], False),
    ([{**ENDED, "runtime": ELSEWHERE}], False),
    ([ENDED, {**BEGINS, "runtime": ELSEWHERE}], True),
]


class Server:
    """An App Server that tells its version and, before each answer, the next of these frames."""

    def __init__(self, *says: Sequence[Frame]) -> None:
        self._says = list(says)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Connection]:
        async with serve(self._answer, "127.0.0.1", 0) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            server = AppServer(f"ws://127.0.0.1:{port}", token="")
            async with open_connection(server, connect_seconds=10, request_seconds=10) as connection:
                yield connection

    async def _answer(self, socket: ServerConnection) -> None:
        async for data in socket:
            asked = from_json(data)
            for frame in self._says.pop(0) if self._says else ():
                await socket.send(to_json(frame).decode())
            answer: dict[str, Any] = {
                "type": "app_server_info_response",
                "request_id": asked["request_id"],
                "protocol_version": 1,
                "capabilities": dict.fromkeys(NEEDED, True),
            }
            await socket.send(to_json(answer).decode())


@pytest.mark.parametrize(("frames", "settled"), CASES)
async def test_a_conversation_is_settled_when_its_turn_has_ended_and_nothing_began_since(
    frames: Sequence[Frame], settled: bool
) -> None:
    async with Server(frames).connected() as connection:
        assert await connection.is_settled(HERE) is settled


async def test_a_turn_that_has_just_begun_is_noticed_before_the_conversation_is_called_settled() -> None:
    async with Server([ENDED], [BEGINS]).connected() as connection:
        assert not await connection.is_settled(HERE)
