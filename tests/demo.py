"""The main job, shown: a real MCP client over stdio talks through our server with a Letta agent.

Without any settings the agent lives on this machine, in a folder of its own, and a scripted model stands in for a real
one and says so. With LETTA_BASE_URL or LETTA_API_KEY set, and AGENT naming an agent, that agent is talked with.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp_types import TextContent, TextResourceContents

from tests.rig.model import Say, ScriptedModel
from tests.rig.openai_model import serve_model

CONFIGURATION = """{
  "mcpServers": {
    "letta": {
      "command": "COMMAND",
      "env": { "LETTA_API_KEY": "your key" }
    }
  }
}"""


@asynccontextmanager
async def server_settings() -> AsyncGenerator[dict[str, str]]:
    """The variables that lead our server to an agent: somebody's own, or one on this machine with a scripted model."""
    own = {name: os.environ[name] for name in ("LETTA_BASE_URL", "LETTA_API_KEY") if os.environ.get(name)}
    if own:
        yield own
        return
    print("No LETTA_API_KEY or LETTA_BASE_URL is set: a real Letta agent is made on this machine, in a folder that is")
    print(
        "thrown away afterwards. Its answers come from a scripted stand-in for a language model, which runs here too."
    )
    model = ScriptedModel()
    model.enqueue(
        Say("Noted: the invoice 4711 is due on Friday."),
        Say("On Friday.", reasoning="The user told me so before."),
        Say("You have told me nothing of an invoice in this conversation."),
        Say("The user has an invoice 4711, due on Friday."),
    )
    async with serve_model(model) as model_url:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield {
                "LETTA_MCP_BACKEND": "local",
                "LETTA_MCP_LOCAL_DIR": folder,
                "LMSTUDIO_BASE_URL": model_url,
                "PATH": os.environ.get("PATH", ""),
            }


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


async def find_or_make_agent(client: Client) -> str:
    """The agent to talk with: the one that AGENT names, or a new one where agents are made without further ado."""
    if agent := os.environ.get("AGENT"):
        return agent
    if "create_agent" not in [tool.name for tool in (await client.list_tools()).tools]:
        sys.exit("demo: name the agent to talk with, as in: make demo AGENT='my agent'")
    await show(client, "list_models")
    made = await show(client, "create_agent", name="bookkeeper", persona="I keep the books.", human="Name: Ann")
    return made["agent_id"]


async def main() -> None:
    async with server_settings() as env:
        server = StdioServerParameters(command=sys.executable, args=["-m", "letta_conversations_mcp"], env=env)
        async with Client(server) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            print(f"Connected over stdio. Tools: {', '.join(tools)}")
            agent = await find_or_make_agent(client)
            sent = await show(client, "send_message", agent=agent, message="Invoice 4711 is due on Friday.")
            place = {"conversation_id": sent["conversation_id"]}
            await show(client, "send_message", **place, message="When is it due?", kinds=["reasoning"])
            print("\nA second conversation does not see the first one; the two share the agent's memory:")
            other = await show(client, "send_message", agent=agent, message="When is the invoice due?")
            await show(client, "list_messages", **place)
            await show(client, "compact", **place, mode="all")
            await show(client, "list_conversations", agent=agent, limit=3)
            uri = f"letta://conversations/{other['conversation_id']}/transcript"
            print(f"\n▶ the resource {uri}")
            for content in (await client.read_resource(uri)).contents:
                if isinstance(content, TextResourceContents):
                    print("  " + content.text.replace("\n", "\n  "))
            await show(client, "delete", **place)
            await show(client, "delete", **place, confirm=True)
    command = Path(sys.executable).with_name("letta-conversations-mcp")
    print(
        "\nTo have this in your own client, put this into its configuration. Without a key, agents of your own live on"
    )
    print("this machine, as here; they need a model, such as Ollama or LM Studio running, or an OPENAI_API_KEY.\n")
    print(CONFIGURATION.replace("COMMAND", str(command)))


if __name__ == "__main__":
    anyio.run(main)
