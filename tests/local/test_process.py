"""One real App Server for each state folder, however its users come, go and die; and a sentence when there is none."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from letta_conversations_mcp.backends.local import keeper
from letta_conversations_mcp.backends.local.process import (
    LOG,
    AppServer,
    LocalOptions,
    LocalServerProblem,
    app_server,
)

SECONDS = 30
GONE_SECONDS = 5

USER = """
import os, signal, sys, anyio
from pathlib import Path
from letta_conversations_mcp.backends.local.process import LocalOptions, app_server

signal.signal(signal.SIGINT, signal.SIG_DFL)

async def use():
    while sys.stdin.readline():
        async with app_server(LocalOptions(Path(sys.argv[1]), environment=dict(os.environ))) as server:
            print(server.url, flush=True)
            sys.stdin.readline()
        print("left", flush=True)

anyio.run(use)
"""

STAND_IN = f"""#!{sys.executable} -I
import pathlib, signal, socket, sys, time

def end(*_):
    while not pathlib.Path("may-end").exists():
        time.sleep(0.01)
    sys.exit()

signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
listener = socket.create_server(("127.0.0.1", 0))
print("x" * 3_000_000, flush=True)
print(f"\\nListening on ws://127.0.0.1:{{listener.getsockname()[1]}}", flush=True)
while True:
    asker, _ = listener.accept()
    asker.recv(1000)
    asker.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    asker.close()
"""
"""A server that stops only when it may, and talks too much."""


class User:
    """Another process that uses the server of a folder."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)

    async def tell(self) -> None:
        """To enter, or to leave."""
        await self._input.send(b"\n")

    async def answer(self) -> str:
        with anyio.fail_after(SECONDS):
            return (await self._output.receive_until(b"\n", 10_000)).decode()

    async def enter(self) -> str:
        await self.tell()
        return await self.answer()


@asynccontextmanager
async def process_of(*command: str, **more: Any) -> AsyncGenerator[Process]:
    """A process in a group of its own, that is killed in the end."""
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL, start_new_session=True, **more) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def user(folder: Path) -> AsyncGenerator[User]:
    async with process_of(sys.executable, "-c", USER, str(folder)) as process:
        yield User(process)


def options(
    folder: Path, command: str | Path | None = None, start_seconds: float = SECONDS, **more: str
) -> LocalOptions:
    return LocalOptions(
        folder,
        command=str(command) if command else None,
        start_seconds=start_seconds,
        stop_seconds=2,
        environment={**os.environ, **more},
    )


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


def processes(folder: Path) -> list[psutil.Process]:
    """All that run in the folder: keepers, servers, and what these started."""
    found: list[psutil.Process] = []
    for each in psutil.process_iter():
        try:
            if Path(each.cwd()).is_relative_to(folder):
                found.append(each)
        except psutil.Error:
            continue
    return found


def servers(folder: Path) -> list[int]:
    found: list[int] = []
    for each in processes(folder):
        # One may have ended in between, and be a zombie without a folder.
        with suppress(psutil.Error):
            if Path(each.cwd()) == folder / "work":
                found.append(each.pid)
    return found


def address(folder: Path) -> dict[str, Any]:
    return json.loads((folder / keeper.ADDRESS).read_text())


async def until(condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


async def until_gone(folder: Path) -> None:
    await until(lambda: not processes(folder))
    assert not (folder / keeper.ADDRESS).exists()


async def ask(server: AppServer, command: str, **arguments: object) -> dict[str, Any]:
    """One request over a socket of its own."""
    headers = {"Authorization": f"Bearer {server.token}"}
    with anyio.fail_after(SECONDS):
        async with connect(server.url, additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps({"type": command, "request_id": "1", **arguments}))
            while (frame := json.loads(await socket.recv())).get("request_id") != "1":
                pass
    assert frame["success"], frame
    return frame


async def problem(wanted: LocalOptions) -> str:
    with pytest.raises(LocalServerProblem) as raised:
        async with app_server(wanted):
            raise AssertionError("a server that cannot be")
    return str(raised.value)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncGenerator[Path]:
    """A state folder in which nothing may run in the end."""
    path = tmp_path / "state"
    yield path
    await until_gone(path)


async def test_users_of_one_process_share_a_server_that_ends_with_the_last(folder: Path) -> None:
    async with app_server(options(folder)) as first:
        async with app_server(options(folder)) as second:
            assert second == first
        await ask(first, "agent_list", query={})
        assert len(servers(folder)) == 1


async def test_the_server_takes_only_its_token_which_is_in_a_private_file_and_nowhere_else(folder: Path) -> None:
    async with app_server(options(folder)) as server:
        with pytest.raises(InvalidStatus):
            await ask(AppServer(server.url, "guessed"), "agent_list", query={})
        token = folder / keeper.TOKEN
        assert token.read_text() == server.token
        assert (token.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
        assert server.token not in repr(server)
        told = [" ".join(each.cmdline()) + str(each.environ()) for each in processes(folder)]
        assert server.token not in "".join([*told, (folder / LOG).read_text(), json.dumps(address(folder))])
        private = options(folder, OPENAI_API_KEY="its-key")
        assert "its-key" not in repr(private)


async def test_processes_that_start_at_once_share_one_server_and_leave_none(folder: Path) -> None:
    async with user(folder) as one, user(folder) as other:
        for _ in range(10):
            for each in (one, other):
                await each.tell()
            assert await one.answer() == await other.answer()
            assert len(servers(folder)) == 1
            for each in (one, other):
                await each.tell()
            assert (await one.answer(), await other.answer()) == ("left", "left")
            await until_gone(folder)


@pytest.mark.parametrize("stage", ["at once", "address gone", "server gone"])
async def test_who_comes_while_the_server_stops_gets_one_that_works(folder: Path, stage: str) -> None:
    reached: dict[str, Callable[[], bool]] = {
        "at once": lambda: True,
        "address gone": lambda: not (folder / keeper.ADDRESS).exists(),
        "server gone": lambda: not servers(folder),
    }
    async with user(folder) as other:
        for _ in range(4):
            await other.enter()
            await other.tell()
            await until(reached[stage])
            async with app_server(options(folder)) as server:
                await ask(server, "agent_list", query={})
                assert len(servers(folder)) == 1
            assert await other.answer() == "left"


async def test_who_comes_while_the_server_stops_waits_until_it_has(folder: Path, tmp_path: Path) -> None:
    wanted = options(folder, program(tmp_path / "letta", STAND_IN))
    async with app_server(wanted) as server:
        stopping = address(folder)
    await until(lambda: not (folder / keeper.ADDRESS).exists())
    assert psutil.pid_exists(stopping["server_pid"])
    with anyio.move_on_after(0.3):
        async with app_server(wanted):
            raise AssertionError("there is a server that stops")
    (folder / "work" / "may-end").touch()
    async with app_server(wanted) as second:
        assert second.token != server.token
        assert servers(folder) == [address(folder)["server_pid"]]
        assert (folder / LOG).stat().st_size <= keeper.LOG_BYTES + keeper.PIECE_BYTES


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
async def test_the_end_of_who_started_the_server_leaves_it_to_the_others(folder: Path, sign: signal.Signals) -> None:
    async with user(folder) as first:
        async with user(folder) as second:
            url = await first.enter()
            assert await second.enter() == url
            os.killpg(first.process.pid, sign)
            with anyio.fail_after(SECONDS):
                await first.process.wait()
            async with app_server(options(folder)) as server:
                assert server.url == url
                await ask(server, "agent_list", query={})
            assert len(servers(folder)) == 1
        await until_gone(folder)


async def test_after_the_server_is_killed_a_new_one_has_its_agents(folder: Path) -> None:
    async with app_server(options(folder)) as first:
        body = {"name": "keepsake", "model": "lmstudio/none"}
        agent = (await ask(first, "agent_create", body=body))["agent"]["id"]
        os.kill(address(folder)["server_pid"], signal.SIGKILL)
        async with app_server(options(folder)) as second:
            assert second.url != first.url
            agents = (await ask(second, "agent_list", query={}))["agents"]
            assert agent in [each["id"] for each in agents]
            assert len(servers(folder)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_the_server_ends_with_a_keeper_that_is_killed(folder: Path) -> None:
    async with app_server(options(folder)) as first:
        os.kill(address(folder)["keeper_pid"], signal.SIGKILL)
        await until(lambda: not servers(folder))
        async with app_server(options(folder)) as second:
            assert second != first
            await ask(second, "agent_list", query={})


async def test_a_keeper_that_is_told_to_end_ends_the_server_first(folder: Path) -> None:
    async with app_server(options(folder)):
        os.kill(address(folder)["keeper_pid"], signal.SIGTERM)
        await until_gone(folder)
        assert "Stopped App Server (SIGTERM)" in (folder / LOG).read_text()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_server_whose_keeper_is_gone_is_ended_before_a_new_one_starts(
    folder: Path, tmp_path: Path, stubborn: bool
) -> None:
    stand_in = program(tmp_path / "letta", STAND_IN)
    (folder / "work").mkdir(parents=True)
    if not stubborn:
        (folder / "work" / "may-end").touch()
    async with process_of(
        str(stand_in), str(folder / keeper.TOKEN), stdout=subprocess.DEVNULL, cwd=folder / "work"
    ) as old:
        (folder / keeper.SERVER_PID).write_text(str(old.pid))
        await until((folder / "work" / "ready").exists)
        async with app_server(options(folder, stand_in)):
            with anyio.fail_after(SECONDS):
                assert await old.wait() == (-signal.SIGKILL if stubborn else 0)
            assert servers(folder) == [address(folder)["server_pid"]]


async def test_a_process_that_was_given_the_number_of_an_old_server_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    async with process_of("sleep", "60") as stranger:
        (folder / keeper.SERVER_PID).write_text(str(stranger.pid))
        async with app_server(options(folder)):
            assert stranger.returncode is None


async def test_a_start_that_is_cancelled_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    hanging = program(tmp_path / "letta", "#!/bin/sh\nsleep 100\n")
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            async with app_server(options(folder, hanging)):
                raise AssertionError("a server that hangs")

        tasks.start_soon(start)
        await until(lambda: len(servers(folder)) == 2, SECONDS)
        tasks.cancel_scope.cancel()
    await until_gone(folder)


async def test_nothing_is_written_outside_the_folder(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    names = ("HOME", "TMPDIR", "LETTA_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "GIT_DIR")
    async with app_server(options(folder, **dict.fromkeys(names, str(elsewhere)))) as server:
        body = {"name": "homebody", "model": "lmstudio/none", "memory_blocks": [{"label": "human", "value": "Ann"}]}
        agent = (await ask(server, "agent_create", body=body))["agent"]["id"]
        await ask(server, "runtime_start", agent_id=agent, create_conversation={"body": {}}, mode="strict")
    await until_gone(folder)
    assert not list(elsewhere.iterdir())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "state"]
    assert (folder / "home" / ".letta" / "settings.json").exists()
    assert (folder / "backend" / "memfs" / agent).is_dir()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_the_server_connects_to_nothing_but_this_machine(folder: Path, tmp_path: Path) -> None:
    letta, trace = Path(sys.executable).with_name("letta"), tmp_path / "trace"
    tracing = f'#!/bin/sh\nexec strace -D -f -qq -e trace=connect,sendto -o "{trace}" "{letta}" "$@"\n'
    async with app_server(options(folder, program(tmp_path / "traced", tracing))) as server:
        await ask(server, "list_models")
        agent = (await ask(server, "agent_create", body={"name": "hermit", "model": "lmstudio/none"}))["agent"]["id"]
        await ask(server, "runtime_start", agent_id=agent, create_conversation={"body": {}}, mode="strict")
    await until_gone(folder)
    told = trace.read_text()
    assert "connect(" in told
    outside = [
        line for line in told.splitlines() if re.search(r"AF_INET", line) and not re.search(r'"(127\.|::1")', line)
    ]
    assert not outside


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo unknown option --backend >&2; exit 3", "unknown option --backend The server ended with exit code 3."),
        ("exit 0", "it ended instead of starting (its last words: The server ended with exit code 0.)"),
        ("echo sk-proj-0123456789abcdefghij; exit 1", "[secret]"),
        ("kill -9 $$", "exit code -9"),
    ],
)
async def test_a_server_that_ends_at_once_is_told_with_its_last_words(
    folder: Path, tmp_path: Path, script: str, words: str
) -> None:
    text = await problem(options(folder, program(tmp_path / "letta", f"#!/bin/sh\n{script}\n")))
    assert text.startswith("The Letta server of this machine cannot be used: it ended instead of starting")
    assert words in text
    assert "pip install 'letta-conversations-mcp[local]'" in text


@pytest.mark.parametrize(
    ("script", "words"),
    [("sleep 100", "(it said nothing)"), ("echo rubbish; sleep 100", "(its last words: rubbish)")],
)
async def test_a_server_that_never_listens_is_given_up(folder: Path, tmp_path: Path, script: str, words: str) -> None:
    stand_in = program(tmp_path / "letta", f"#!/bin/sh\n{script}\n")
    text = await problem(options(folder, stand_in, start_seconds=1))
    assert f"it was not ready within 1 s {words}" in text


async def test_a_program_that_cannot_be_run_is_told(folder: Path, tmp_path: Path) -> None:
    assert "The server cannot be run: [Errno 8]" in await problem(options(folder, program(tmp_path / "letta", "\0")))


async def test_what_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the program git is missing" in await problem(options(folder, PATH=str(tmp_path)))
    install = "A person has to run: pip install 'letta-conversations-mcp[local]'"
    assert install in await problem(options(folder, "no-such-letta"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    text = await problem(options(folder, PATH=str(tmp_path)))
    assert "there is no program letta, which is Letta Code" in text
    assert install in text
    assert not folder.exists()


async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"its folder {path} is not a folder, or lies below a file" in await problem(options(path))
    if sys.platform == "linux":
        assert "its folder /proc/state cannot be written (" in await problem(options(Path("/proc/state")))


async def test_a_full_disk_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", {folder: usage}.__getitem__)
    failing = options(folder, program(tmp_path / "letta", "#!/bin/sh\nexit 1\n"))
    assert "is on a full disk. Nothing was done. A person has to make room." in await problem(failing)

    def no_room(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(keeper, "open_lock", no_room)
    assert "is on a full disk" in await problem(failing)


async def test_a_server_of_another_release_is_not_used(folder: Path) -> None:
    async with app_server(options(folder)):
        (folder / keeper.ADDRESS).write_text(json.dumps({**address(folder), "version": 2}))
        assert "another release of letta-conversations-mcp runs the one in" in await problem(options(folder))


async def test_windows_is_told_what_works_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        text = await problem(options(folder))
    assert "give its address with --app-server-url" in text
