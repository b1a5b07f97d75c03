"""pydantic-ai: the server as a toolset."""

import asyncio
import os
import sys

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

letta = MCPToolset(StdioTransport("letta-conversations-mcp", [], env=dict(os.environ)), read_timeout=60)
agent = Agent(f"openai-chat:{os.environ.get('MODEL', 'gpt-5-mini')}", toolsets=[letta])


async def main(question: str) -> None:
    async with agent:
        print((await agent.run(question)).output)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
