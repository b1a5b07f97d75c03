"""The files by which registries, catalogues and clients install the server.

Formats: server.json of the MCP registry (schema 2025-12-11), manifest 0.4 of MCP bundles, Claude Code's plugins and
marketplaces, and the catalogue of Docker.
"""

from __future__ import annotations

from typing import Any

from distribution.clients import URL
from distribution.description import Description

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
MANIFEST_VERSION = "0.4"


def registry(server: Description) -> dict[str, Any]:
    """`server.json`: the package for stdio and the image for HTTP."""
    variables: list[dict[str, Any]] = []
    for each in server.options:
        one: dict[str, Any] = {"name": each.variable, "description": each.description}
        one |= {"isSecret": True} if each.secret else {}
        variables.append(one | ({"placeholder": each.example} if each.example else {}))
    return {
        "$schema": SCHEMA,
        "name": server.registry_name,
        "title": server.title,
        "description": server.summary,
        "version": server.version,
        "repository": {"url": server.repository, "source": "github"},
        "packages": [
            {
                "registryType": "pypi",
                "identifier": server.name,
                "version": server.version,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "environmentVariables": variables,
            },
            {
                "registryType": "oci",
                "identifier": f"{server.image}:{server.version}",
                "transport": {"type": "streamable-http", "url": URL},
                "environmentVariables": variables[:2],
            },
        ],
    }


def bundle(server: Description, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """`manifest.json` of the .mcpb bundle, which Claude Desktop installs with a click."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": server.name,
        "display_name": server.title,
        "version": server.version,
        "description": server.summary,
        "author": {"name": server.author},
        "repository": {"type": "git", "url": server.repository},
        "license": server.license,
        "keywords": list(server.keywords),
        "server": {
            "type": "uv",
            "entry_point": "src/letta_conversations_mcp/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--extra", "local", "--no-dev", "--directory", "${__dirname}", server.name],
                "env": {each.variable: f"${{user_config.{each.key}}}" for each in server.options},
            },
        },
        "tools": [{"name": each["name"], "description": each["title"]} for each in tools],
        "user_config": {
            each.key: {
                "type": "string",
                "title": each.title,
                "description": sentence(each.description),
                "required": False,
                "default": "",
                "sensitive": each.secret,
            }
            for each in server.options
        },
        "compatibility": {"platforms": ["darwin", "linux", "win32"], "runtimes": {"python": ">=3.11"}},
    }


def plugin(server: Description) -> dict[str, Any]:
    """Claude Code's `.claude-plugin/plugin.json`: runs the server from the plugin's own files."""
    return {
        "name": server.name,
        "version": server.version,
        "description": server.summary,
        "author": {"name": server.author},
        "repository": server.repository,
        "license": server.license,
        "keywords": list(server.keywords),
        "mcpServers": {"letta": {"command": "uvx", "args": ["--from", "${CLAUDE_PLUGIN_ROOT}[local]", server.name]}},
    }


def marketplace(server: Description) -> dict[str, Any]:
    """Claude Code's `.claude-plugin/marketplace.json`: this repository offers one plugin, itself."""
    return {
        "name": server.name,
        "description": server.summary,
        "owner": {"name": server.author},
        "plugins": [{"name": server.name, "source": "./", "description": server.summary}],
    }


def docker_catalogue(server: Description) -> dict[str, Any]:
    """`server.yaml` of Docker's MCP catalogue, which runs the image over stdio."""
    variables = server.options[:2]
    return {
        "name": server.name,
        "image": f"{server.image}:{server.version}",
        "type": "server",
        "meta": {"category": "ai", "tags": list(server.keywords)},
        "about": {"title": server.title, "description": server.summary},
        "source": {"project": server.repository, "commit": server.commit},
        "run": {"command": ["serve"]},
        "config": {
            "description": "Connect to Letta Cloud with a key, or to your own server by its address",
            "secrets": [
                {"name": f"{server.name}.{each.key}", "env": each.variable, "example": "your-key"}
                for each in variables
                if each.secret
            ],
            "env": [
                {"name": each.variable, "example": each.example, "value": f"{{{{{server.name}.{each.key}}}}}"}
                for each in variables
                if not each.secret
            ],
            "parameters": {
                "type": "object",
                "properties": {each.key: {"type": "string"} for each in variables if not each.secret},
            },
        },
    }


def examples(server: Description) -> dict[str, Any]:
    """`mcp.json.example`: an entry for each way to run the server. Keep the one that you need."""
    return {
        "mcpServers": {
            "letta-cloud": {"command": server.name, "env": {"LETTA_API_KEY": "your-key"}},
            "letta-self-hosted": {
                "command": server.name,
                "env": {
                    "LETTA_BASE_URL": "http://localhost:8283",
                    "LETTA_API_KEY": "the server's password, if it has one",
                },
            },
            "letta-on-this-machine": {
                "command": server.name,
                "env": {"LETTA_MCP_BACKEND": "local", "OPENAI_API_KEY": "your-key"},
            },
            "letta-with-a-person-who-approves": {
                "command": server.name,
                "args": ["--approvals", "elicit"],
                "env": {"LETTA_API_KEY": "your-key"},
            },
            "letta-read-only": {"command": server.name, "args": ["--read-only"], "env": {"LETTA_API_KEY": "your-key"}},
            "letta-over-http": {"type": "http", "url": URL, "headers": {"Authorization": "Bearer your-token"}},
        }
    }


def sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
