"""LangChain and LangGraph: one session for all calls.

`client.get_tools()` would start a server for each call.
"""

import asyncio
import os
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI

client = MultiServerMCPClient(
    {"letta": {"transport": "stdio", "command": "letta-conversations-mcp", "args": [], "env": dict(os.environ)}}
)


async def main(question: str) -> None:
    async with client.session("letta") as session:
        agent = create_agent(ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini")), await load_mcp_tools(session))
        result = await agent.ainvoke({"messages": [("user", question)]})
        print(result["messages"][-1].text)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
