"""The private parts of the MCP SDK that we use: in one file, still there, and still not offered publicly."""

from __future__ import annotations

import ast
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.session import ServerSession

import letta_conversations_mcp
from letta_conversations_mcp.server import sdk_private

PACKAGE = Path(letta_conversations_mcp.__file__).parent


def test_the_sdk_still_has_no_public_way() -> None:
    """Fails when there is one: use it, and take the function out of sdk_private."""
    assert not hasattr(MCPServer, "add_request_handler")
    assert not hasattr(MCPServer, "lowlevel_server")
    assert not hasattr(MCPServer, "run_over_streams")
    assert not hasattr(ServerSession, "connection")
    assert not hasattr(ServerSession, "session_id")


def _private_uses(path: Path) -> set[str]:
    """Attributes with a leading underscore, and imports of private modules and names of the SDK."""
    tree = ast.parse(path.read_text())
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls")
    }
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    } - own
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("mcp", "mcp_types")
        for name in node.names
    }
    return used | {name for name in imported if "._" in name}


def test_no_other_module_uses_a_private_part_of_the_sdk() -> None:
    used = {path: _private_uses(path) for path in PACKAGE.rglob("*.py")}
    not_of_the_sdk = {"_exit", "_replace"}

    assert used.pop(Path(sdk_private.__file__)) == {"_lowlevel_server", "_connection"}
    assert {path.name: names - not_of_the_sdk for path, names in used.items() if names - not_of_the_sdk} == {}
