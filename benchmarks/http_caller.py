"""A caller over HTTP that costs next to nothing: one connection, requests written by hand, for the protocol of 2026."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
}

Json = dict[str, Any]


class HttpCaller:
    """Calls tools of the server at `url`, one call at a time. `is_modern`: False for a server of the older protocol
    that needs no session."""

    def __init__(self, url: str, *, is_modern: bool = True) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        self._is_modern = is_modern
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, tool: str, arguments: Json) -> Json:
        """The result of a call. Raises RuntimeError when it fails."""
        params: Json = {"name": tool, "arguments": arguments}
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        if self._is_modern:
            params["_meta"] = META
            headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        status, answer = await self._request("POST", "/mcp", headers, body.encode())
        if status != 200:
            raise RuntimeError(f"HTTP {status}: {answer[:300]}")
        message = json.loads(answer if answer.startswith(b"{") else _last_event(answer))
        if "result" not in message or message["result"].get("isError"):
            raise RuntimeError(f"a call failed: {answer[:300]}")
        return message["result"]

    async def get(self, path: str) -> str:
        """The text at a path."""
        status, answer = await self._request("GET", path, {}, b"")
        if status != 200:
            raise RuntimeError(f"HTTP {status} at {path}")
        return answer.decode()

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _request(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
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
