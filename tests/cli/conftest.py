"""Running a command as a person would, against the Letta server of the tests."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import anyio.to_thread
import pytest

from letta_conversations_mcp.cli.main import main
from tests.rig.letta_server import Letta


@dataclass(frozen=True)
class Ran:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]
Commands = Callable[[str], Run]


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    """Runs commands against the server at an address, in this process and a thread: a command has a loop of its own."""

    async def run(base_url: str, command: str, *arguments: str) -> Ran:
        status = await anyio.to_thread.run_sync(main, [command, "--letta-base-url", base_url, *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(status, said.out, said.err)

    return lambda base_url: partial(run, base_url)


@pytest.fixture
def run(commands: Commands, letta: Letta) -> Run:
    """Runs a command against the Letta server of the tests."""
    return commands(letta.base_url)


def process(letta: Letta, command: str, *arguments: str) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "letta_conversations_mcp", command, "--letta-base-url", letta.base_url, *arguments]
