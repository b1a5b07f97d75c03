"""OpenAI Agents SDK: an agent that asks a Letta agent.

The session's time-out is 5 seconds by default, which is shorter than most replies.
"""

import asyncio
import os
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

set_tracing_disabled(True)
model = OpenAIChatCompletionsModel(os.environ.get("MODEL", "gpt-5-mini"), AsyncOpenAI())
command = {"command": "letta-conversations-mcp", "env": dict(os.environ)}


async def main(question: str) -> None:
    async with MCPServerStdio(command, client_session_timeout_seconds=60) as letta:
        supervisor = Agent("supervisor", instructions="Ask the Letta agents.", mcp_servers=[letta], model=model)
        print((await Runner.run(supervisor, question)).final_output)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
