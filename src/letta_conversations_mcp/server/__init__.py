"""What an MCP client sees besides the tools."""
