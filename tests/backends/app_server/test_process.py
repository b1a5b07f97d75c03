"""One real App Server for each state folder, however its users come, go and die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.process import COMPILED, LOG, AppServer, LocalServerProblem, app_server
from tests.backends.app_server.app_servers import (
    address,
    ask,
    options,
    process_of,
    processes,
    program,
    servers,
    until_gone,
    user,
)
from tests.rig.bounds import HANG_SECONDS
from tests.rig.programs import installed
from tests.rig.waiting import until

STAND_IN = f"""#!{sys.executable} -I
import pathlib, signal, socket, sys

def end(*_):
    if not pathlib.Path("may-end").exists():
        signal.sigwait({{signal.SIGUSR1}})
    sys.exit()

signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
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
"""A server that talks too much, and stops only when it may: there is that file, or SIGUSR1 comes."""


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
        token = folder / supervisor.TOKEN
        assert token.read_text() == server.token
        assert (token.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
        assert server.token not in repr(server)
        told = [" ".join(each.cmdline()) + str(each.environ()) for each in processes(folder)]
        assert server.token not in "".join([*told, (folder / LOG).read_text(), json.dumps(address(folder))])
        private = options(folder, OPENAI_API_KEY="its-key")
        assert "its-key" not in repr(private)


@pytest.mark.parametrize(
    "words", ["other users can write to it", "it is a symbolic link", "it belongs to another user"]
)
async def test_a_folder_that_others_prepared_is_not_used(folder: Path, words: str) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if words.startswith("other"):
        folder.chmod(0o770)
    elif "link" in words:
        (folder / "home").symlink_to(folder)
    elif os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        pytest.skip("only root can give a folder away")

    with pytest.raises(LocalServerProblem, match=words):
        async with app_server(options(folder)):
            raise AssertionError("it was used")
    assert servers(folder) == []


@pytest.fixture
def quick(folder: Path, tmp_path: Path) -> Path:
    """A stand-in that starts and stops at once: for the locks and files around the server, over many rounds."""
    (folder / "work").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / "work" / "may-end").touch()
    return program(tmp_path / "letta", STAND_IN)


async def test_processes_that_start_at_once_share_one_server_and_leave_none(folder: Path, quick: Path) -> None:
    async with user(folder, quick) as one, user(folder, quick) as other:
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
async def test_who_comes_while_the_server_stops_gets_one_that_works(folder: Path, quick: Path, stage: str) -> None:
    reached: dict[str, Callable[[], bool]] = {
        "at once": lambda: True,
        "address gone": lambda: not (folder / supervisor.ADDRESS).exists(),
        "server gone": lambda: not servers(folder),
    }
    async with user(folder, quick) as other:
        for _ in range(4):
            await other.enter()
            await other.tell()
            await until(reached[stage])
            async with app_server(options(folder, quick)) as server:
                assert server.url == address(folder)["url"]
                assert servers(folder) == [address(folder)["server_pid"]]
            assert await other.answer() == "left"


async def test_who_comes_while_the_server_stops_waits_until_it_has(folder: Path, tmp_path: Path) -> None:
    wanted = options(folder, program(tmp_path / "letta", STAND_IN))
    async with app_server(wanted) as server:
        stopping = address(folder)
    await until(lambda: not (folder / supervisor.ADDRESS).exists())

    async def come() -> None:
        async with app_server(wanted) as second:
            assert second.token != server.token
            assert servers(folder) == [address(folder)["server_pid"]] != [stopping["server_pid"]]
            assert (folder / LOG).stat().st_size <= supervisor.LOG_BYTES + supervisor.PIECE_BYTES

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come)
        # It has asked for the lock as soon as it has opened it.
        await until(lambda: str(folder / supervisor.IN_USE) in [each.path for each in psutil.Process().open_files()])
        assert servers(folder) == [stopping["server_pid"]]
        (folder / "work" / "may-end").touch()
        os.kill(stopping["server_pid"], signal.SIGUSR1)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
async def test_the_end_of_who_started_the_server_leaves_it_to_the_others(folder: Path, sign: signal.Signals) -> None:
    async with user(folder) as first:
        async with user(folder) as second:
            url = await first.enter()
            assert await second.enter() == url
            os.killpg(first.process.pid, sign)
            with anyio.fail_after(HANG_SECONDS):
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
async def test_the_server_ends_with_a_supervisor_that_is_killed(folder: Path) -> None:
    async with app_server(options(folder)) as first:
        os.kill(address(folder)["supervisor_pid"], signal.SIGKILL)
        await until(lambda: not servers(folder))
        async with app_server(options(folder)) as second:
            assert second != first
            await ask(second, "agent_list", query={})


async def test_a_supervisor_that_is_told_to_end_ends_the_server_first(folder: Path) -> None:
    async with app_server(options(folder)):
        os.kill(address(folder)["supervisor_pid"], signal.SIGTERM)
        await until_gone(folder)
        assert "Stopped App Server (SIGTERM)" in (folder / LOG).read_text()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_server_whose_supervisor_is_gone_is_ended_before_a_new_one_starts(
    folder: Path, tmp_path: Path, stubborn: bool
) -> None:
    stand_in = program(tmp_path / "letta", STAND_IN)
    (folder / "work").mkdir(parents=True)
    if not stubborn:
        (folder / "work" / "may-end").touch()
    async with process_of(
        str(stand_in), str(folder / supervisor.TOKEN), stdout=subprocess.DEVNULL, cwd=folder / "work"
    ) as old:
        (folder / supervisor.SERVER_PID).write_text(str(old.pid))
        await until((folder / "work" / "ready").exists)
        async with app_server(options(folder, stand_in)):
            with anyio.fail_after(HANG_SECONDS):
                assert await old.wait() == (-signal.SIGKILL if stubborn else 0)
            assert servers(folder) == [address(folder)["server_pid"]]


async def test_a_process_that_was_given_the_number_of_an_old_server_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    async with process_of("sleep", "60") as stranger:
        (folder / supervisor.SERVER_PID).write_text(str(stranger.pid))
        async with app_server(options(folder)):
            assert stranger.returncode is None


async def test_a_start_that_is_cancelled_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    hanging = program(tmp_path / "letta", "#!/bin/sh\nsleep 100\n")
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            async with app_server(options(folder, hanging)):
                raise AssertionError("a server that hangs")

        tasks.start_soon(start)
        await until(lambda: len(servers(folder)) == 2)
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


@pytest.mark.parametrize("chosen", [True, False])
async def test_compiled_code_is_kept_in_the_folder_or_where_the_user_wants_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, chosen: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if chosen:
        monkeypatch.setenv("NODE_COMPILE_CACHE", str(elsewhere))
    else:
        monkeypatch.delenv("NODE_COMPILE_CACHE")
    async with app_server(options(folder)) as server:
        await ask(server, "agent_list", query={})
    await until_gone(folder)
    kept = [each for each in (elsewhere, folder / COMPILED) if any(file.is_file() for file in each.rglob("*"))]
    assert kept == [elsewhere if chosen else folder / COMPILED]


async def test_the_server_connects_to_nothing_but_this_machine(folder: Path, tmp_path: Path) -> None:
    letta, trace = Path(sys.executable).with_name("letta"), tmp_path / "trace"
    tracing = f'#!/bin/sh\nexec {installed("strace")} -D -f -qq -e trace=connect,sendto -o "{trace}" "{letta}" "$@"\n'
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
