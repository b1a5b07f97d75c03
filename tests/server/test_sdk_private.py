"""The private parts of the MCP SDK that we use: still there, and still not offered publicly."""

from __future__ import annotations

import ast
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.session import ServerSession

import letta_conversations_mcp
from letta_conversations_mcp.server import sdk_private

PACKAGE = Path(letta_conversations_mcp.__file__).parent
PRIVATE_PARTS = ("_lowlevel_server", "_connection")


def test_the_sdk_still_has_no_public_way() -> None:
    """Fails when there is one: use it, and take the function out of sdk_private."""
    assert not hasattr(MCPServer, "add_request_handler")
    assert not hasattr(MCPServer, "lowlevel_server")
    assert not hasattr(MCPServer, "run_over_streams")
    assert not hasattr(ServerSession, "connection")
    assert not hasattr(ServerSession, "session_id")


def test_no_other_module_uses_a_private_part_of_the_sdk() -> None:
    used = {
        path.relative_to(PACKAGE).as_posix(): node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in PRIVATE_PARTS
        # An attribute of our own that has the same name.
        and ast.unparse(node) != "self._connection"
    }

    assert set(used) == {Path(sdk_private.__file__).relative_to(PACKAGE).as_posix()}
