"""Agents on this machine when their files are broken, cannot be written, or find no room: each time a sentence."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from letta_conversations_mcp.backends.app_server.process import until_stopped
from letta_conversations_mcp.backends.app_server.supervisor import ADDRESS, ADDRESS_VERSION, TOKEN
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.bounds import HANG_SECONDS
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Caller, Way

ONE_WAY = Way("memory", "modern")


@pytest.fixture
def settings(model_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LMSTUDIO_BASE_URL", model_url)
    return Settings(backend="local", local_dir=tmp_path)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[Caller]:
    """Our server, and afterwards no App Server any more."""
    assert settings.local_dir
    async with ONE_WAY.to(settings) as caller:
        yield caller
    with anyio.fail_after(HANG_SECONDS):
        await until_stopped(settings.local_dir)


@dataclass(frozen=True)
class Talk:
    """A conversation, and where its files and those of its agent are."""

    agent: str
    conversation_id: str
    agent_file: Path
    folder: Path


async def talk(caller: Caller, state: Path) -> Talk:
    agent = (await caller.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]
    sent = await caller.ok("send_message", agent=agent, message="hello")
    conversation_id = sent.data["conversation_id"]
    folder = state / "backend" / "conversations" / encoded(f"conversation:{conversation_id}")
    return Talk(agent, conversation_id, state / "backend" / "agents" / f"{encoded(agent)}.json", folder)


def encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def delete_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))


async def test_a_broken_line_is_named_hides_no_other_conversation_and_can_be_deleted(
    settings: Settings, tmp_path: Path, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"), Say("two"), Say("three"))
    async with serving(settings) as caller:
        broken, sound = await talk(caller, tmp_path), await talk(caller, tmp_path)
        place, path = {"conversation_id": broken.conversation_id}, broken.folder / "messages.jsonl"
        truncate(path)
        refusal = await caller.refused("list_messages", **place)
        found = await caller.ok("search_messages", query="hello")
        [number] = re.findall(r"Line (\d+) of the file", refusal)
        delete_line(path, int(number))
        repaired = await caller.ok("send_message", **place, message="better?")
        listed = await caller.ok("list_messages", **place)

    advice = f"Line {number} of the file {path} is broken"
    assert advice in refusal
    assert [row["conversation_id"] for row in found.data["messages"]] == [sound.conversation_id]
    assert f"1 could not be read, and were left out: {broken.conversation_id}. Letta refused" in found.data["note"]
    assert advice in found.data["note"]
    assert repaired.data["reply"] == "three"
    assert [each["text"] for each in listed.data["messages"]][-2:] == ["better?", "three"]


@pytest.mark.slow(reason="Letta Code tries to read the file again and again, for 7 seconds")
async def test_a_message_to_a_conversation_with_a_broken_file_fails_and_others_are_answered(
    settings: Settings, tmp_path: Path, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"), Say("two"))
    async with serving(settings) as caller:
        broken, sound = await talk(caller, tmp_path), await talk(caller, tmp_path)
    truncate(broken.folder / "messages.jsonl")

    async with serving(settings) as caller:
        failed = await caller.ok("send_message", conversation_id=broken.conversation_id, message="still there?")
        model.enqueue(Say("three"))
        following = await caller.ok("send_message", conversation_id=sound.conversation_id, message="and you?")

    assert failed.data["status"] == "failed"
    assert "a person has to repair the file" in failed.data["note"]
    assert following.data["reply"] == "three"


async def test_a_conversation_whose_record_is_broken_is_no_longer_there(
    settings: Settings, tmp_path: Path, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"), Say("two"))
    async with serving(settings) as caller:
        broken, sound = await talk(caller, tmp_path), await talk(caller, tmp_path)
    truncate(broken.folder / "conversation.json")

    async with serving(settings) as caller:
        unknown = await caller.refused("list_messages", conversation_id=broken.conversation_id)
        listed = await caller.ok("list_conversations")

    # Letta Code leaves out a conversation whose record it cannot read.
    assert "no conversation" in unknown
    assert [row["id"] for row in listed.data["conversations"]] == [sound.conversation_id]


async def test_the_broken_file_that_keeps_the_server_from_starting_is_named(
    settings: Settings, tmp_path: Path, model: ScriptedModel
) -> None:
    model.enqueue(Say("one"))
    async with serving(settings) as caller:
        sound = await talk(caller, tmp_path)
    empty = sound.agent_file.with_name("made-on-a-full-disk.json")
    empty.touch()
    providers = tmp_path / "backend" / "providers"
    providers.mkdir(exist_ok=True)
    (providers / "auth.json").write_text('{"half')

    async with serving(settings) as caller:
        refusal = await caller.refused("list_agents")
        empty.unlink()
        (providers / "auth.json").unlink()
        agents = await caller.ok("list_agents")

    assert f"these files are broken: {empty}, {providers / 'auth.json'}. Nothing was done." in refusal
    assert "sturdy" in agents.text


@pytest.mark.parametrize("name", [ADDRESS, TOKEN])
async def test_who_joins_a_server_whose_address_is_broken_is_told(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    async with serving(settings) as caller:
        await caller.ok("list_agents")
        sound = (tmp_path / name).read_text()
        truncate(tmp_path / name)
        async with ONE_WAY.to(settings) as other:
            refusal = await other.refused("list_agents")
            (tmp_path / name).write_text(sound)
            await other.ok("list_agents")
        await caller.ok("list_agents")

    assert f"the file {tmp_path / name}, which says how to reach it, is broken" in refusal


async def test_broken_files_that_a_killed_machine_left_are_made_anew(settings: Settings, tmp_path: Path) -> None:
    async with serving(settings) as caller:
        await caller.ok("list_agents")
    (tmp_path / ADDRESS).write_text('{"version"')
    (tmp_path / TOKEN).write_text("half")

    async with serving(settings) as caller:
        await caller.ok("list_agents")
        assert json.loads((tmp_path / ADDRESS).read_text())["version"] == ADDRESS_VERSION


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of a few MB, mounted; only root can do that."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"x" * 8_000_000)
    return filler


async def test_a_full_disk_is_told_and_room_is_used(settings: Settings, small_disk: Path, model: ScriptedModel) -> None:
    model.enqueue(Say("one"))
    settings = settings.model_copy(update={"local_dir": small_disk})
    async with serving(settings) as caller:
        talked = await talk(caller, small_disk)
        place = {"conversation_id": talked.conversation_id}
        filler = fill(small_disk)
        unsent = await caller.refused("send_message", **place, message="no room")
        unmade = await caller.refused("create_conversation", agent=talked.agent)
        page = await caller.ok("list_messages", **place)
        filler.unlink()
        model.enqueue(Say("two"))
        following = await caller.ok("send_message", **place, message="room again")
    filler = fill(small_disk)
    async with serving(settings) as caller:
        unstarted = await caller.refused("list_agents")
        filler.unlink()
        await caller.ok("list_agents")

    assert "Nothing was sent. It says this when its disk is full" in unsent
    assert "a person has to make room" in unmade
    assert [each["text"] for each in page.data["messages"]] == ["hello", "one"]
    assert following.data["reply"] == "two"
    assert "is on a full disk. Nothing was done. A person has to make room." in unstarted


async def test_a_turn_whose_disk_is_full_ends_with_what_came_and_can_be_stopped(
    settings: Settings, small_disk: Path, model: ScriptedModel
) -> None:
    settings = settings.model_copy(update={"local_dir": small_disk, "silence_timeout": 1.0})
    model.enqueue(Say("one"), held := Hold(Say("a long answer " * 200)))
    async with serving(settings) as caller, ONE_WAY.to(settings) as other:
        place = {"conversation_id": (await talk(caller, small_disk)).conversation_id}
        await other.ok("list_agents")
        running = await caller.ok("send_message", **place, message="no room for this", wait_seconds=0)
        await model.asked(2)
        filler = fill(small_disk)
        held.gate.set()
        failed = await caller.ok("wait_for_reply", **place, wait_seconds=20)
        unsent = await other.refused("send_message", **place, message="and this?", wait_seconds=10)
        stopped = await other.ok("cancel", **place)
        filler.unlink()
        branch = await caller.ok("fork", **place)
        model.enqueue(Say("rescued"), to="who is there")
        again = await caller.ok("send_message", conversation_id=branch.data["conversation_id"], message="who is there?")

    assert (running.data["status"], failed.data["status"]) == ("running", "failed")
    assert "stopped in the middle of the answer" in failed.data["note"]
    assert failed.data["reply"].startswith("a long answer a long answer")
    assert "fork" in unsent
    assert stopped.data["run_ids"] == [running.data["run_id"]]
    assert again.data["reply"] == "rescued"


async def test_a_disk_that_cannot_be_written_is_told(settings: Settings, small_disk: Path) -> None:
    settings = settings.model_copy(update={"local_dir": small_disk})
    async with serving(settings) as caller:
        await caller.ok("list_agents")
    remount(small_disk, "ro")
    async with ONE_WAY.to(settings) as caller:
        refusal = await caller.refused("list_agents")
        remount(small_disk, "rw")
        await caller.ok("list_agents")

    assert "cannot be written (Read-only file system)" in refusal
