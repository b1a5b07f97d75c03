"""Clients that give a call up and say nothing of it: raw JSON-RPC, and the SDK `mcp` 1.x in an environment of its own.

Each makes the same call again and again over stdio, until an answer comes in time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.text import TextReceiveStream

from letta_conversations_mcp.settings import Settings
from tests.rig.real_letta import home_folder, installed, locked
from tests.rig.servers import environment

Calls = Callable[[int], Awaitable[None]]
"""Is told how many calls were made, the one that begins included."""

MOST_CALLS = 10
MCP_1 = ("mcp==1.30.0",)
SCRIPT = Path(__file__).parent / "mcp1_client.py"


async def gives_up_silently(
    settings: Settings, arguments: Mapping[str, str], seconds: float, calls: Calls
) -> tuple[str, str]:
    """Call send_message, and again whenever an answer takes longer; gives reply and conversation of the one that was
    answered in time. Late answers are not read."""
    command = [sys.executable, "-m", "letta_conversations_mcp"]
    async with await anyio.open_process(command, env=environment(settings), stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        assert process.stdout
        lines = _Lines(TextReceiveStream(process.stdout))

        async def write(method: str, number: int | None, **params: Any) -> None:
            numbered = {} if number is None else {"id": number}
            message = {"jsonrpc": "2.0", "method": method, "params": params, **numbered}
            assert process.stdin
            await process.stdin.send((json.dumps(message) + "\n").encode())

        client = {"name": "silent", "version": "1"}
        await write("initialize", 0, protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        await lines.answer(0)
        await write("notifications/initialized", None)
        try:
            for number in range(1, MOST_CALLS + 1):
                await write("tools/call", number, name="send_message", arguments=dict(arguments))
                await calls(number)
                with anyio.move_on_after(seconds):
                    answer = (await lines.answer(number))["result"]["structuredContent"]
                    return answer.get("reply", ""), answer["conversation_id"]
        finally:
            process.kill()
    return "", ""


class _Lines:
    def __init__(self, stream: TextReceiveStream) -> None:
        self._stream = stream
        self._read = ""

    async def answer(self, number: int) -> dict[str, Any]:
        """The answer to this request; what else comes is dropped."""
        while True:
            line, end, rest = self._read.partition("\n")
            if not end:
                self._read += await self._stream.receive()
                continue
            self._read = rest
            if (message := json.loads(line)).get("id") == number and "method" not in message:
                return message


async def silent_mcp1_client(
    settings: Settings, arguments: Mapping[str, str], seconds: float, calls: Calls
) -> tuple[str, str]:
    """The same with `mcp` 1.x, whose time-out sends no notification."""
    home = home_folder()
    async with locked(home / "lock"):
        python = await installed(home / "mcp1", MCP_1, constraints=None) / "bin" / "python"
    given = {"server": sys.executable, "arguments": dict(arguments), "seconds": seconds, "most": MOST_CALLS}
    given["environment"] = environment(settings)
    command = [str(python), str(SCRIPT), json.dumps(given)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        read = ""
        async for piece in TextReceiveStream(process.stdout):
            read += piece
            while "\n" in read:
                line, _, read = read.partition("\n")
                told = json.loads(line)
                if "call" in told:
                    await calls(told["call"])
                else:
                    return told.get("reply", ""), told["conversation_id"]
    return "", ""
