"""Stays subscribed to conversations, so that their turns go on when the process that talks in them ends.

A turn whose last subscribed socket closes is stopped, and leaves its conversation unusable until the App Server is
started again (seen with 0.34.12). So the package starts this script, in a session of its own and with the other end of
a socket as its stdin, and writes one JSON object a line: where the server is, and then each conversation. Every line is
answered with an empty one. An empty object says goodbye. After that, or once the socket has ended in any other way, the
script ends too, but not before the turns have. While it runs it holds the lock `in-use`, so that the server goes on;
and the lock `active` while a turn runs, waits for a decision, or may have begun.

    child.py
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, cast

LONGEST_TURN_SECONDS = 3600
"""After this a turn is no longer kept alive."""

LINGER_SECONDS = 3
"""How long it stays when nobody said goodbye: for the process to connect again, without losing the question of a turn
that waits for a decision, and for the server to begin a turn of which the process did not hear."""

STALLED_SECONDS = 120
"""After this an answer that has begun and does not go on is given up, as it is after the server's disk was full."""

QUIET_SECONDS = 0.3
"""How long nothing may come before the script ends: a message in the server's queue begins its turn within that."""

IDLE = ("", "WAITING_ON_INPUT")
"""The states of a conversation without a turn."""

FENCE = "fence"
"""The id of the request whose answer comes after all that the server has said before."""

FRAME_BYTES = 64 * 1024 * 1024

Json = dict[str, Any]


class Child:
    """The subscriptions of one process that talks with the server."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = control.makefile("rb")
        self._socket: Any = None
        self._watched = False
        self._busy: set[str] = set()
        self._answering: dict[str, float] = {}
        """When each conversation's answer that has begun last went on."""
        self._fenced = False
        self._active: int | None = None
        self._turns: set[str] = set()
        """The conversations whose turn has not ended: those that are busy, and those that wait for a decision."""
        self._left = False
        """True if the process has ended without a goodbye, perhaps after it handed a message over."""

    def run(self) -> None:
        """Stay subscribed until the process and the turns have ended, or the server has."""
        # Late: the fork before it is waited for.
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        place = self._line()
        if place is None:
            return
        if place["in_use"]:
            _lock(os.open(place["in_use"], os.O_RDWR))
            self._active = os.open(place["active"], os.O_RDWR)
        headers = {"Authorization": f"Bearer {place['token']}"} if place["token"] else {}
        try:
            with connect(
                place["url"], additional_headers=headers, proxy=None, max_size=FRAME_BYTES, compression=None
            ) as self._socket:
                self._answer()
                threading.Thread(target=self._take_orders, daemon=True).start()
                self._read_until_done()
        except (WebSocketException, OSError, ValueError):
            return  # the server has ended, and its turns with it

    def _read_until_done(self) -> None:
        while True:
            try:
                self._read(json.loads(self._socket.recv(timeout=QUIET_SECONDS)))
            except TimeoutError:
                now = time.monotonic()
                for key, at in list(self._answering.items()):
                    if now - at > STALLED_SECONDS:
                        self._busy.discard(key)
                if self._fenced and not self._busy:
                    return

    def _take_orders(self) -> None:
        while order := self._line():
            self._watched = True
            self._ask(_key(order), {"type": "runtime_start", **order, "wait_for_replay": True})
        if order is None and self._watched:
            self._left = True
            self._hold_active()
            time.sleep(LINGER_SECONDS)
        timer = threading.Timer(LONGEST_TURN_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()
        # A turn may have begun of which nothing has been read yet. Asking for the state of every conversation would
        # keep the server busy for about 30 ms each, for nothing: each one's frames come by themselves.
        self._ask(FENCE, {"type": "app_server_info"})

    def _ask(self, request_id: str, command: Json) -> None:
        self._socket.send(json.dumps({**command, "request_id": request_id}))

    def _read(self, frame: Json) -> None:
        kind, key = frame.get("type"), _key(frame.get("runtime") or frame)
        if kind == "update_loop_status":
            loop = frame["loop_status"]
            status = loop.get("status", "")
            # A process that has ended cannot be asked to decide about a tool.
            (self._busy.discard if status.startswith("WAITING_ON_") else self._busy.add)(key)
            (self._turns.discard if status in IDLE else self._turns.add)(key)
            self._hold_active()
            answering = status == "PROCESSING_API_RESPONSE" and loop.get("active_run_ids")
            if answering and not loop.get("executing_tool_call_ids"):
                self._answering[key] = time.monotonic()
            else:
                self._answering.pop(key, None)
        elif kind == "stream_delta" and key in self._answering:
            self._answering[key] = time.monotonic()
        elif kind == "runtime_start_response":
            self._answer()
        elif frame.get("request_id") == FENCE:
            self._fenced = True

    def _hold_active(self) -> None:
        if self._active is not None:
            _lock(self._active, shared=self._left or bool(self._turns))

    def _line(self) -> Json | None:
        try:
            line = self._lines.readline()
        except OSError:
            return None
        return cast("Json", json.loads(line)) if line else None

    def _answer(self) -> None:
        try:
            self._control.sendall(b"\n")
        except OSError:
            return  # no request waits for it


def _key(runtime: Json) -> str:
    return json.dumps([runtime.get("agent_id"), runtime.get("conversation_id")])


def _lock(descriptor: int, *, shared: bool = True) -> None:
    """Lock an open file, shared, or unlock it. Does nothing if the server is being ended."""
    import fcntl

    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB if shared else fcntl.LOCK_UN)


def main() -> None:
    """Detach from the process that started this, and stay subscribed."""
    if os.fork():
        # The starter waits for this process, and never has to reap the other.
        os._exit(0)
    for sign in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    Child(socket.socket(fileno=0)).run()
    os._exit(0)


if __name__ == "__main__":
    main()
