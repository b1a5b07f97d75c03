"""What only a terminal shows: questions, a bare start, and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import pytest
from anyio.abc import Process

from tests.cli.conftest import Run, process
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say, ScriptedModel

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pseudo-terminals nor signals")


@dataclass
class Terminal:
    """A process whose standard input and error are a terminal. `out` is what it wrote to stdout."""

    process: Process
    fd: int
    shown: str = ""
    out: str = ""

    async def until(self, words: str) -> None:
        """Wait until the terminal has shown these words."""
        with anyio.fail_after(HANG_SECONDS):
            while words not in self.shown:
                await anyio.wait_readable(self.fd)
                try:
                    self.shown += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    pytest.fail(f"the process ended without {words!r}: {self.shown}")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    async def end(self) -> int:
        """The exit status, once all that was written is in `out` and `shown`."""
        assert self.process.stdout
        with anyio.fail_after(HANG_SECONDS):
            async for piece in self.process.stdout:
                self.out += piece.decode()
            status = await self.process.wait()
        # An error is how Linux says that nobody has the other side open any more.
        with suppress(OSError):
            while piece := os.read(self.fd, 4096):
                self.shown += piece.decode(errors="replace")
        return status


@asynccontextmanager
async def terminal(*command: str) -> AsyncGenerator[Terminal]:
    controller, side = os.openpty()
    try:
        async with await anyio.open_process(command, stdin=side, stdout=subprocess.PIPE, stderr=side) as running:
            os.close(side)
            try:
                yield Terminal(running, controller)
            finally:
                if running.returncode is None:
                    running.kill()
    finally:
        os.close(controller)


async def test_a_bare_start_says_what_it_waits_for_and_what_to_type_instead() -> None:
    async with terminal(sys.executable, "-m", "letta_conversations_mcp") as shown:
        await shown.until("serve --http")
        shown.process.send_signal(signal.SIGINT)
        await shown.end()

    assert "waits on its standard input for the messages of an MCP client" in shown.shown
    assert "lcm doctor" in shown.shown
    assert shown.out == ""


async def test_delete_asks_and_takes_only_a_yes(run: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    kept, gone = [await letta.new_conversation(agent_id) for _ in range(2)]
    for conversation_id, word in ((kept, "\n"), (gone, "y\n")):
        async with terminal(*process(letta, "delete", conversation_id)) as asking:
            await asking.until("Go on? [y/N]")
            asking.type(word)
            assert await asking.end() == int(conversation_id == kept)

    listed = (await run("list-conversations", name)).out
    assert kept in listed
    assert gone not in listed


async def test_ctrl_c_leaves_the_turn_running_and_says_how_to_come_back(
    run: Run, letta: Letta, model: ScriptedModel
) -> None:
    _, name = await letta.new_agent()
    held = Hold(Say("Here I am."))
    model.enqueue(held)
    async with terminal(*process(letta, "send-message", "think", "--agent", name)) as sending:
        await model.asked()
        await sending.until("thinking")
        sending.process.send_signal(signal.SIGINT)
        status = await sending.end()
    held.gate.set()
    back = sending.shown.partition("wait for its reply: letta-conversations-mcp ")[2].split()[:4]
    found = await run(*back)

    assert status == 130
    assert sending.out == ""
    assert "The turn goes on without this command." in sending.shown
    assert back[0] == "wait-for-reply"
    assert found.status == 0
    assert "Here I am." in found.out


async def test_ctrl_c_takes_back_a_message_that_is_still_queued(run: Run, letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("First."))
    model.enqueue(held)
    first = await run("send-message", "first", "--conversation-id", conversation_id, "--wait-seconds", "0")
    second = process(letta, "send-message", "second", "--conversation-id", conversation_id)
    async with terminal(*second) as sending:
        await sending.until("waiting for somebody else's turn")
        sending.process.send_signal(signal.SIGINT)
        status = await sending.end()
    held.gate.set()
    await run("wait-for-reply", conversation_id)

    assert first.status == 3
    assert status == 130
    assert "The message was still queued and was not sent." in sending.shown
    assert "goes on" not in sending.shown
    assert "second" not in await letta.stored_texts(agent_id, conversation_id)
