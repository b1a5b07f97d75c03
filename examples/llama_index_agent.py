"""LlamaIndex: the tools of the server for an agent."""

import asyncio
import os
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

llm = OpenAILike(
    model=os.environ.get("MODEL", "gpt-5-mini"),
    api_base=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    is_chat_model=True,
    is_function_calling_model=True,
)


async def main(question: str) -> None:
    letta = BasicMCPClient("letta-conversations-mcp", env=dict(os.environ), timeout=60)
    tools = await McpToolSpec(letta).to_tool_list_async()
    print(await FunctionAgent(tools=tools, llm=llm).run(question))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
