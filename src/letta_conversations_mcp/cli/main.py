"""The way in. A start without arguments serves MCP over stdio, at once; everything else is a command of `program`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from letta_conversations_mcp.cli import loading
from letta_conversations_mcp.cli.exit_status import run_to_status
from letta_conversations_mcp.cli.program_name import COMPLETE_VARIABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the arguments default to the process's. Returns the exit status (docs/commands.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments and COMPLETE_VARIABLE not in os.environ:
        return run_to_status(_serve_stdio)
    # Late: a client waits for the start, and its configuration rarely has arguments.
    from letta_conversations_mcp.cli.program import run_program

    return run_program(arguments)


def _serve_stdio() -> int:
    with loading():
        from letta_conversations_mcp.cli.serve import serve
        from letta_conversations_mcp.settings import Settings

    return serve(Settings(), http=False)
