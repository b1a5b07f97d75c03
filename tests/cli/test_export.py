"""`export`: a conversation as a file, whole and once, and resumed where it was interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from letta_conversations_mcp.cli.export_file import NotAnExport, Resumption, entry, find_end, head
from letta_conversations_mcp.core.model import ConversationRef, Message
from tests.cli.conftest import Run, process
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use

REF = ConversationRef(conversation_id="conv-00000000-0000-4000-8000-000000000000", agent_id="agent-1")


async def a_conversation(letta: Letta, turns: int) -> tuple[str, str]:
    """(conversation id, agent id)"""
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for number in range(turns):
        await letta.send(conversation_id, f"m{number}")
    return conversation_id, agent_id


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_json_lines_have_everything_in_the_order_of_time(run: Run, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(CallTools((Use("conversation_search", {"query": "x"}),)), Say("Done.", reasoning="Easy."))
    await letta.send(conversation_id, "look\u2028here")

    ran = await run("export", conversation_id, "--format", "jsonl")

    messages = lines(ran.out)
    assert ran.status == 0
    assert [each["kind"] for each in messages] == ["system", "user", "tool", "tool", "reasoning", "assistant"]
    assert set(messages[0]) == {"id", "kind", "type", "at", "text", "calls", "otid", "run_id"}
    assert [each["text"] for each in messages[1::3]] == ["look\u2028here", "Easy."]
    assert messages[2]["calls"][0]["name"] == "conversation_search"
    assert [each["calls"][0]["status"] for each in messages[2:4]] == ["pending", "success"]
    assert messages[1]["run_id"].startswith("run-")
    assert messages[4]["id"] == messages[5]["id"]


async def test_markdown_is_to_be_read(run: Run, letta: Letta) -> None:
    conversation_id, _ = await a_conversation(letta, 2)

    ran = await run("export", conversation_id)

    assert ran.out.index("m0") < ran.out.index("echo: m0") < ran.out.index("echo: m1")
    assert ran.out.count("**user** · 20") == 2
    assert "**system**" not in ran.out
    assert ran.err == ""


async def test_a_long_conversation_is_whole_after_compactions_too(run: Run, letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 40)
    await letta.request("POST", f"/v1/conversations/{conversation_id}/compact", json={})
    for number in range(40, 80):
        await letta.send(conversation_id, f"m{number}")
    file = tmp_path / "whole.jsonl"

    ran = await run("export", conversation_id, "-o", str(file))

    messages = lines(file.read_text())
    said = [each["text"] for each in messages if each["kind"] in ("user", "assistant")]
    assert (ran.status, ran.out) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"Messages written to {file}: {len(messages)}." in ran.err
    assert said == [text for number in range(80) for text in (f"m{number}", f"echo: m{number}")]
    assert "begins with a summary" not in ran.err


async def test_a_fork_has_what_it_shares_with_its_source(run: Run, letta: Letta) -> None:
    conversation_id, _ = await a_conversation(letta, 6)
    fork_id = (await letta.request("POST", f"/v1/conversations/{conversation_id}/fork"))["id"]
    for number in range(6, 9):
        await letta.send(fork_id, f"m{number}")

    plain = await run("export", fork_id, "--format", "jsonl")
    await letta.request("POST", f"/v1/conversations/{fork_id}/compact", json={})
    await letta.send(fork_id, "m9")
    compacted = await run("export", fork_id, "--format", "jsonl")

    said = [each["text"] for each in lines(plain.out) if each["kind"] == "user"]
    said_later = [each["text"] for each in lines(compacted.out) if each["kind"] == "user"]
    assert said == [f"m{number}" for number in range(9)]
    # A server keeps no order of time in a fork that was compacted; none is missing and none comes twice.
    assert sorted(said_later) == [f"m{number}" for number in range(10)]


async def test_the_history_outside_of_conversations_is_exported_by_its_agent(run: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    body = {"messages": [{"role": "user", "content": "outside"}], "agent_id": agent_id, "streaming": False}
    await letta.request("POST", "/v1/conversations/default/messages", json=body)

    ran = await run("export", "default", "--agent", name)

    assert "echo: outside" in ran.out
    assert f"default of {agent_id}" in ran.out


@pytest.mark.parametrize("form", ["md", "jsonl"])
async def test_an_export_that_was_cut_off_anywhere_is_gone_on_with(
    run: Run, letta: Letta, tmp_path: Path, form: str
) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(Say("One.\n\n<!-- message-1 -->\n**user**", reasoning="Hm."), Say("Zwei: ä.", reasoning="So."))
    for number in range(4):
        await letta.send(conversation_id, f"m{number}\n\nsecond part")
    file = tmp_path / f"export.{form}"
    arguments = ("export", conversation_id, "-o", str(file), "--format", form, "--resume")
    assert (await run(*arguments)).status == 0
    whole = file.read_bytes()

    for size in range(0, len(whole) + 1, max(1, len(whole) // 15)):
        file.write_bytes(whole[:size])
        ran = await run(*arguments)
        assert (ran.status, file.read_bytes()) == (0, whole), size


async def test_what_was_said_since_is_added_by_going_on(run: Run, letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 2)
    file = tmp_path / "export.jsonl"
    await run("export", conversation_id, "-o", str(file))
    before = file.read_text()
    await letta.send(conversation_id, "later")

    ran = await run("export", conversation_id, "-o", str(file), "--resume")

    assert ran.status == 0
    assert file.read_text().startswith(before)
    assert [each["text"] for each in lines(file.read_text()[len(before) :])] == ["later", "echo: later"]


async def test_a_file_that_is_there_is_not_overwritten(run: Run, letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 1)
    file = tmp_path / "mine.md"
    file.write_text("my notes\n")

    refused = await run("export", conversation_id, "-o", str(file))
    resumed = await run("export", conversation_id, "-o", str(file), "--resume")

    assert (refused.status, resumed.status) == (2, 2)
    assert "--resume" in refused.err
    assert "does not begin as an export of this conversation" in resumed.err
    assert file.read_text() == "my notes\n"


@pytest.mark.parametrize("form", ["md", "jsonl"])
async def test_the_file_of_another_conversation_is_not_gone_on_with(
    run: Run, letta: Letta, tmp_path: Path, form: str
) -> None:
    first, agent_id = await a_conversation(letta, 2)
    second = await letta.new_conversation(agent_id)
    await letta.send(second, "other")
    file = tmp_path / f"first.{form}"
    await run("export", first, "-o", str(file), "--format", form)
    before = file.read_bytes()

    ran = await run("export", second, "-o", str(file), "--format", form, "--resume")

    assert ran.status in (1, 2)
    assert "left as it is" in ran.err or "left as it was" in ran.err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("conv-00000000-0000-4000-8000-000000000000",), 1, "no conversation conv-00000000"),
        (("nonsense",), 1, "no conversation id"),
        (("default",), 1, "needs the agent"),
        (("default", "--agent", "nobody of this name"), 1, "nobody of this name"),
        (("conv-00000000-0000-4000-8000-000000000000", "--resume"), 2, "name it with -o"),
    ],
)
async def test_what_cannot_be_exported_is_explained(
    run: Run, arguments: tuple[str, ...], status: int, words: str
) -> None:
    ran = await run("export", *arguments)

    assert (ran.status, ran.out) == (status, "")
    assert words in ran.err


async def test_a_file_that_cannot_be_written_is_named(run: Run, letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 1)

    ran = await run("export", conversation_id, "-o", str(tmp_path / "nowhere" / "x.md"))

    assert ran.status == 1
    assert "cannot be written: No such file or directory" in ran.err


@pytest.mark.fake_only
async def test_a_server_that_fails_in_between_leaves_a_file_to_go_on_with(
    run: Run, letta: Letta, tmp_path: Path
) -> None:
    conversation_id, _ = await a_conversation(letta, 2)
    file = tmp_path / "x.md"
    letta.fake.fail("GET", "/v1/agents/*/messages", status=500, times=3)

    failed = await run("export", conversation_id, "-o", str(file))
    resumed = await run("export", conversation_id, "-o", str(file), "--resume")

    assert failed.status == 1
    assert "--resume goes on" in failed.err
    assert resumed.status == 0
    assert "echo: m1" in file.read_text()


async def test_a_message_that_is_gone_is_not_papered_over(run: Run, letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 3)
    file = tmp_path / "x.jsonl"
    await run("export", conversation_id, "-o", str(file))
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*kept[:2], kept[4]]))

    ran = await run("export", conversation_id, "-o", str(file), "--resume")

    assert ran.status == 1
    assert "no longer lists there" in ran.err
    assert file.read_text() == "".join([*kept[:2], kept[4]])


@pytest.fixture
def interruptible() -> Generator[None]:
    """What a shell starts in the background ignores SIGINT, and so does what that starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.fake_only
@pytest.mark.usefixtures("interruptible")
async def test_an_interrupted_export_ends_quietly(letta: Letta) -> None:
    conversation_id, agent_id = await a_conversation(letta, 1)
    gate = anyio.Event()
    letta.fake.stall("GET", f"/v1/agents/{agent_id}/messages", gate)
    letta.fake.requests.clear()

    command = process(letta, "export", conversation_id)
    async with await anyio.open_process(command, stderr=subprocess.PIPE) as exporting:
        await letta.fake.requests.until(lambda each: each.path.endswith("/messages"))
        exporting.send_signal(signal.SIGINT)
        assert exporting.stderr
        said = b"".join([part async for part in exporting.stderr])
        with anyio.fail_after(HANG_SECONDS):
            status = await exporting.wait()
    gate.set()

    assert (status, said) == (130, b"")


async def test_a_reader_that_has_enough_ends_it_quietly(letta: Letta) -> None:
    conversation_id, _ = await a_conversation(letta, 1)
    letta.model.enqueue(Say("x" * 300_000))
    await letta.send(conversation_id, "write a lot")

    ours, theirs = os.pipe()
    command = process(letta, "export", conversation_id)
    async with await anyio.open_process(command, stdout=theirs, stderr=subprocess.PIPE) as exporting:
        os.close(theirs)
        await anyio.to_thread.run_sync(os.read, ours, 100)
        os.close(ours)
        assert exporting.stderr
        said = b"".join([part async for part in exporting.stderr])
        with anyio.fail_after(HANG_SECONDS):
            status = await exporting.wait()

    assert (status, said) == (141, b"")


async def test_a_terminal_shows_progress_on_stderr_alone(letta: Letta, tmp_path: Path) -> None:
    conversation_id, _ = await a_conversation(letta, 3)
    ours, theirs = pty.openpty()
    file = tmp_path / "x.md"

    command = process(letta, "export", conversation_id, "-o", str(file))
    async with await anyio.open_process(command, stderr=theirs) as exporting:
        os.close(theirs)
        assert exporting.stdout
        out = b"".join([part async for part in exporting.stdout])
        with anyio.fail_after(HANG_SECONDS):
            assert await exporting.wait() == 0
    shown = await anyio.to_thread.run_sync(_everything, ours)

    assert out == b""
    assert b"messages" in shown
    assert b"Messages written to" in shown
    assert "echo: m2" in file.read_text()


def _everything(terminal: int) -> bytes:
    shown = b""
    try:
        while part := os.read(terminal, 10_000):
            shown += part
    except OSError:
        # How Linux says that nobody has the other side open any more.
        pass
    os.close(terminal)
    return shown


def test_texts_of_any_kind_are_kept(tmp_path: Path) -> None:
    odd = Message(id="message-1", kind="user", type="user_message", text='"\ud800\u2028\x00\r\n{"id":"message-9"')
    file = tmp_path / "x.jsonl"
    file.write_bytes(entry("jsonl", odd))

    [line] = file.read_text().splitlines()
    with file.open("rb") as lines_:
        end = find_end(lines_, "jsonl", REF)

    assert Message.model_validate(json.loads(line)) == odd
    assert end == Resumption(0, "", "message-1")
    assert entry("md", odd).count(b"<!-- ") == 1


@pytest.mark.parametrize("content", ["[1]\n", '{"kind":"user"}\n', "words", '{"id":"message-1"}\nwords\n'])
def test_a_file_of_something_else_is_not_gone_on_with(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)

    with path.open("rb") as file, pytest.raises(NotAnExport):
        find_end(file, "jsonl", REF)


def test_a_transcript_begins_with_where_it_comes_from() -> None:
    assert head("md", REF) == f"<!-- conversation {REF.conversation_id} -->\n".encode()
