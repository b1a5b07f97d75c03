"""One hand-over at a time per conversation, among all processes of this machine that use an App Server.

The App Server puts messages that reach a conversation within a few milliseconds into one turn, and lets only one agent
at a time answer in its conversation `default` (both seen with 0.34.12). File locks, which the kernel releases with the
process that holds them, keep our processes from doing that to each other.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.core.errors import Busy
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, ConversationRef

LOCK_FILES = 64
"""Conversations share this many files, so that a long-lived folder does not fill with them."""

WAIT_SECONDS = 2
"""How long to wait for another process's hand-over. It takes about a tenth of a second."""


def lock_folder(server: AppServer) -> Path:
    """Where the lock files of a server are: in its state folder, or for one that runs elsewhere a temporary one."""
    if server.in_use is not None:
        return server.in_use.parent / "locks"
    name = hashlib.sha256(server.url.encode()).hexdigest()[:16]
    user = os.getuid() if sys.platform != "win32" else ""
    return Path(tempfile.gettempdir()) / f"letta-conversations-mcp-{user}" / name


@asynccontextmanager
async def turn_lock(folder: Path, ref: ConversationRef) -> AsyncGenerator[Callable[[], None]]:
    """Hold a conversation's lock until the context ends or the yielded function is called.

    For `default` there is one lock for all agents. Raises Busy when another process holds it for too long. Does
    nothing on Windows, or where no lock file can be made: the server's own answers are still looked at.
    """
    descriptor = _open(folder, ref) if sys.platform != "win32" else None

    def release() -> None:
        nonlocal descriptor
        if descriptor is not None:
            supervisor.unlock(descriptor)
            descriptor = None

    try:
        if descriptor is not None:
            with anyio.move_on_after(WAIT_SECONDS) as wait:
                while not supervisor.lock(descriptor):  # noqa: ASYNC110 - a lock of the kernel's, not the loop's
                    await anyio.sleep(supervisor.POLL_SECONDS)
            if wait.cancelled_caught:
                raise Busy(ref.conversation_id)
        yield release
    finally:
        release()


def _open(folder: Path, ref: ConversationRef) -> int | None:
    name = DEFAULT_CONVERSATION
    if ref.conversation_id != DEFAULT_CONVERSATION:
        digest = hashlib.sha256(f"{ref.agent_id} {ref.conversation_id}".encode()).digest()
        name = str(digest[0] % LOCK_FILES)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return supervisor.open_lock(folder / name)
    except OSError:
        return None
