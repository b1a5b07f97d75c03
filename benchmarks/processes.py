"""The processes of a run: our server, the bare one, and the fake Letta server. All end with their context.

Owns the JSON-RPC over pipes that all measurements of servers use: written by hand and blocking, so that the client's
own time is small and the same on both sides.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import psutil

from benchmarks.letta_server import CONVERSATIONS, Place

ROOT = Path(__file__).parents[1]

LONGEST_LIFE = 900
"""Seconds after which a process is killed, so that one which hangs cannot hang the run."""

RIVAL = ROOT / "build/rival/node_modules/letta-mcp-linux-x64/bin/letta-server"
"""Where benchmarks/README.md installs it."""

PORT = "a free port"

START_SECONDS = 30
END_SECONDS = 5

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "benchmarks", "version": "1"},
}

Json = dict[str, Any]


class ServerEnded(Exception):
    """A process closed its output instead of answering; its stderr says why."""


class StdioServer:
    """An MCP server as the client sees it: lines in, lines out."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._last_id = 0

    def initialize(self) -> None:
        """Ask for the server's first answer."""
        self.request("initialize", INITIALIZE)

    def list_tools(self) -> list[Json]:
        """End the handshake, and ask for the tools."""
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self.request("tools/list", {})["tools"]

    def call(self, tool: str, **arguments: object) -> Json:
        """Call a tool and wait for its result."""
        return _checked(self.request("tools/call", {"name": tool, "arguments": arguments}))

    def call_many(self, times: int, at_once: int, tool: str, **arguments: object) -> None:
        """Call a tool so many times, with so many calls in flight."""
        for number in range(times + at_once):
            if number < times:
                self.post("tools/call", {"name": tool, "arguments": arguments})
            if number >= at_once:
                _checked(self.next_result())

    def request(self, method: str, params: Json) -> Json:
        self.post(method, params)
        return self.next_result()

    def post(self, method: str, params: Json) -> None:
        self._last_id += 1
        self._write({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})

    def next_result(self) -> Json:
        """The next answer to any request."""
        while True:
            line = _output(self._process).readline()
            if not line:
                raise ServerEnded(f"{self._process.args} ended instead of answering")
            message: Json = json.loads(line)
            if "id" in message and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"a request failed: {message['error']}")
                return message["result"]

    def _write(self, message: Json) -> None:
        pipe = cast("IO[bytes]", self._process.stdin)
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()


@contextmanager
def our_server(base_url: str) -> Generator[StdioServer]:
    """Our console command, started and not yet asked anything."""
    with _running(_python("letta_conversations_mcp"), {"LETTA_BASE_URL": base_url}) as process:
        yield StdioServer(process)


@contextmanager
def local_server(folder: Path, model_url: str, compiled: Path | None = None) -> Generator[StdioServer]:
    """Our console command for agents on this machine, kept in this folder; Node.js keeps compiled code in the other."""
    variables = {"LETTA_MCP_BACKEND": "local", "LETTA_MCP_LOCAL_DIR": str(folder), "LMSTUDIO_BASE_URL": model_url}
    if compiled is not None:
        variables["NODE_COMPILE_CACHE"] = str(compiled)
    with _running(_python("letta_conversations_mcp"), variables) as process:
        yield StdioServer(process)


@contextmanager
def model_server() -> Generator[str]:
    """The scripted language model; gives its URL."""
    with _running(_python("benchmarks.model_server"), {}) as process:
        line = _output(process).readline()
        if not line:
            raise ServerEnded("the scripted model did not start")
        yield line.decode().strip()


@contextmanager
def bare_server() -> Generator[StdioServer]:
    with _running(_python("benchmarks.bare_server"), {}) as process:
        yield StdioServer(process)


@dataclass(frozen=True)
class HttpServer:
    """A server over HTTP: its address, and its process."""

    url: str
    process: psutil.Process


@contextmanager
def our_http_server(base_url: str, *, room: int = 1000) -> Generator[HttpServer]:
    """`serve --http`, listening, with room for all that the measurements do at once."""
    limits = {f"LETTA_MCP_{name}": str(room) for name in ("MAX_CALLS", "MAX_PER_CALLER", "MAX_TURNS")}
    with _listening(
        [*_python("letta_conversations_mcp"), "serve", "--http"],
        {"LETTA_BASE_URL": base_url, "LETTA_MCP_PORT": PORT, **limits},
    ) as server:
        yield server


def export_command(base_url: str, conversation_id: str, file: Path) -> tuple[list[str], dict[str, str]]:
    """The command that exports a conversation to a file, and its environment."""
    command = [*_python("letta_conversations_mcp"), "export", conversation_id, "-o", str(file)]
    return command, _environment() | {"LETTA_BASE_URL": base_url}


@contextmanager
def typed_server(base_url: str) -> Generator[HttpServer]:
    """The twenty-line server over HTTP."""
    variables = {"LETTA_BASE_URL": base_url, "PORT": PORT}
    with _listening(_python("benchmarks.typed_server"), variables) as server:
        yield server


@contextmanager
def rival_server(base_url: str) -> Generator[HttpServer]:
    """The Rust server over HTTP."""
    variables = {"LETTA_BASE_URL": base_url, "LETTA_PASSWORD": "none", "TRANSPORT": "http", "PORT": PORT}
    with _listening([str(RIVAL)], variables) as server:
        yield server


@contextmanager
def _listening(command: Sequence[str], variables: Mapping[str, str]) -> Generator[HttpServer]:
    """A server on a free port, which stands for PORT in `variables`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    given = {name: port if value == PORT else value for name, value in variables.items()}
    with _running(command, given, stderr=subprocess.DEVNULL) as process:
        _wait_for(int(port), process)
        yield HttpServer(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 20):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise ServerEnded(f"{process.args} does not listen")


@contextmanager
def letta_server(*, messages: int = 0, conversations: int = CONVERSATIONS) -> Generator[Place]:
    """The fake Letta server, with so many messages in `Place.long` and so many conversations of its agent."""
    sizes = ["--messages", str(messages), "--conversations", str(conversations)]
    with _running([*_python("benchmarks.letta_server"), *sizes], {}) as process:
        line = _output(process).readline()
        if not line:
            raise ServerEnded("the fake Letta server did not start")
        yield Place.model_validate_json(line)


@contextmanager
def _running(
    command: Sequence[str], variables: Mapping[str, str], *, stderr: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A process of its own, ended by closing its stdin, or else killed."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=ROOT,
        env=_environment() | dict(variables),
        # Ctrl-C is for this process alone, which then ends the others in order.
        start_new_session=True,
    )
    guard = threading.Timer(LONGEST_LIFE, process.kill)
    guard.daemon = True
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        _end(process)


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        # Closes stdin, and reads what is left so that the process cannot block in a write.
        process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _environment() -> dict[str, str]:
    """Nothing of the developer's own settings reaches a server, and no proxy what is on this machine.

    Python writes its bytecode, as it does when a package is installed: else every start would compile our files, and
    none of the SDK's.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LETTA_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdout)


def _checked(result: Json) -> Json:
    if result.get("isError"):
        raise RuntimeError(f"a tool call failed: {result['content']}")
    return result
