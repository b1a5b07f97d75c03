"""What this server costs beside the bare MCP SDK and the bare Letta SDK. `python -m benchmarks` prints it."""
