"""Which files are written, each with its whole text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from mcp import Client

from distribution import bundles, pages
from distribution.description import ROOT, read_description
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings


async def outputs() -> dict[Path, str]:
    """Every generated file of the repository, with its text. Raises ValueError for a page that lacks its marks."""
    server = read_description()
    listed = await listed_tools()
    readme, guide = ROOT / "README.md", ROOT / "docs" / "clients.md"
    frameworks = ROOT / "docs" / "frameworks.md"
    return {
        ROOT / "server.json": _json(bundles.registry(server)),
        ROOT / "mcp.json.example": _json(bundles.examples(server)),
        ROOT / ".claude-plugin" / "plugin.json": _json(bundles.plugin(server)),
        ROOT / ".claude-plugin" / "marketplace.json": _json(bundles.marketplace(server)),
        ROOT / "distribution" / "mcpb" / "manifest.json": _json(bundles.bundle(server, listed)),
        ROOT / "distribution" / "docker" / "server.yaml": _yaml(bundles.docker_catalogue(server)),
        ROOT / "distribution" / "docker" / "tools.json": _json(
            [{"name": each["name"], "description": each["description"]} for each in listed]
        ),
        ROOT / "docs" / "tools.md": pages.tools(listed),
        guide: pages.between(guide.read_text(), "clients", pages.clients(server)),
        frameworks: pages.between(frameworks.read_text(), "frameworks", pages.frameworks()),
        readme: pages.between(readme.read_text(), "stories", pages.stories()),
    }


async def listed_tools() -> list[dict[str, Any]]:
    """The tools that a client lists, with those that an option turns on."""
    async with Client(build_server(Settings(base_url="http://127.0.0.1:9", create_agents=True))) as client:
        found = (await client.list_tools()).tools
    return [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in found]


class _Prettier(yaml.SafeDumper):
    """Indents lists, as Prettier does, with which Docker's catalogue checks an entry."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _yaml(value: object) -> str:
    return yaml.dump(value, Dumper=_Prettier, sort_keys=False, width=1_000).replace("'", '"')


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
