"""An MCP server for the conversations of Letta agents."""

__version__ = "0.1.0"
