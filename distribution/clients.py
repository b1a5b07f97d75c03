"""How each client is configured: the file or command, over stdio and over HTTP."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from distribution.description import Description

URL = "http://127.0.0.1:8000/mcp"
PLACEHOLDER = "your-token"
KEY = "your-key"
ENV = {"LETTA_API_KEY": KEY}
HEADERS = {"Authorization": f"Bearer {PLACEHOLDER}"}


@dataclass(frozen=True)
class Snippet:
    """A text to paste. `language` is that of its code block: json, toml or sh."""

    language: str
    text: str

    def markdown(self) -> str:
        return f"```{self.language}\n{self.text}\n```"


@dataclass(frozen=True)
class ClientGuide:
    """One client: where its configuration is, and what to put there. `note` is said below."""

    title: str
    place: str
    stdio: Snippet
    http: Snippet
    note: str = ""

    def markdown(self) -> str:
        parts = [
            f"## {self.title}",
            self.place,
            "Over stdio:",
            self.stdio.markdown(),
            "Over HTTP:",
            self.http.markdown(),
        ]
        return "\n\n".join([*parts, *([self.note] if self.note else [])])


def client_guides(server: Description) -> tuple[ClientGuide, ...]:
    entry = {"command": server.name, "env": ENV}
    remote = {"url": URL, "headers": HEADERS}
    return (
        ClientGuide(
            "Claude Desktop",
            "`claude_desktop_config.json`, which *Settings*, *Developer*, *Edit Config* opens. Restart the app.",
            servers(entry),
            servers(
                {
                    "command": "npx",
                    "args": ["-y", "mcp-remote", URL, "--header", "Authorization: Bearer ${TOKEN}"],
                    "env": {"TOKEN": PLACEHOLDER},
                }
            ),
            "Claude Desktop reaches HTTP servers on this machine through `mcp-remote`, which needs Node.js. A server "
            "with a public URL can be added as a connector.",
        ),
        ClientGuide(
            "Claude Code",
            "Run this command; `--scope user` makes the server available in all projects.",
            shell(f"claude mcp add letta -e LETTA_API_KEY={KEY} -- {server.name}"),
            shell(f'claude mcp add --transport http letta {URL} --header "Authorization: Bearer {PLACEHOLDER}"'),
            f"Or install the plugin from a clone: `claude plugin marketplace add ./{server.name}`, then "
            f"`claude plugin install {server.name}@{server.name}`.",
        ),
        ClientGuide(
            "Cursor",
            f"`~/.cursor/mcp.json`, or `.cursor/mcp.json` in a project. [Add to Cursor]({cursor_link(server)})",
            servers(entry),
            servers(remote),
        ),
        ClientGuide(
            "VS Code",
            "`.vscode/mcp.json` in a project, or the command *MCP: Open User Configuration*. "
            f"[Add to VS Code]({vscode_link(server)})",
            vscode(
                {"type": "stdio", "command": server.name, "env": {"LETTA_API_KEY": "${input:letta}"}}, "Letta API key"
            ),
            vscode({"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${input:letta}"}}, "Token"),
        ),
        ClientGuide(
            "Codex",
            "`~/.codex/config.toml`.",
            Snippet(
                "toml",
                f'[mcp_servers.letta]\ncommand = "{server.name}"\n'
                f'env = {{ LETTA_API_KEY = "{KEY}" }}\ntool_timeout_sec = 60',
            ),
            Snippet(
                "toml",
                f'[mcp_servers.letta]\nurl = "{URL}"\nbearer_token_env_var = "LETTA_MCP_TOKEN"\ntool_timeout_sec = 60',
            ),
            "Codex reads the token from the variable that `bearer_token_env_var` names.",
        ),
        ClientGuide(
            "Gemini CLI",
            "`~/.gemini/settings.json`, or `.gemini/settings.json` in a project.",
            servers(entry),
            servers({"httpUrl": URL, "headers": HEADERS}),
        ),
        ClientGuide(
            "opencode",
            "`opencode.json` in a project, or `~/.config/opencode/opencode.json`.",
            as_json({"mcp": {"letta": {"type": "local", "command": [server.name], "environment": ENV}}}),
            as_json({"mcp": {"letta": {"type": "remote", **remote}}}),
        ),
        ClientGuide(
            "Windsurf",
            "`~/.codeium/windsurf/mcp_config.json`.",
            servers(entry),
            servers({"serverUrl": URL, "headers": HEADERS}),
        ),
        ClientGuide(
            "Zed",
            "`settings.json`, which the command *zed: open settings file* opens.",
            as_json({"context_servers": {"letta": {"command": server.name, "args": [], "env": ENV}}}),
            as_json({"context_servers": {"letta": remote}}),
        ),
        ClientGuide(
            "Cline",
            "`cline_mcp_settings.json`, which *MCP Servers*, *Configure* opens.",
            servers(entry),
            servers({"type": "streamableHttp", **remote}),
        ),
    )


def servers(entry: dict[str, Any]) -> Snippet:
    return as_json({"mcpServers": {"letta": entry}})


def vscode(entry: dict[str, Any], asks_for: str) -> Snippet:
    inputs = [{"type": "promptString", "id": "letta", "description": asks_for, "password": True}]
    return as_json({"inputs": inputs, "servers": {"letta": entry}})


def as_json(value: object) -> Snippet:
    return Snippet("json", json.dumps(value, indent=2))


def shell(line: str) -> Snippet:
    return Snippet("sh", line)


def uvx_entry(server: Description) -> dict[str, Any]:
    """The entry of a client that installs the server by itself, with uv."""
    return {"command": "uvx", "args": ["--from", server.requirement, server.name]}


def cursor_link(server: Description) -> str:
    config = base64.b64encode(json.dumps(uvx_entry(server) | {"env": ENV}).encode()).decode()
    return f"cursor://anysphere.cursor-deeplink/mcp/install?{urlencode({'name': 'letta', 'config': config})}"


def vscode_link(server: Description) -> str:
    asked = {"name": "letta", **uvx_entry(server), "env": ENV}
    return f"vscode:mcp/install?{quote(json.dumps(asked), safe='')}"
