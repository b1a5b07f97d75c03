"""A client of the App Server that is none of ours: it takes no lock of ours and sends whenever it likes."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS, TOKEN
from letta_conversations_mcp.core.model import ConversationRef
from tests.rig.waiting import Record


class ForeignClient:
    """One WebSocket, with every frame that came over it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.frames = Record[dict[str, Any]]()

    async def read(self) -> None:
        async for data in self._socket:
            self.frames.append(json.loads(data))

    async def until(self, **wanted: object) -> dict[str, Any]:
        """The first frame, of those that came and come, with these fields."""

        def fits(frame: dict[str, Any]) -> bool:
            return wanted.items() <= frame.items()

        await self.frames.until(fits)
        return next(filter(fits, self.frames))

    async def tell(self, command: str, **fields: object) -> str:
        """Send a command and give its request id."""
        request_id = str(uuid.uuid4())
        await self._socket.send(json.dumps({"type": command, "request_id": request_id, **fields}))
        return request_id

    async def ask(self, command: str, **fields: object) -> dict[str, Any]:
        return await self.until(request_id=await self.tell(command, **fields))

    async def subscribe(self, ref: ConversationRef) -> None:
        await self.ask("runtime_start", **runtime(ref), mode="strict", wait_for_replay=True)

    async def send(self, ref: ConversationRef, text: str) -> str:
        """Send a message without waiting for anything."""
        message = {"role": "user", "content": text, "client_message_id": str(uuid.uuid4())}
        payload = {"kind": "create_message", "messages": [message], "client_tool_allowlist": []}
        return await self.tell("input", runtime=runtime(ref), payload=payload)


def runtime(ref: ConversationRef) -> dict[str, str]:
    return {"agent_id": ref.agent_id, "conversation_id": ref.conversation_id}


@asynccontextmanager
async def foreign_client(state: Path) -> AsyncGenerator[ForeignClient]:
    """Connected to the App Server that runs in a state folder."""
    url = json.loads((state / ADDRESS).read_text())["url"]
    headers = {"Authorization": f"Bearer {(state / TOKEN).read_text()}"}
    async with connect(url, additional_headers=headers, proxy=None) as socket, anyio.create_task_group() as tasks:
        client = ForeignClient(socket)
        tasks.start_soon(client.read)
        yield client
        tasks.cancel_scope.cancel()
