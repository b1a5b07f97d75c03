"""The way in: the console script, and `python -m letta_conversations_mcp`."""

import gc
import sys


def main() -> int:
    """Run the command line. Returns its exit status."""
    # Most of a start is imports, whose objects live for ever: looking for garbage among them takes a tenth of the time.
    gc.disable()
    from letta_conversations_mcp.cli import main as run_command

    gc.freeze()
    gc.enable()
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
