"""A server of this machine that cannot be started, or not be used: a sentence for each."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest

from letta_conversations_mcp.backends.app_server import supervisor
from letta_conversations_mcp.backends.app_server.process import LocalOptions, LocalServerProblem, app_server
from letta_conversations_mcp.core.installation import install_command
from tests.backends.app_server.app_servers import address, options, program


async def problem(wanted: LocalOptions) -> str:
    with pytest.raises(LocalServerProblem) as raised:
        async with app_server(wanted):
            raise AssertionError("a server that cannot be")
    return str(raised.value)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo unknown option --backend >&2; exit 3", "unknown option --backend The server ended with exit code 3."),
        ("exit 0", "it ended instead of starting (its last words: The server ended with exit code 0.)"),
        ("echo sk-proj-0123456789abcdefghij; exit 1", "[secret]"),
        ("kill -9 $$", "exit code -9"),
        ("echo NODE_OPTIONS=$NODE_OPTIONS; exit 1", "its last words: NODE_OPTIONS=--max-old-space-size=512"),
    ],
)
async def test_a_server_that_ends_at_once_is_told_with_its_last_words(
    folder: Path, tmp_path: Path, script: str, words: str
) -> None:
    stand_in = program(tmp_path / "letta", f"#!/bin/sh\n{script}\n")
    text = await problem(options(folder, stand_in, NODE_OPTIONS="--max-old-space-size=512"))
    assert text.startswith("The Letta server of this machine cannot be used: it ended instead of starting")
    assert words in text
    assert install_command("local") in text


@pytest.mark.parametrize(
    ("script", "words"),
    [("sleep 100", "(it said nothing)"), ("echo rubbish; sleep 100", "(its last words: rubbish)")],
)
async def test_a_server_that_never_listens_is_given_up(folder: Path, tmp_path: Path, script: str, words: str) -> None:
    stand_in = program(tmp_path / "letta", f"#!/bin/sh\n{script}\n")
    text = await problem(options(folder, stand_in, start_seconds=3))
    assert f"it was not ready within 3 s {words}" in text


async def test_a_program_that_cannot_be_run_is_told(folder: Path, tmp_path: Path) -> None:
    assert "The server cannot be run: [Errno 8]" in await problem(options(folder, program(tmp_path / "letta", "\0")))


async def test_what_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the program git is missing" in await problem(options(folder, PATH=str(tmp_path)))
    install = f"A person has to run: {install_command('local')}"
    assert install in await problem(options(folder, "no-such-letta"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    text = await problem(options(folder, PATH=str(tmp_path)))
    assert "there is no program letta, which is Letta Code" in text
    assert "-m pip install letta==" in text
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

    monkeypatch.setattr(supervisor, "open_lock", no_room)
    assert "is on a full disk" in await problem(failing)


async def test_too_few_files_that_may_be_open_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "errno: -24, code: 'EMFILE', syscall: 'open'"
    text = await problem(options(folder, program(tmp_path / "letta", f'#!/bin/sh\necho "{words}"; exit 1\n')))
    assert words in text
    assert "ulimit -n" in text

    def no_more(path: Path) -> int:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(supervisor, "open_lock", no_more)
    assert "cannot be used: Too many open files. Nothing was done. A person has to let it open" in await problem(
        options(folder)
    )


async def test_a_server_of_another_release_is_not_used(folder: Path) -> None:
    async with app_server(options(folder)):
        (folder / supervisor.ADDRESS).write_text(json.dumps({**address(folder), "version": 99}))
        assert "another release of letta-conversations-mcp runs the one in" in await problem(options(folder))


async def test_windows_is_told_what_works_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        text = await problem(options(folder))
    assert "give its address with --app-server-url" in text
