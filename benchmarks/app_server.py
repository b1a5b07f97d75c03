"""The App Server of this machine's agents without us: started by its own command, asked over a bare WebSocket."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from websockets.sync.client import ClientConnection, connect

from benchmarks.processes import END_SECONDS, ServerEnded

MODEL = "lmstudio/fake-1"

Json = dict[str, Any]


class AppServerClient:
    """The least that talks with an App Server: one socket, one request at a time, blocking."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def request(self, command: str, **fields: object) -> Json:
        """Ask, and read on until the answer."""
        request_id = str(uuid.uuid4())
        self._socket.send(json.dumps({"type": command, "request_id": request_id, **fields}))
        while (frame := self._next()).get("request_id") != request_id:
            pass
        if frame.get("success") is False or frame.get("accepted") is False:
            raise RuntimeError(f"{command} was refused: {frame}")
        return frame

    def create_agent(self) -> str:
        return self.request("agent_create", body={"name": "bare", "model": MODEL})["agent"]["id"]

    def open_conversation(self, agent_id: str) -> Json:
        """A new conversation, ready to be talked in."""
        made = self.request("conversation_create", body={"agent_id": agent_id})["conversation"]
        runtime = {"agent_id": agent_id, "conversation_id": made["id"]}
        self.request("runtime_start", **runtime, mode="strict", wait_for_replay=True)
        return runtime

    def send_message(self, runtime: Json, text: str) -> str:
        """Send a message, and give the reply when the turn has ended."""
        message = {"role": "user", "content": text, "client_message_id": str(uuid.uuid4())}
        payload = {"kind": "create_message", "messages": [message], "client_tool_allowlist": []}
        self.request("input", runtime=runtime, payload=payload)
        reply = ""
        while (frame := self._next()).get("type") != "turn_finished":
            delta: Json = frame.get("delta") or {}
            if delta.get("message_type") == "assistant_message":
                reply += "".join(part["text"] for part in delta["content"])
        if not reply:
            raise RuntimeError(f"the App Server gave no reply: {frame}")
        return reply

    def list_messages(self, runtime: Json, limit: int) -> list[Json]:
        query = {"agent_id": runtime["agent_id"], "limit": limit, "order": "desc"}
        conversation_id = runtime["conversation_id"]
        return self.request("conversation_messages_list", conversation_id=conversation_id, query=query)["messages"]

    def _next(self) -> Json:
        return json.loads(self._socket.recv())


@contextmanager
def client_of(url: str, token: str = "") -> Generator[AppServerClient]:
    """A client of a running server."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with connect(url, additional_headers=headers, proxy=None, compression=None, max_size=None) as socket:
        yield AppServerClient(socket)


@contextmanager
def bare_app_server(folder: Path, model_url: str) -> Generator[AppServerClient]:
    """A server of its own in an empty folder, with what ours gives it, and a client."""
    letta = Path(sys.executable).with_name("letta")
    variables = {
        "HOME": str(folder),
        "LETTA_LOCAL_BACKEND_DIR": str(folder / "backend"),
        "LMSTUDIO_BASE_URL": model_url,
    }
    switched_off = {"LETTA_CODE_TELEM": "0", "DO_NOT_TRACK": "1", "DISABLE_AUTOUPDATER": "1"}
    process = subprocess.Popen(
        [letta, "--backend", "local", "server", "--listen", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LETTA_SKIP_KEYCHAIN_CHECK": "1", **variables, **switched_off},
    )
    try:
        with client_of(f"{_address(process)}/ws") as client:
            yield client
    finally:
        process.terminate()
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _address(process: subprocess.Popen[bytes]) -> str:
    for line in cast("IO[bytes]", process.stdout):
        if found := re.search(rb"Listening on (ws://\S+)", line):
            return found[1].decode()
    raise ServerEnded("the App Server did not start")
