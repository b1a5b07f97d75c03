"""The main job, shown: a real MCP client over stdio talks through our server with a Letta agent.

With LETTA_BASE_URL or LETTA_API_KEY set, and AGENT naming an agent, that agent is talked with. Without, a stand-in
server with a scripted model is started on this machine, and says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp_types import TextContent

from tests.rig.fake_letta import FakeLetta
from tests.rig.model import CallTools, Say, ScriptedModel, Use

CONFIGURATION = """{
  "mcpServers": {
    "letta": {
      "command": "COMMAND",
      "env": { "LETTA_API_KEY": "your key" }
    }
  }
}"""


@asynccontextmanager
async def letta() -> AsyncGenerator[tuple[dict[str, str], str]]:
    """The variables that lead our server to a Letta server, and the agent to talk with."""
    own = {name: os.environ[name] for name in ("LETTA_BASE_URL", "LETTA_API_KEY") if os.environ.get(name)}
    if own:
        agent = os.environ.get("AGENT", "")
        if not agent:
            sys.exit("demo: name the agent to talk with, as in: make demo AGENT='my agent'")
        yield own, agent
        return
    print(
        "No LETTA_API_KEY or LETTA_BASE_URL is set, so a stand-in for a Letta server runs here, with a scripted model."
    )
    model = ScriptedModel()
    model.enqueue(Say("Noted: the invoice 4711 is due on Friday."))
    model.enqueue(CallTools((Use("conversation_search", {"query": "invoice"}),), text="Let me look."))
    model.enqueue(Say("On Friday."))
    model.enqueue(Say("The user has an invoice 4711, due on Friday."))
    fake = FakeLetta(model)
    agent_id = fake.add_agent("bookkeeper")
    async with fake.serve() as base_url:
        yield {"LETTA_BASE_URL": base_url}, agent_id


async def show(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool, printing the call, its progress and its answer."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        print(f"    … {message}")

    print(f"\n▶ {tool}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})")
    result = await client.call_tool(tool, arguments, progress_callback=on_progress)
    for content in result.content:
        if isinstance(content, TextContent):
            print("  " + content.text.replace("\n", "\n  "))
    return result.structured_content or {}


async def main() -> None:
    async with letta() as (env, agent):
        server = StdioServerParameters(command=sys.executable, args=["-m", "letta_conversations_mcp"], env=env)
        async with Client(server) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            print(f"Connected over stdio. Tools: {', '.join(tools)}")
            await show(client, "list_agents")
            sent = await show(client, "send_message", agent=agent, message="Invoice 4711 is due on Friday.")
            place = {"conversation_id": sent["conversation_id"]}
            await show(client, "send_message", **place, message="When is it due?", kinds=["tool"])
            await show(client, "list_messages", **place)
            await show(client, "compact", **place, mode="all")
            await show(client, "list_conversations", agent=agent, limit=3)
            uri = f"letta://conversations/{sent['conversation_id']}/transcript"
            print(f"\n▶ the resource {uri}")
            for content in (await client.read_resource(uri)).contents:
                print("  " + str(getattr(content, "text", ""))[:600].replace("\n", "\n  "))
            await show(client, "delete", **place)
            await show(client, "delete", **place, confirm=True)
    command = Path(sys.executable).with_name("letta-conversations-mcp")
    print("\nTo have this in your own client, put this into its configuration:\n")
    print(CONFIGURATION.replace("COMMAND", str(command)))


if __name__ == "__main__":
    anyio.run(main)
