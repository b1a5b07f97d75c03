"""A chat on a terminal: what keys do, and what is said at the beginning and at the end."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
from anyio.abc import TaskGroup

from letta_conversations_mcp.cli.chat import commands, conversation_commands
from letta_conversations_mcp.cli.chat.completion import ChatCompleter
from letta_conversations_mcp.cli.chat.connection import Connection, ToolFailed
from letta_conversations_mcp.cli.chat.entries import Note
from letta_conversations_mcp.cli.chat.session import Session
from letta_conversations_mcp.cli.chat.terminal_screen import TerminalScreen
from letta_conversations_mcp.cli.program_name import program_name


class _Keys:
    """What the person does at the keyboard, as work of the session."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.session: Session
        self.screen: TerminalScreen
        self._tasks = tasks
        self._order = anyio.Lock()
        self._leaves_next = False

    async def begin(self, start: Callable[[Session], Awaitable[None]]) -> None:
        async with self._order:
            try:
                await start(self.session)
            except ToolFailed as error:
                await self.session.fail(error)
            self.session.begins = False
            self.screen.refresh()

    def submit(self, text: str) -> None:
        self._leaves_next = False
        self._tasks.start_soon(self._handle, text)

    async def _handle(self, text: str) -> None:
        session = self.session
        # First come, first served: a command that takes long is followed by the next one, not passed.
        async with self._order:
            if commands.is_command(text):
                await session.show(Note(f"{text}", spaced=True))
                await commands.run(session, text)
                if session.leaving.is_set():
                    self.screen.leave()
            elif not session.place.agent_id:
                await session.fail("Choose an agent first: /agents lists them, /agent NAME chooses one.")
                self.screen.give_back(text)
            else:
                session.say(text.removeprefix("/") if text.startswith("//") else text)

    def interrupt(self) -> None:
        turn = self.session.turn
        if turn is not None and turn.is_watched:
            turn.stop_watching()
            self._leaves_next = True
            self._tasks.start_soon(
                self.session.note,
                "Not waiting any more; the agent goes on, and its reply is shown when it is there. /cancel stops it. "
                "Ctrl-C again leaves.",
            )
        elif self._leaves_next:
            self.screen.leave()
        else:
            self._leaves_next = True
            self._tasks.start_soon(self.session.note, "Ctrl-C again leaves, and so does Ctrl-D.")

    def unfold(self) -> None:
        self._tasks.start_soon(conversation_commands.show, self.session, "")


async def talk(
    connection: Connection, tasks: TaskGroup, where: str, start: Callable[[Session], Awaitable[None]]
) -> int:
    """Until the person leaves. Gives the exit status."""
    keys = _Keys(tasks)
    completer = ChatCompleter()
    screen = TerminalScreen(
        status=lambda: keys.session.status,
        queued=lambda: keys.session.queued,
        submit=keys.submit,
        interrupt=keys.interrupt,
        unfold=keys.unfold,
        completer=completer,
    )
    session = Session(connection, screen, tasks, where)
    keys.session, keys.screen, completer.session = session, screen, session

    _log_to(session, tasks)
    tasks.start_soon(keys.begin, start)
    await screen.run()
    _say_goodbye(session)
    return 0


class _LogNotes(io.TextIOBase):
    """A stream whose lines are shown above the input, so that they do not break the screen."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._loop = asyncio.get_running_loop()

    def write(self, text: str, /) -> int:
        if text.strip():
            # Libraries log in threads of their own, too.
            self._loop.call_soon_threadsafe(self._show, text.strip())
        return len(text)


def _log_to(session: Session, tasks: TaskGroup) -> None:
    stream = _LogNotes(lambda line: tasks.start_soon(session.note, line))
    for handler in logging.getLogger().handlers:
        # The status line already shows what warnings are about.
        handler.setLevel(max(handler.level, logging.ERROR))
        if isinstance(handler, logging.StreamHandler):
            cast("logging.StreamHandler[io.TextIOBase]", handler).setStream(stream)


def _say_goodbye(session: Session) -> None:
    place = session.place
    if session.turn is not None:
        print("The agent goes on; its reply will be in the conversation.")
    for text in session.queued:
        if text:
            print(f"Not sent: {text}", file=sys.stderr)
    if place.conversation_id:
        owner = f" --agent {place.agent_id}" if "agent" in place.address else ""
        print(f"To continue:\n  {program_name()} chat {place.conversation_id}{owner}")
