"""Stays subscribed to conversations, so that their turns go on when the process that talks in them ends.

A turn whose last subscribed socket closes is stopped, and leaves its conversation unusable until the App Server is
started again (seen with 0.34.12). So the package starts this script, in a session of its own and with the other end of
a socket as its stdin, and writes one JSON object a line: where the server is, and then each conversation. Every line is
answered with an empty one. An empty object says goodbye. After that, or once the socket has ended in any other way, the
script ends too, but not before the turns have. While it runs it holds the lock `in-use`, so that the server goes on.

    child.py
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any, cast

LONGEST_TURN_SECONDS = 3600
"""After this a turn is left to itself."""

LINGER_SECONDS = 3
"""How long it stays when nobody said goodbye: for the process to connect again, without losing the question of a turn
that waits for a decision, and for the server to begin a turn of which the process did not hear."""

FRAME_BYTES = 64 * 1024 * 1024

Json = dict[str, Any]


class Child:
    """The subscriptions of one process that talks with the server."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = control.makefile("rb")
        self._socket: Any = None
        self._watched: dict[str, Json] = {}
        self._busy: set[str] = set()
        self._unsure: set[str] = set()
        """The conversations whose state has been asked for, after the process has ended."""
        self._ending = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Stay subscribed until the process and the turns have ended, or the server has."""
        # Late: the fork before it is waited for.
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        place = self._line()
        if place is None:
            return
        _hold(place["in_use"])
        headers = {"Authorization": f"Bearer {place['token']}"} if place["token"] else {}
        try:
            with connect(
                place["url"], additional_headers=headers, proxy=None, max_size=FRAME_BYTES, compression=None
            ) as self._socket:
                self._answer()
                threading.Thread(target=self._take_orders, daemon=True).start()
                for data in self._socket:
                    self._read(json.loads(data))
                    if self._is_done():
                        return
        except (WebSocketException, OSError, ValueError):
            return  # the server has ended, and its turns with it

    def _take_orders(self) -> None:
        while order := self._line():
            key = _key(order)
            self._watched[key] = order
            self._ask(key, {"type": "runtime_start", **order, "wait_for_replay": True})
        if order is None and self._watched:
            time.sleep(LINGER_SECONDS)
        with self._lock:
            self._ending = True
            self._unsure = set(self._watched)
        timer = threading.Timer(LONGEST_TURN_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()
        # A turn may have begun of which nothing has been told yet.
        for key, order in self._watched.items():
            runtime = {name: order[name] for name in ("agent_id", "conversation_id")}
            self._ask(key, {"type": "sync", "runtime": runtime, "recover_approvals": False})
        if not self._watched:
            self._socket.close()

    def _ask(self, key: str, command: Json) -> None:
        self._socket.send(json.dumps({**command, "request_id": key}))

    def _read(self, frame: Json) -> None:
        kind = frame.get("type")
        if kind == "update_loop_status":
            key, status = _key(frame.get("runtime") or frame), frame["loop_status"].get("status", "")
            # Whoever has ended cannot be asked to decide about a tool.
            (self._busy.discard if status.startswith("WAITING_ON_") else self._busy.add)(key)
        elif kind == "runtime_start_response":
            self._answer()
        elif kind == "sync_response":
            with self._lock:
                self._unsure.discard(frame["request_id"])

    def _is_done(self) -> bool:
        with self._lock:
            return self._ending and not self._unsure and not self._busy

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
            return  # nobody waits for it any more


def _key(runtime: Json) -> str:
    return json.dumps([runtime.get("agent_id"), runtime.get("conversation_id")])


def _hold(path: str) -> None:
    """Lock the file, shared, until this process ends."""
    if path:
        import fcntl

        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)


def main() -> None:
    """Leave whoever started this, and stay subscribed."""
    if os.fork():
        # Who started it waits for this process, and never has to collect the other.
        os._exit(0)
    for sign in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    Child(socket.socket(fileno=0)).run()
    os._exit(0)


if __name__ == "__main__":
    main()
