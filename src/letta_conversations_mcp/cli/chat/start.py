"""How a chat begins and ends: on a terminal, or with lines from a pipe."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from letta_conversations_mcp.backends.open import check_backend
from letta_conversations_mcp.cli.chat import commands
from letta_conversations_mcp.cli.chat import navigation_commands as navigation
from letta_conversations_mcp.cli.chat.connection import Connection, ToolFailed, connect
from letta_conversations_mcp.cli.chat.screen import PlainScreen
from letta_conversations_mcp.cli.chat.session import Session
from letta_conversations_mcp.cli.program_name import program_name
from letta_conversations_mcp.observability.logs import configure_logging
from letta_conversations_mcp.settings import CLOUD_URL, BackendSettings
from letta_conversations_mcp.tools.results.agents import AgentList


def chat(settings: BackendSettings, conversation: str, agent: str) -> int:
    """Talk until the person leaves. Returns the exit status: 0, 1 if something failed in a pipe, or as a shell reports
    the signal that ended the chat. The terminal is left as it was.

    Raises NotConfigured.
    """
    check_backend(settings)
    return anyio.run(_chat, settings, conversation, agent)


async def _chat(settings: BackendSettings, conversation: str, agent: str) -> int:
    configure_logging(settings)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    status = 0
    async with connect(settings) as connection, anyio.create_task_group() as tasks:

        async def end_with_signal() -> None:
            nonlocal status
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
                async for number in signals:
                    status = 128 + number
                    tasks.cancel_scope.cancel()

        if sys.platform != "win32":
            tasks.start_soon(end_with_signal)

        async def start(session: Session) -> None:
            await _begin(session, conversation, agent)

        if is_terminal:
            from letta_conversations_mcp.cli.chat.terminal_chat import talk

            status = await talk(connection, tasks, _place_name(settings), start)
        else:
            status = await _talk_in_lines(connection, tasks, _place_name(settings), start)
        await connection.settle()
        tasks.cancel_scope.cancel()
    return status


def _place_name(settings: BackendSettings) -> str:
    if settings.uses_local:
        return settings.app_server_url or "this machine"
    return "Letta Cloud" if settings.api_url == CLOUD_URL else settings.api_url.partition("://")[2]


async def _begin(session: Session, conversation: str, agent: str) -> None:
    """Go to what the command line names. Raises ToolFailed."""
    if agent:
        chosen = await navigation.find_agent(session, agent)
        if not conversation:
            await navigation.begin(session, chosen)
            return
        await session.go_to_agent(chosen)
    if conversation:
        await navigation.title(session)
        await navigation.switch(session, conversation)
        return
    found = (await session.connection.call("list_agents", AgentList, limit=2)).agents
    if len(found) == 1:
        await navigation.begin(session, found[0])
    else:
        await navigation.title(session)
        await navigation.agents(session, "")


async def _talk_in_lines(
    connection: Connection, tasks: TaskGroup, where: str, start: Callable[[Session], Awaitable[None]]
) -> int:
    screen = PlainScreen()
    session = Session(connection, screen, tasks, where)
    try:
        await start(session)
    except ToolFailed as error:
        # The chat ends here, and takes no command.
        await session.fail(str(error).replace("/agents lists", f"{program_name()} list-agents lists"))
        return 1
    if not session.place.agent_id:
        await session.fail("Name the agent with --agent.")
        return 2
    # Cancelled with the chat, although a thread waits for a line.
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        text = line.strip()
        if not text:
            continue
        if commands.is_command(text):
            await commands.run(session, text)
        else:
            session.say(text.removeprefix("/"))
        await session.idle.wait()
        if session.leaving.is_set():
            break
    return 1 if screen.failed else 0
