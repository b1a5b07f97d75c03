"""What ours is measured against: the smallest server of the MCP SDK, with one tool that does nothing."""

from __future__ import annotations

from mcp.server import MCPServer

server = MCPServer("bare")


@server.tool()
async def nothing() -> None:
    """Do nothing."""


if __name__ == "__main__":
    server.run("stdio")
