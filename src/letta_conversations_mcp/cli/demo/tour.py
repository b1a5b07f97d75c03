"""What the demo does: it starts our server as a client would, over stdio, and calls its tools one after another.

Owns where the agent comes from: one that is named, with the settings as they are; or a new one on this machine, in a
folder that is thrown away afterwards, with the user's own model or, where there is none, a scripted one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr
from rich.console import Console
from rich.text import Text

from letta_conversations_mcp.backends.app_server.process import until_stopped
from letta_conversations_mcp.cli.client_config import client_configuration
from letta_conversations_mcp.cli.demo.agent import Stage, tell
from letta_conversations_mcp.cli.demo.stand_in_model import NAME, stand_in
from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.core.quoting import QUOTE_CHARS, quote
from letta_conversations_mcp.core.task_groups import ungrouped
from letta_conversations_mcp.settings import BackendSettings

TOLD = "Invoice 4711 is due on Friday."
ASKED = "When is invoice 4711 due?"
WHO = "What is my name?"

STOP_SECONDS = 10
"""For the App Server to end, so that nothing writes into its folder while that is removed."""


@dataclass(frozen=True)
class Choice:
    """What the person asked for: an agent of their own, a model for a new one, the scripted model in any case."""

    agent: str = ""
    model: str = ""
    stand_in: bool = False


def demo(settings: BackendSettings, choice: Choice) -> int:
    """Give the show, and return 0. Raises CommandFailed with status 1."""
    anyio.run(_give, settings, choice)
    return 0


async def _give(settings: BackendSettings, choice: Choice) -> None:
    started = time.monotonic()
    console = Console(highlight=False)
    if choice.agent:
        tell(
            console, f"With your agent {choice.agent!r}. The conversations that the demo opens, it deletes at the end."
        )
        async with _connected(console, _variables(settings)) as stage:
            try:
                await _perform(stage, choice.agent)
            except CommandFailed as error:
                left = f" These conversations of the demo are left: {', '.join(stage.conversations)}."
                raise CommandFailed(f"{error}{left if stage.conversations else ''}", status=1) from error
    elif settings.uses_local and not settings.app_server_url:
        await _give_on_this_machine(console, _variables(settings), choice)
    else:
        raise CommandFailed(
            "Name the agent to talk with: --agent 'my agent' (make demo AGENT='my agent'). Or leave out LETTA_API_KEY, "
            "LETTA_BASE_URL and LETTA_MCP_APP_SERVER_URL: then the demo makes an agent on this machine.",
            status=1,
        )
    tell(console, f"\nDone in {time.monotonic() - started:.0f} s.\n")
    tell(console, f"{_invitation(settings)}:\n")
    # Is copied, so its lines are not broken.
    console.print(Text(json.dumps(client_configuration(settings), ensure_ascii=False, indent=2)), soft_wrap=True)


async def _give_on_this_machine(console: Console, variables: Mapping[str, str], choice: Choice) -> None:
    tell(console, "A real Letta agent is made on this machine, in a folder that is thrown away afterwards; no account.")
    with tempfile.TemporaryDirectory(prefix="letta-demo-", ignore_cleanup_errors=True) as folder:
        local = {**variables, "LETTA_MCP_BACKEND": "local", "LETTA_MCP_LOCAL_DIR": folder}
        if not choice.stand_in:
            async with _connected(console, local, Path(folder)) as stage:
                models = await stage.models()
                if model := choice.model or next(iter(models), ""):
                    stage.tell(f"Its answers come from a model that is configured here: {model}.")
                    await _perform(stage, model=model)
                    return
        with stand_in() as url:
            tell(
                console,
                "Its answers come from a scripted stand-in for a language model, which runs here too, and answers only "
                "from what it is sent.\nWith Ollama or LM Studio running here, or OPENAI_API_KEY and the like set, a "
                "real model answers.",
            )
            async with _connected(console, {**local, "LMSTUDIO_BASE_URL": url}, Path(folder)) as stage:
                await _perform(stage, model=f"lmstudio/{NAME}")


async def _perform(stage: Stage, agent: str = "", model: str = "") -> None:
    """The show itself, with the agent that is named, or with a new one that has this model."""
    stage.tell(f"Connected over stdio. Tools: {', '.join(await stage.tools())}.")

    if not agent:
        stage.begin("Create an agent that remembers")
        memory = {"persona": "I keep the books.", "human": "Name: Ann"}
        agent = str((await stage.call("create_agent", name="bookkeeper", model=model, **memory))["name"])

    stage.begin("Two conversations: neither sees the other")
    invoices = await stage.open("create_conversation", agent=agent, summary="invoices")
    planning = await stage.open("create_conversation", agent=agent, summary="planning")
    await stage.send(invoices, TOLD)
    await stage.send(planning, ASKED)
    await stage.send(invoices, ASKED)

    stage.begin("Both share the agent's memory")
    await stage.send(planning, WHO)
    await stage.send(invoices, WHO)

    stage.begin("A branch has the history so far, and goes its own way")
    branch = await stage.open("fork", conversation_id=invoices)
    await stage.send(branch, ASKED)
    await stage.call("list_conversations", agent=agent, limit=5)

    stage.begin("A summary takes the place of the older messages, and the fact is still there")
    await stage.call("compact", conversation_id=branch, mode="all")
    await stage.send(branch, ASKED)

    stage.begin("The whole conversation, as a resource that a person can attach")
    await stage.read(f"letta://conversations/{invoices}/transcript")

    stage.begin("Deleting asks first")
    await stage.refused("delete", conversation_id=invoices)
    for conversation_id in tuple(stage.conversations):
        await stage.delete(conversation_id)


@asynccontextmanager
async def _connected(
    console: Console, variables: Mapping[str, str], folder: Path | None = None
) -> AsyncGenerator[Stage]:
    """Our server as a process of its own, and a client of it; afterwards nothing runs in `folder` any more.

    Raises CommandFailed, for a server that breaks too.
    """
    server = StdioServerParameters(command=sys.executable, args=["-m", "letta_conversations_mcp"], env=dict(variables))
    # What the server logs is for people who look for a fault, and would tear the show apart.
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            with ungrouped(CommandFailed, MCPError, OSError, TimeoutError):
                async with Client(stdio_client(server, errlog=log)) as client:
                    yield Stage(console, client)
        except (MCPError, OSError, TimeoutError) as error:
            log.seek(0)
            words = quote(log.read(), 10 * QUOTE_CHARS)[-QUOTE_CHARS:]
            raise CommandFailed(f"The server broke: {words or quote(error)}", status=1) from error
        finally:
            if folder is not None:
                with anyio.move_on_after(STOP_SECONDS, shield=True):
                    await until_stopped(folder)


def _variables(settings: BackendSettings) -> dict[str, str]:
    """The environment that gives the server these settings, and the keys of the models; nothing else of ours."""
    values: dict[str, str] = {}
    for name in settings.model_fields_set:
        alias = BackendSettings.model_fields[name].validation_alias
        value: object = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        values[alias.upper() if isinstance(alias, str) else f"LETTA_MCP_{name.upper()}"] = text
    ours = ("LETTA_MCP_", "LETTA_API_KEY", "LETTA_BASE_URL", "LETTA_PROJECT")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | values


def _invitation(settings: BackendSettings) -> str:
    head = "To have this in your own client, put this into its configuration"
    if settings.uses_local:
        head += (
            ". The agents then live on this machine, and need a model: Ollama or LM Studio running here, or a key in "
        )
        head += '"env": {"OPENAI_API_KEY": "…"}; with {"LETTA_API_KEY": "…"} they are those of Letta Cloud'
    return head
