"""A caller over HTTP that costs next to nothing: one connection, requests written by hand, for the protocol of 2026."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self
from urllib.parse import urlsplit

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
}

ACCEPTED = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}

Json = dict[str, Any]


class HttpCaller:
    """Calls tools of the server at `url`, one call at a time. `is_modern`: False for a server of the older protocol
    that needs no session."""

    def __init__(self, url: str, *, is_modern: bool = True) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        self._is_modern = is_modern
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, tool: str, arguments: Json) -> Json:
        """The result of a call of a tool. Raises RuntimeError when it fails."""
        return await self.request("tools/call", {"name": tool, "arguments": arguments})

    async def request(self, method: str, params: Json) -> Json:
        """The result of a request of the protocol. Raises RuntimeError when it fails."""
        headers = dict(ACCEPTED)
        if self._is_modern:
            params = {**params, "_meta": META}
            headers |= _modern_headers(method, params)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        status, answer = await self._exchange("POST", "/mcp", headers, body.encode())
        if status != 200:
            raise RuntimeError(f"HTTP {status}: {answer[:300]}")
        message = json.loads(answer if answer.startswith(b"{") else _last_event(answer))
        if "result" not in message or message["result"].get("isError"):
            raise RuntimeError(f"{method} failed: {answer[:300]}")
        return message["result"]

    async def get(self, path: str) -> str:
        """The text at a path."""
        status, answer = await self._exchange("GET", path, {}, b"")
        if status != 200:
            raise RuntimeError(f"HTTP {status} at {path}")
        return answer.decode()

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(_written(method, path, {"Host": f"{self._host}:{self._port}", **headers}, body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(None, 2)[1])
        if b"content-length:" in head:
            size = int(head.partition(b"content-length:")[2].split(None, 1)[0])
            answer = await reader.readexactly(size)
        else:
            answer = await _chunks(reader)
        if b"connection: close" in head:
            await self.close()
        return status, answer


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(parts)


def _last_event(stream: bytes) -> bytes:
    return [line.removeprefix(b"data:") for line in stream.splitlines() if line.startswith(b"data:")][-1]


def _written(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _modern_headers(method: str, params: Json) -> dict[str, str]:
    named = {"Mcp-Name": params["name"]} if "name" in params else {}
    return {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, **named}


class Listener:
    """A client that listens for changes of one resource: `async with` it. Counts what it hears."""

    def __init__(self, url: str, uri: str) -> None:
        self.uri = uri
        self.events = 0
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        reader, self._writer = await asyncio.open_connection(self._host, self._port)
        params: Json = {"notifications": {"resourceSubscriptions": [self.uri]}, "_meta": META}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params})
        headers = {"Host": f"{self._host}:{self._port}", **ACCEPTED, **_modern_headers("subscriptions/listen", params)}
        self._writer.write(_written("POST", "/mcp", headers, body.encode()))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"the server does not let us listen: {head!r}")
        # The first event is the acknowledgement, or why there is none.
        while not (line := await reader.readline()).startswith(b"data:"):
            pass
        if b"acknowledged" not in line:
            raise RuntimeError(f"the server does not let us listen: {line!r}")
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._writer.close()

    async def updated(self) -> None:
        """Wait until something was heard."""
        await self._news.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if b"notifications/resources/updated" in line:
                self.events += 1
                self._news.set()
