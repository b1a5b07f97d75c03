"""The plain `mcp` client: ask a Letta agent, and come back for a reply that takes longer."""

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters

server = StdioServerParameters(command="letta-conversations-mcp", env=dict(os.environ))


async def main(agent: str, question: str) -> None:
    async with Client(server) as client:
        answer = await client.call_tool("send_message", {"agent": agent, "message": question, "message_key": "job-17"})
        result = answer.structured_content
        while result["status"] == "running":
            place = {"conversation_id": result["conversation_id"], "run_id": result["run_id"]}
            result = (await client.call_tool("wait_for_reply", place)).structured_content
        print(result["reply"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
