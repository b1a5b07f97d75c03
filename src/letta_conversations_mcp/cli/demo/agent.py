"""Shows calls of our tools: the call, its progress, its answer.

On a terminal the progress is a line that changes; anywhere else it is a line for each report.
"""

from __future__ import annotations

from textwrap import indent
from typing import cast

import anyio
from mcp import Client
from mcp_types import CallToolResult, TextContent, TextResourceContents
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from letta_conversations_mcp.cli.exit_status import CommandFailed

CALL_SECONDS = 400
"""Longer than the server's own limit for any call, so only a broken server takes this long."""

TURN_SECONDS = 300
"""For one reply, over as many calls as that takes."""

FINE = ("completed", "empty")


class Stage:
    """A client of our server, and where to show what it does."""

    def __init__(self, console: Console, client: Client) -> None:
        self._console = console
        self._client = client
        self._acts = 0
        self.conversations: list[str] = []
        """Those that were opened here and are still there."""

    def tell(self, text: str) -> None:
        tell(self._console, text)

    def begin(self, title: str) -> None:
        """A new part of the show."""
        self._acts += 1
        show(self._console, Text(f"\n{self._acts}. {title}", style="bold green"))

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def models(self) -> list[str]:
        """The models that there are, not shown."""
        result = await self._run("list_models", {}, "looking for models on this machine")
        found = cast("dict[str, list[str]]", result.structured_content or {})
        return found.get("models", [])

    async def call(self, tool: str, **arguments: object) -> dict[str, object]:
        """A call that succeeds; gives its structured content. Raises CommandFailed."""
        self._announce(tool, arguments)
        result = await self._run(tool, arguments, tool)
        if result.is_error:
            raise CommandFailed(f"{tool} failed. {_text_of(result)}", status=1)
        self._answer(_text_of(result))
        return result.structured_content or {}

    async def refused(self, tool: str, **arguments: object) -> None:
        """A call that is refused. Raises CommandFailed when it is not."""
        self._announce(tool, arguments)
        result = await self._run(tool, arguments, tool)
        if not result.is_error:
            raise CommandFailed(f"{tool} was to be refused, and was not.", status=1)
        self._answer(_text_of(result))

    async def open(self, tool: str, **arguments: object) -> str:
        """A call that opens a conversation; gives its id."""
        conversation_id = str((await self.call(tool, **arguments))["conversation_id"])
        self.conversations.append(conversation_id)
        return conversation_id

    async def send(self, conversation_id: str, message: str) -> None:
        """Send a message, and wait until it is answered. Raises CommandFailed when it is not."""
        reply = await self.call("send_message", conversation_id=conversation_id, message=message)
        with anyio.move_on_after(TURN_SECONDS):
            while reply["status"] == "running":
                reply = await self.call("wait_for_reply", conversation_id=conversation_id)
        if reply["status"] not in FINE:
            raise CommandFailed(
                f"The agent did not answer ({reply['status']}). {reply.get('note') or reply.get('next') or ''}",
                status=1,
            )

    async def delete(self, conversation_id: str) -> None:
        await self.call("delete", conversation_id=conversation_id, confirm=True)
        self.conversations.remove(conversation_id)

    async def read(self, uri: str) -> None:
        """Show a resource."""
        show(self._console, Text(f"▶ {uri}", style="bold"))
        for content in (await self._client.read_resource(uri)).contents:
            if isinstance(content, TextResourceContents):
                self._answer(content.text)

    async def _run(self, tool: str, arguments: dict[str, object], doing: str) -> CallToolResult:
        with anyio.fail_after(CALL_SECONDS), self._console.status(Text(doing)) as status:

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                if self._console.is_terminal:
                    status.update(Text(message or doing))
                else:
                    self.tell(f"  … {(message or doing).splitlines()[0]}")

            return await self._client.call_tool(tool, arguments, progress_callback=on_progress)

    def _announce(self, tool: str, arguments: dict[str, object]) -> None:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        show(self._console, Text.assemble((f"▶ {tool}", "bold"), f"({given})"))

    def _answer(self, text: str) -> None:
        lines = "\n".join(line for line in text.splitlines() if line.strip())
        if self._console.is_terminal:
            self._console.print(Padding(Text(lines, style="cyan"), (0, 0, 0, 2)))
        else:
            self.tell(indent(lines, "  "))


def tell(console: Console, text: str) -> None:
    show(console, Text(text))


def show(console: Console, text: Text) -> None:
    """On a terminal, wrapped between words."""
    console.print(text, soft_wrap=not console.is_terminal)


def _text_of(result: CallToolResult) -> str:
    return "\n".join(each.text for each in result.content if isinstance(each, TextContent))
