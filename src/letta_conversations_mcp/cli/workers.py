"""`serve --http --workers N`: processes that accept connections at one listening socket, and their supervisor.

Each worker is a replica in all respects. The supervisor opens the socket, starts the workers, replaces one that ends,
passes on SIGTERM and SIGINT, and ends when they have. It answers no request. A worker whose supervisor is gone drains
and ends. Run as a module, this is a worker: it reads its settings from stdin, which stays open as long as the
supervisor lives.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from subprocess import PIPE
from typing import cast

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from pydantic import SecretStr

from letta_conversations_mcp.cli.exit_status import FAILED, CommandFailed, run_to_status
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

MODULE = "letta_conversations_mcp.cli.workers"

RESTART_SECONDS = 1.0
"""Pause before replacing a worker that ended before it served."""

READY = b"ready\n"
"""What a worker writes to stdout once it serves."""


def supervise(settings: Settings, bound: socket.socket, announce: Callable[[socket.socket], None]) -> int:
    """Run the workers until a signal ends them; `announce` is called once when the first one serves. The exit status is
    0 if all that served ended in order. Raises CommandFailed on Windows."""
    if sys.platform == "win32":
        raise CommandFailed("--workers needs signals that Windows does not have: start a server for each --port there.")
    if not settings.request_state_keys:
        settings = settings.model_copy(update={"request_state_keys": (SecretStr(secrets.token_hex(32)),)})
    return anyio.run(_Supervisor(settings, bound, announce).run)


class _Supervisor:
    def __init__(self, settings: Settings, bound: socket.socket, announce: Callable[[socket.socket], None]) -> None:
        self._settings = settings
        self._bound = bound
        self._announce = announce
        self._processes: set[Process] = set()
        self._first_serves = anyio.Event()
        self._is_stopping = False
        self._status = 0

    async def run(self) -> int:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with background_tasks() as background:
                background.start_soon(self._pass_on, signals)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(self._keep)
                    # What the first one cannot use, no other could.
                    await self._first_serves.wait()
                    for _ in range(self._settings.workers - 1):
                        workers.start_soon(self._keep)
        return self._status

    async def _pass_on(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Every signal: a worker skips the waiting at its second one."""
        async for _ in signals:
            self._is_stopping = True
            self._first_serves.set()
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    async def _keep(self) -> None:
        """Have a worker, one after the other, until the end."""
        while not self._is_stopping:
            status, has_served = await self._run_worker()
            if self._is_stopping:
                if has_served and status:
                    self._status = FAILED
            elif not self._first_serves.is_set():
                # It has said why.
                self._is_stopping = True
                self._status = max(status, FAILED)
                self._first_serves.set()
            else:
                logger.warning("a worker ended with status %s; another takes its place", status)
                if not has_served:
                    await anyio.sleep(RESTART_SECONDS)

    async def _run_worker(self) -> tuple[int, bool]:
        """Run one to its end. Returns its exit status, and whether it has served."""
        has_served = False
        listening = self._bound.fileno()
        async with await anyio.open_process(
            # -P: not with the modules of the folder in which the server was started.
            [sys.executable, "-P", "-m", MODULE, str(listening)],
            stdin=PIPE,
            stdout=PIPE,
            stderr=None,
            pass_fds=[listening],
            # Ctrl-C at the terminal is for the supervisor alone.
            start_new_session=True,
        ) as process:
            self._processes.add(process)
            try:
                if self._is_stopping:
                    process.send_signal(signal.SIGTERM)
                stdin, stdout = cast("ByteSendStream", process.stdin), cast("ByteReceiveStream", process.stdout)
                with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                    await stdin.send(pickle.dumps(self._settings))
                    has_served = await stdout.receive() == READY
                if has_served and not self._first_serves.is_set():
                    self._announce(self._bound)
                    self._first_serves.set()
                return await process.wait(), has_served
            finally:
                self._processes.discard(process)


def _work() -> int:
    settings: Settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the supervisor
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    from letta_conversations_mcp.cli.serve import serve_worker

    return serve_worker(settings, socket.socket(fileno=int(sys.argv[1])), lambda: os.write(1, READY))


def _end_with_supervisor() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run_to_status(_work))
