"""The processes of a state folder: their users, and what a test asks of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from websockets.asyncio.client import connect

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.process import AppServer, LocalOptions
from tests.rig.bounds import HANG_SECONDS
from tests.rig.waiting import until

USER = """
import os, signal, sys, anyio
from pathlib import Path
from letta_conversations_mcp.backends.app_server.process import LocalOptions, app_server

signal.signal(signal.SIGINT, signal.SIG_DFL)

async def use():
    while sys.stdin.readline():
        options = LocalOptions(Path(sys.argv[1]), command=sys.argv[2] or None, environment=dict(os.environ))
        async with app_server(options) as server:
            print(server.url, flush=True)
            sys.stdin.readline()
        print("left", flush=True)

anyio.run(use)
"""


class User:
    """Another process that uses the server of a folder."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)

    async def tell(self) -> None:
        """To enter, or to leave."""
        await self._input.send(b"\n")

    async def answer(self) -> str:
        with anyio.fail_after(HANG_SECONDS):
            return (await self._output.receive_until(b"\n", 10_000)).decode()

    async def enter(self) -> str:
        await self.tell()
        return await self.answer()


@asynccontextmanager
async def process_of(*command: str, **more: Any) -> AsyncGenerator[Process]:
    """A process in a group of its own, that is killed in the end."""
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL, start_new_session=True, **more) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def user(folder: Path, command: str | Path = "") -> AsyncGenerator[User]:
    async with process_of(sys.executable, "-c", USER, str(folder), str(command)) as process:
        yield User(process)


def options(
    folder: Path, command: str | Path | None = None, start_seconds: float = HANG_SECONDS, **more: str
) -> LocalOptions:
    return LocalOptions(
        folder,
        command=str(command) if command else None,
        start_seconds=start_seconds,
        stop_seconds=2,
        environment={**os.environ, **more},
    )


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


def processes(folder: Path) -> list[psutil.Process]:
    """All that run in the folder: supervisors, servers, and what these started."""
    found: list[psutil.Process] = []
    for each in psutil.process_iter():
        try:
            if Path(each.cwd()).is_relative_to(folder):
                found.append(each)
        except psutil.Error:
            continue
    return found


def servers(folder: Path) -> list[int]:
    found: list[int] = []
    for each in processes(folder):
        # One may have ended in between, and be a zombie without a folder.
        with suppress(psutil.Error):
            if Path(each.cwd()) == folder / "work":
                found.append(each.pid)
    return found


def address(folder: Path) -> dict[str, Any]:
    return json.loads((folder / supervisor.ADDRESS).read_text())


async def until_gone(folder: Path) -> None:
    await until(lambda: not processes(folder))
    assert not (folder / supervisor.ADDRESS).exists()


async def ask(server: AppServer, command: str, **arguments: object) -> dict[str, Any]:
    """One request over a socket of its own."""
    headers = {"Authorization": f"Bearer {server.token}"}
    with anyio.fail_after(HANG_SECONDS):
        async with connect(server.url, additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps({"type": command, "request_id": "1", **arguments}))
            while (frame := json.loads(await socket.recv())).get("request_id") != "1":
                pass
    assert frame["success"], frame
    return frame
