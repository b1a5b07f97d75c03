"""What people write in twenty lines: one tool that sends a message with the Letta SDK and reads its typed stream.

Over HTTP on the port of $PORT, else over stdio. Served as `pip install mcp letta-client` serves it.
"""

from __future__ import annotations

import os

import uvicorn
from letta_client import AsyncLetta
from mcp.server import MCPServer

server = MCPServer("twenty lines")
letta = AsyncLetta(base_url=os.environ["LETTA_BASE_URL"], api_key="none")


@server.tool()
async def send_message(conversation_id: str, message: str) -> str:
    """Send a message to a Letta agent and return its reply."""
    stream = await letta.conversations.messages.create(conversation_id, messages=[{"role": "user", "content": message}])
    return "".join([str(chunk.content) async for chunk in stream if chunk.message_type == "assistant_message"])


if __name__ == "__main__":
    uvicorn.run(
        server.streamable_http_app(),
        port=int(os.environ["PORT"]),
        loop="asyncio",
        http="h11",
        log_level="warning",
        timeout_keep_alive=600,
    )
