"""The entry point: the console script, and `python -m letta_conversations_mcp`."""

import sys

from letta_conversations_mcp.cli import loading


def main() -> int:
    """Run the command line. Returns its exit status."""
    with loading():
        from letta_conversations_mcp.cli.main import main as run_command
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
