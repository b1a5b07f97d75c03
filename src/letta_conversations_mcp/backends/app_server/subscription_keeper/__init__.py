"""Keeps our subscriptions in a process of their own, so that turns go on when this process ends.

Exists only because of a fault of Letta Code (seen with 0.34.12): the App Server stops a turn whose last subscribed
socket closes, and the conversation then takes no message until the server is started again. Once that is fixed, this
package and the calls in `connection` can be deleted. `child` is the script that holds the subscriptions.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.subscription_keeper import child
from letta_conversations_mcp.core.model import ConversationRef

START_SECONDS = 20
"""For the child to start and connect, on a machine that is busy."""

logger = logging.getLogger(__name__)


class SubscriptionKeeper:
    """The subscriptions of one connection. Without the child, turns last only as long as this process does."""

    def __init__(self, url: str, token: str, in_use: Path | None) -> None:
        active = in_use.with_name(supervisor.ACTIVE) if in_use else ""
        self._place = {"url": url, "token": token, "in_use": str(in_use or ""), "active": str(active)}
        self._lock = anyio.Lock()
        self._control: socket.socket | None = None
        self._closed = False

    async def watch(self, ref: ConversationRef, mode: str) -> None:
        """Subscribe to a conversation from the child process too."""
        if sys.platform == "win32":
            return  # there is no fork
        order: dict[str, object] = {
            "agent_id": ref.agent_id,
            "conversation_id": ref.conversation_id,
            "mode": mode,
            "client_info": {"name": "letta-conversations-mcp"},
        }
        async with self._lock:
            try:
                await anyio.to_thread.run_sync(self._tell, order)
            except (OSError, subprocess.SubprocessError) as error:
                logger.warning("the turns in conversation %s will not outlive this process: %s", ref, error)

    def close(self, *, goodbye: bool) -> None:
        """Let the child go; it ends once the turns have. `goodbye`: the server has answered everything we asked, so the
        child need not wait for more."""
        self._closed = True
        if self._control is not None:
            if goodbye:
                with suppress(OSError):
                    self._control.sendall(b"{}\n")
            self._control.close()
            self._control = None

    def _tell(self, order: dict[str, object]) -> None:
        if self._control is None:
            self._control = self._start()
        _exchange(self._control, order)
        if self._closed:
            self.close(goodbye=False)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(START_SECONDS)
        try:
            with theirs:
                subprocess.run(
                    [sys.executable, child.__file__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    timeout=START_SECONDS,
                    check=True,
                )
            _exchange(ours, self._place)
        except BaseException:
            ours.close()
            raise
        return ours


def _exchange(control: socket.socket, order: object) -> None:
    control.sendall(json.dumps(order).encode() + b"\n")
    if not control.recv(1):
        raise ConnectionResetError("the subscription keeper has ended")
