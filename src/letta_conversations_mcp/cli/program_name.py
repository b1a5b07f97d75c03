"""The two names of the program, and the one that it was called by."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = "letta-conversations-mcp"
SHORT = "lcm"

COMPLETE_VARIABLE = "_LETTA_CONVERSATIONS_MCP_COMPLETE"
"""Set by the completion scripts of shells."""


def program_name() -> str:
    """The name that the program was called by."""
    called = Path(sys.argv[0]).name
    return called if called in (SHORT, PROGRAM) else PROGRAM
