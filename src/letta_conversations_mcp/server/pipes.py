"""stdin and stdout for the SDK's transport, read and written without threads.

The SDK's own files need them, and handing each line to a thread and waiting for it takes as long as the rest of a short
call. Only pipes and sockets can be waited for, which is what clients connect a server with; for anything else, a file
or a terminal, the SDK's own are used.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import AsyncGenerator
from typing import Any

import anyio

READ_BYTES = 65_536


def standard_pipes() -> tuple[Any, Any]:
    """The input and the output that `stdio_server` takes; None twice if it has to use its own.

    Descriptor 0 then leads nowhere and 1 to stderr, as with the SDK: what else is read or printed here, or by a process
    that is started here, stays apart from the protocol.
    """
    if sys.platform == "win32" or sys.stderr is None or not (_is_pipe(0) and _is_pipe(1)):
        return None, None
    read_from, write_to = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return lines(read_from), Output(write_to)


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def lines(descriptor: int) -> AsyncGenerator[str]:
    """The lines that arrive, without their ends. Bytes that are no UTF-8 are replaced."""
    line = bytearray()
    while True:
        await anyio.wait_readable(descriptor)
        data = os.read(descriptor, READ_BYTES)
        if not data:
            break
        first, *following = data.split(b"\n")
        line += first
        for each in following:
            yield line.decode("utf-8", "replace")
            line = bytearray(each)
    if line:
        yield line.decode("utf-8", "replace")


class Output:
    """Writes at once, and never blocks the event loop, however slowly its reader reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    async def write(self, text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            if not self._room.poll(0):
                await anyio.wait_writable(self._descriptor)
            # No more than this is certain to be taken without blocking.
            rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]

    async def flush(self) -> None:
        """Nothing is kept back."""
