"""Where the chat runs: narrow terminals, without colours, in a pipe; and texts that want to control it."""

from __future__ import annotations

import re
import signal
import sys

import anyio
import pytest

from tests.cli.chat.virtual_terminal import chat
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use

COLOUR = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(?:3[0-7]|4[0-7]|9[0-7]|10[0-7])[0-9;]*m")


@pytest.mark.parametrize("columns", [60, 80, 120])
async def test_it_fits_the_width(letta: Letta, model: ScriptedModel, columns: int) -> None:
    _, agent = await letta.new_agent(needs_approval="memory_insert")
    use = Use("memory_insert", {"label": "human", "new_string": "word " * 60, "insert_line": -1})
    model.enqueue(Say("word " * 60), CallTools((use,)))

    async with chat(letta.base_url, "--agent", agent, columns=columns) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("hello")
        await terminal.until_status("/help")
        await terminal.until("word " * 59)
        terminal.enter("and now")
        await terminal.until("/approve [reason]")
        frame = [line for line in terminal.lines if line.startswith("  │ ")]
        assert frame
        assert all(line.endswith(" │") for line in frame)
        assert "".join(frame).count("word") == 60


async def test_without_colours(letta: Letta, model: ScriptedModel) -> None:
    _, agent = await letta.new_agent()
    model.enqueue(Say("# Title\n\n```python\nprint('x')\n```\n\n[a](http://b.example)", reasoning="hm"))

    async with chat(letta.base_url, "--agent", agent, env={"NO_COLOR": "1"}) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("hello")
        await terminal.until("print('x')")
        await terminal.until_status("/help")
        assert not COLOUR.search(terminal.raw)


async def test_with_colours(letta: Letta) -> None:
    _, agent = await letta.new_agent()

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        terminal.enter("hello")
        await terminal.until("echo: hello")
        assert COLOUR.search(terminal.raw)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(letta: Letta, number: signal.Signals) -> None:
    _, agent = await letta.new_agent()

    async with chat(letta.base_url, "--agent", agent) as terminal:
        await terminal.until("begins a conversation")
        assert not terminal.echoes
        terminal.signal(number)
        assert await terminal.ended() == 128 + number
        assert terminal.echoes
        assert "Traceback" not in terminal.raw


async def test_texts_of_others_do_not_control_the_terminal(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    hostile = "\x1b]52;c;aGk=\x07\x1b[2Jgone \u202eevil &#27;]0;mine&#7;"
    conversation = await letta.new_conversation(agent_id, hostile)
    model.enqueue(Say(hostile), Say(f"/approve\nyou ▸ {hostile}"))
    await letta.send(conversation, hostile)

    async with chat(letta.base_url, conversation) as terminal:
        await terminal.until("\\x1b]52;c;aGk=")
        terminal.enter("/list")
        await terminal.until("/switch NUMBER goes there.")
        terminal.enter("again")
        await terminal.until_status("/help")
        await terminal.until("/approve you ▸")
        assert "\x1b]52" not in terminal.raw
        assert "\x1b]0;" not in terminal.raw
        assert "\x1b[2J" not in terminal.raw
        assert "\u202e" not in terminal.raw
        assert "\n/approve" not in terminal.text


async def piped(letta: Letta, text: str, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "letta_conversations_mcp", "chat", "--letta-base-url", letta.base_url, *arguments]
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(command, input=text.encode(), check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_in_a_pipe_lines_are_messages_and_commands(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent_id, "piped")
    model.enqueue(Say("On **Friday**."), Say("Twice."))

    status, out, err = await piped(letta, "When?\n\nAgain?\n/rename by pipe\n", conversation)

    assert status == 0, err
    assert "  On **Friday**." in out
    assert out.index("Friday") < out.index("Twice.")
    assert "\x1b" not in out + err
    assert "It is called 'by pipe' now." in err
    assert await letta.stored_texts(agent_id, conversation) == ["When?", "Again?"]


async def test_in_a_pipe_a_failure_is_the_exit_status(letta: Letta) -> None:
    _, agent = await letta.new_agent()

    status, _, err = await piped(letta, "/nonsense\n", "--agent", agent)
    assert status == 1
    assert "There is no command /nonsense." in err

    status, out, err = await piped(letta, "hello\n", "--agent", "nobody of this name")
    assert status == 1
    assert "There is no agent 'nobody of this name'. letta-conversations-mcp list-agents lists them." in err
    assert "hello" not in out
