"""A real pseudo-terminal with the chat in it, and what a person would see there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pyte

from tests.rig.bounds import HANG_SECONDS

PROMPT = "you ▸"

CTRL_C = "\x03"
CTRL_D = "\x04"
CTRL_O = "\x0f"
ALT_ENTER = "\x1b\r"
TAB = "\t"
UP = "\x1b[A"


class _Emulator(pyte.HistoryScreen):
    """A terminal that answers what programs ask it."""

    def __init__(self, columns: int, rows: int, answer: Any) -> None:
        super().__init__(columns, rows, history=20_000, ratio=0.5)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Terminal:
    """The chat in a terminal. `raw` is everything that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], side: int, columns: int, rows: int) -> None:
        self.raw = ""
        self.status: int | None = None
        self._process = process
        self._side = side
        self._screen = _Emulator(columns, rows, self.press)
        self._stream = pyte.ByteStream(self._screen)
        self._news = anyio.Event()
        self.columns = columns

    def take(self) -> None:
        """Read what is there. At the end of the process, stop."""
        try:
            data = os.read(self._side, 65536)
        except OSError:
            data = b""
        if data:
            self.raw += data.decode(errors="replace")
            self._stream.feed(data)
        else:
            asyncio.get_running_loop().remove_reader(self._side)
            self.status = self._process.wait()
        self._news.set()
        self._news = anyio.Event()

    @property
    def lines(self) -> list[str]:
        """Every line, those that have scrolled away too."""
        above = [
            "".join(line[column].data for column in range(self.columns)).rstrip() for line in self._screen.history.top
        ]
        return [*above, *(line.rstrip() for line in self._screen.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    @property
    def flat(self) -> str:
        """The text without the breaks that the width made."""
        return " ".join(self.text.split())

    @property
    def status_line(self) -> str:
        """The last line that is not empty."""
        return self.text.rpartition("\n")[2]

    def colours(self, words: str) -> set[str]:
        """The colours in which the first line with these words shows them."""
        for line in range(self._screen.lines):
            shown = self._screen.display[line]
            if words in shown:
                start = shown.index(words)
                return {self._screen.buffer[line][start + each].fg for each in range(len(words))}
        raise AssertionError(f"{words!r} is not on the screen:\n{self.text}")

    @property
    def echoes(self) -> bool:
        """True if the terminal shows what is typed, as a shell needs it."""
        return bool(termios.tcgetattr(self._side)[3] & termios.ECHO)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def press(self, keys: str) -> None:
        os.write(self._side, keys.encode())

    def enter(self, line: str) -> None:
        self.press(f"{line}\r")

    async def until(self, words: str, *, times: int = 1) -> None:
        """Wait until the words have been shown so often."""
        await self._until(lambda: self.flat.count(words) >= times, f"{words!r} × {times}")

    async def until_status(self, words: str) -> None:
        await self._until(lambda: words in self.status_line, f"{words!r} in the status line")

    async def until_not_status(self, words: str) -> None:
        await self._until(lambda: words not in self.status_line, f"no {words!r} in the status line")

    async def ended(self) -> int:
        """The exit status, once the process has ended."""
        await self._until(lambda: self.status is not None, "the end of the process")
        assert self.status is not None
        return self.status

    async def _until(self, is_so: Any, what: str) -> None:
        with anyio.move_on_after(HANG_SECONDS):
            while not is_so():
                assert self.status is None or what.startswith("the end"), f"the chat ended:\n{self.text}"
                await self._news.wait()
            return
        raise AssertionError(f"waited in vain for {what}:\n{self.text}")


def _spawn(
    command: Sequence[str], size: tuple[int, int], env: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """A process in a terminal of its own, and our side of that."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
    ours, its = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        command,
        env={**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", "TZ": "UTC", **env},
        preexec_fn=lambda: os.login_tty(its),
        pass_fds=[its],
    )
    os.close(its)
    return process, ours


@asynccontextmanager
async def chat(
    base_url: str, *arguments: str, columns: int = 80, rows: int = 40, env: Mapping[str, str] | None = None
) -> AsyncGenerator[Terminal]:
    """The command in a terminal of this size, ended with the test if it still runs."""
    process, ours = _spawn(
        [sys.executable, "-m", "letta_conversations_mcp", "chat", "--letta-base-url", base_url, *arguments],
        (rows, columns),
        env or {},
    )
    terminal = Terminal(process, ours, columns, rows)
    asyncio.get_running_loop().add_reader(ours, terminal.take)
    try:
        yield terminal
    finally:
        if terminal.status is None:
            process.terminate()
            await terminal.ended()
        os.close(ours)
