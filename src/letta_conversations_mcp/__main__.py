"""`python -m letta_conversations_mcp`."""

import sys

from letta_conversations_mcp.cli import main

sys.exit(main())
