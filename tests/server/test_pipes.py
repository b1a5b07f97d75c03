"""Our stdin and stdout without threads: lines in, lines out, and nothing else in between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import suppress

import anyio
import pytest

from letta_conversations_mcp.server.pipes import Output, lines
from tests.rig.bounds import HANG_SECONDS
from tests.rig.waiting import at_rest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows uses the SDK's own files")

Ends = tuple[int, int]


def of_a_socket() -> Ends:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


@pytest.fixture(params=[os.pipe, of_a_socket], ids=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Generator[Ends]:
    """What can be read from, and what can be written to."""
    make: Callable[[], Ends] = request.param
    both = make()
    yield both
    for each in both:
        with suppress(OSError):
            os.close(each)


async def test_lines_come_whole_however_they_arrive(ends: Ends) -> None:
    read_from, write_to = ends
    pieces = [b"one\ntwo", b" goes on\n\nfour: \xc3", b"\xa9\nno \xff UTF-8\n", b"the last"]
    found: list[str] = []

    async def read() -> None:
        found.extend([line async for line in lines(read_from)])

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for piece in pieces:
                os.write(write_to, piece)
                await at_rest()
            os.close(write_to)

    assert found == ["one", "two goes on", "", "four: é", "no \ufffd UTF-8", "the last"]


async def test_who_does_not_read_holds_up_nothing_else(ends: Ends) -> None:
    read_from, write_to = ends
    text = "é" * 500_000
    received = bytearray()
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Output(write_to).write, text)
            # More than fits in between: the writer waits, and we go on.
            await at_rest()
            while len(received) < len(text.encode()):
                await anyio.wait_readable(read_from)
                received += os.read(read_from, 100_000)

    assert received.decode() == text


async def test_who_has_gone_is_noticed(ends: Ends) -> None:
    read_from, write_to = ends
    os.close(read_from)

    with anyio.fail_after(HANG_SECONDS), pytest.raises(BrokenPipeError):
        await Output(write_to).write("hello")


STRAY = """
import subprocess, sys
from letta_conversations_mcp.server.pipes import standard_pipes
standard_pipes()
print("printed", flush=True)
subprocess.run(["/bin/sh", "-c", "echo told by a child; cat"])
print(repr(sys.stdin.read()), flush=True)
"""


def test_what_else_is_read_and_printed_stays_apart_from_the_protocol() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRAY], input=b"protocol\n", capture_output=True, timeout=HANG_SECONDS, check=True
    )

    assert done.stdout == b""
    assert done.stderr.decode().splitlines() == ["printed", "told by a child", "''"]


@pytest.mark.parametrize("streams", ["< /dev/null", "<&-", "2>&-"], ids=["a file", "no stdin", "no stderr"])
def test_what_cannot_be_waited_for_is_left_to_the_sdk(streams: str) -> None:
    script = "from letta_conversations_mcp.server.pipes import standard_pipes; print(standard_pipes())"
    command = ["/bin/sh", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, script]
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=HANG_SECONDS, check=True)

    assert done.stdout == b"(None, None)\n"
