"""Our server over HTTP as a process of its own, as an operator runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.loopback import http_client
from tests.rig.servers import Caller, Era, environment
from tests.rig.waiting import until


class Service:
    """The process, and what it has written to stderr so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = ""
        self._written = ""
        self._news = anyio.Event()

    @property
    def log(self) -> str:
        return self._written

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines that are JSON, as a collector of logs reads them."""
        return [json.loads(line) for line in self._written.splitlines() if line.startswith("{")]

    async def read(self) -> None:
        assert self.process.stderr
        async for piece in TextReceiveStream(self.process.stderr):
            self._written += piece
            self._tell()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def said(self, words: str, seconds: float = HANG_SECONDS) -> None:
        """Wait until the log has these words."""
        with anyio.fail_after(seconds):
            while words not in self._written:
                assert self.process.returncode is None, self._written
                await self._news.wait()

    async def ended(self) -> int:
        with anyio.fail_after(HANG_SECONDS):
            return await self.process.wait()

    @asynccontextmanager
    async def client(self, era: Era, token: str = "") -> AsyncGenerator[Caller]:
        mode = "legacy" if era == "legacy" else "auto"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield Caller(client)

    async def shows(self, words: str) -> None:
        """Wait until the metrics have these words."""

        async def look() -> bool:
            return words in (await self.get("/metrics")).text

        await until(look)

    async def begin_to_drain(self) -> None:
        """Send SIGTERM, and wait until it is not ready any more."""

        async def is_draining() -> bool:
            return (await self.get("/readyz")).status_code == 503

        self.process.send_signal(signal.SIGTERM)
        await until(is_draining)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with http_client() as http:
            return await http.get(f"{self.url}{path}", headers=headers)


@asynccontextmanager
async def service(
    settings: Settings,
    variables: Mapping[str, str] | None = None,
    arguments: Sequence[str] = ("serve", "--http"),
    prefix: Sequence[str] = (),
    port: int = 0,
) -> AsyncGenerator[Service]:
    """Run it, on a free port unless one is given; killed at the end if it still runs. `prefix` is a command that runs
    another."""
    command = [*prefix, sys.executable, "-m", "letta_conversations_mcp", *arguments, "--port", str(port)]
    async with (
        await anyio.open_process(
            command, env=environment(settings) | dict(variables or {}), stderr=subprocess.PIPE
        ) as process,
        anyio.create_task_group() as tasks,
    ):
        running = Service(process)
        tasks.start_soon(running.read)
        try:
            await running.said("Serving MCP at ")
            running.url = running.log.split("Serving MCP at ")[1].split("/mcp")[0]
            yield running
        finally:
            if process.returncode is None:
                process.kill()
