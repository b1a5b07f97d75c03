"""A server over HTTP with a tokens file, and clients with the tokens of its callers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from letta_conversations_mcp.http.auth.token_file import hash_of, make_token
from letta_conversations_mcp.settings import Settings
from tests.rig.loopback import http_client
from tests.rig.servers import Caller, Era, http_server

HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
MODERN = "2026-07-28"


@dataclass
class Team:
    """Callers by name, and the file that the server knows them by."""

    path: Path
    tokens: dict[str, str] = field(default_factory=dict[str, str])
    tables: dict[str, str] = field(default_factory=dict[str, str])

    def add(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "write", "delete"),
        agents: Sequence[str] | None = None,
        expires: str = "",
        letta_api_key: str = "",
    ) -> str:
        """Write a caller into the file, in the place of one of this name; gives the token."""
        token = self.tokens.setdefault(name, make_token())
        lines = ["[[tokens]]", f'name = "{name}"', f'sha256 = "{hash_of(token)}"', f"scopes = {list(scopes)}"]
        lines += [f"agents = {list(agents)}"] if agents is not None else []
        lines += [f"expires = {expires}"] if expires else []
        lines += [f'letta_api_key = "{letta_api_key}"'] if letta_api_key else []
        self.tables[name] = "\n".join(lines)
        self.write()
        return token

    def write(self) -> None:
        self.path.write_text("\n\n".join(self.tables.values()) or "tokens = []")

    def settings(self, base_url: str, **more: Any) -> Settings:
        return Settings(base_url=base_url, tokens_file=self.path, **more)

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}


@asynccontextmanager
async def client_of(url: str, token: str, era: Era) -> AsyncGenerator[Caller]:
    """A real MCP client that sends the token."""
    mode = "legacy" if era == "legacy" else "auto"
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield Caller(client)


@asynccontextmanager
async def member(team: Team, settings: Settings, name: str, era: Era) -> AsyncGenerator[Caller]:
    """A client of a server of its own, as this caller."""
    async with http_server(settings) as url, client_of(url, team.tokens[name], era) as caller:
        yield caller


def modern_call(method: str, params: dict[str, Any], name: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers of one request in the newer protocol."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
        "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    named = {"Mcp-Name": name} if name else {}
    return body, {**HEADERS, "MCP-Protocol-Version": MODERN, "Mcp-Method": method, **named}


def encoded(headers: Mapping[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]


async def post(
    url: str, method: str, params: dict[str, Any], headers: Mapping[str, str | bytes] | None = None, name: str = ""
) -> httpx.Response:
    """One request in the newer protocol, without a client's help."""
    body, own = modern_call(method, params, name)
    async with http_client(timeout=30) as http:
        return await http.post(f"{url}/mcp", json=body, headers=encoded({**own, **(headers or {})}))


async def call_tool(
    url: str, tool: str, arguments: dict[str, Any], headers: Mapping[str, str | bytes]
) -> httpx.Response:
    return await post(url, "tools/call", {"name": tool, "arguments": arguments}, headers, name=tool)
