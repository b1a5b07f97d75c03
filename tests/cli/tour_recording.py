"""Records the tour for the README: `make recording`.

The demo runs in a terminal of its own. What is on its screen after each call and each answer becomes a picture of an
animation, at a pace at which it can be read. It ends before the tour's fourth part.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "tour.svg"
COLUMNS, ROWS = 84, 28
END = "4. A branch"
CALL_SECONDS, ANSWER_SECONDS, LAST_SECONDS = 1.0, 2.0, 3.5
COLOURS = {"default": 39, "green": 32, "cyan": 36}


def screens(home: str) -> Generator[pyte.Screen]:
    """The screen after everything that the demo writes."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    process, side = pty.fork()
    if process == 0:
        env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8", "HOME": home}
        os.execve(sys.executable, [sys.executable, "-m", "letta_conversations_mcp", "demo"], env)  # noqa: S606
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    while True:
        try:
            data = os.read(side, 65536)
        except OSError:  # It has ended.
            break
        stream.feed(data)
        yield screen
    os.close(side)
    os.waitpid(process, 0)


def drawn(line: dict[int, pyte.screens.Char]) -> str:
    """A line of the screen with its colours. That of a spinner is empty."""
    if _spins("".join(line[column].data for column in range(COLUMNS))):
        return ""
    text, before = "", ""
    for column in range(COLUMNS):
        char = line[column]
        # Bold colours are other colours to many programs.
        style = f"\x1b[0;{'1;' if char.bold and char.fg == 'default' else ''}{COLOURS.get(char.fg, 39)}m"
        text += (style if style != before else "") + char.data
        before = style
    return f"{text}\x1b[0m"


def _spins(line: str) -> bool:
    return any("\u2800" <= char <= "\u28ff" for char in line)


def main() -> None:
    events: list[str] = []
    seen, at = "", 0.0
    with TemporaryDirectory() as folder:
        for screen in screens(folder):
            if any(END in line for line in screen.display):
                break
            picture = "\r\n".join(drawn(screen.buffer[row]) for row in range(ROWS))
            if picture.rstrip() != seen:
                seen = picture.rstrip()
                events.append(json.dumps([at, "o", f"\x1b[?25l\x1b[H\x1b[2J{picture}"]))
                at += CALL_SECONDS if any(map(_spins, screen.display)) else ANSWER_SECONDS
        head = json.dumps({"version": 2, "width": COLUMNS, "height": ROWS})
        cast = Path(folder) / "tour.cast"
        cast.write_text("\n".join([head, *events, json.dumps([at + LAST_SECONDS, "o", ""])]) + "\n")
        subprocess.run(
            [Path(sys.executable).with_name("termtosvg"), "render", cast, PICTURE, "-t", "window_frame"], check=True
        )


if __name__ == "__main__":
    main()
