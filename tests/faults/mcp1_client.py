"""Run by `silent` with a Python that has `mcp` 1.x: calls send_message until it is answered in time.

Writes a line of JSON for each call that begins, and at the end one with the answer.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false
# The types here are those of another version of mcp.
from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

from mcp import ClientSession, McpError, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    given = json.loads(sys.argv[1])
    server = StdioServerParameters(
        command=given["server"], args=["-m", "letta_conversations_mcp"], env=given["environment"]
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for number in range(1, given["most"] + 1):
            print(json.dumps({"call": number}), flush=True)
            try:
                result = await session.call_tool(
                    "send_message", given["arguments"], read_timeout_seconds=timedelta(seconds=given["seconds"])
                )
            except McpError:
                continue
            print(json.dumps(result.structuredContent), flush=True)
            return


asyncio.run(main())
