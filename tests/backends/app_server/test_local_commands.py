"""The commands with agents on this machine, on the real App Server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from letta_conversations_mcp.cli.main import main
from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.cli.conftest import Ran
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, connect, in_own_task


@pytest.fixture
async def mcp(local_settings: Settings, model: ScriptedModel) -> Any:
    """One way to our server is enough here: the commands have their own."""
    async with in_own_task(connect(local_settings, "memory", "modern")) as client:
        yield Caller(client)


async def run(settings: Settings, capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> Ran:
    own = ["--backend", "local", "--local-dir", str(settings.local_dir)]
    status = await anyio.to_thread.run_sync(main, [command, *own, *arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return Ran(status, said.out, said.err)


async def test_the_agents_of_this_machine_are_found_well(
    mcp: Caller, agent: str, local_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = await run(local_settings, capsys, "doctor", "--json")

    answer = json.loads(ran.out)
    checks = {each["check"]: each for each in answer["checks"]}
    assert (ran.status, answer["ok"]) == (0, True), checks
    assert "the agents of this machine, with Letta Code's App Server 0.34.12" in checks["server"]["found"]
    assert MODEL in checks["models"]["found"]
    assert {"key", "background"}.isdisjoint(checks)
    variables = answer["configuration"]["mcpServers"]["letta"]["env"]
    assert variables["LETTA_MCP_BACKEND"] == "local"
    assert variables["LMSTUDIO_BASE_URL"].startswith("http://127.0.0.1:")


async def test_a_fleet_is_applied_once_after_a_dry_run_that_says_what_cannot_be_done_here(
    mcp: Caller, agent: str, local_settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = (await mcp.ok("create_agent", name=unique("fleet"), model=MODEL)).data["name"]
    await mcp.ok("create_conversation", agent=name, summary="before")
    file = tmp_path / "fleet.yaml"
    file.write_text(f"""
agents:
  - name: {name}
    conversations:
      - summary: one
      - summary: before
      - summary: private
        isolated_blocks: [human]
""")

    dry = await run(local_settings, capsys, "apply", "-f", str(file), "--dry-run")
    first = await run(local_settings, capsys, "apply", "-f", str(file))
    second = await run(local_settings, capsys, "apply", "-f", str(file))
    listed = (await mcp.ok("list_conversations", agent=name)).data["conversations"]

    assert (dry.status, first.status, second.status) == (1, 1, 1)
    assert "conversations with agents on this machine share all of them. Nothing was created" in dry.out
    assert f"{name} has 1 conversation(s), and will have 2." in dry.out
    assert "1 would create, 1 there already, 1 failed." in dry.out
    assert "1 created, 1 there already, 1 failed." in first.out
    assert "2 there already, 1 failed." in second.out
    assert [each["summary"] for each in listed] == ["one", "before"]


async def test_a_conversation_is_exported_in_pages_and_gone_on_with(
    mcp: Caller,
    agent: str,
    local_settings: Settings,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    place = {"conversation_id": (await mcp.ok("create_conversation", agent=agent)).data["conversation_id"]}
    for number in range(55):
        await mcp.ok("send_message", **place, message=f"m{number}")
    file = tmp_path / "x.jsonl"

    first = await run(local_settings, capsys, "export", place["conversation_id"], "-o", str(file))
    for number in range(55, 60):
        await mcp.ok("send_message", **place, message=f"m{number}")
    second = await run(local_settings, capsys, "export", place["conversation_id"], "-o", str(file), "--resume")

    messages = [json.loads(line) for line in file.read_text().splitlines()]
    said = [each["text"] for each in messages if each["kind"] == "user"]
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert said == [f"m{number}" for number in range(60)]
    assert len({each["id"] for each in messages}) == len(messages) == 120


async def test_what_a_compaction_took_away_is_said_and_never_papered_over(
    mcp: Caller,
    agent: str,
    local_settings: Settings,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    place = {"conversation_id": (await mcp.ok("send_message", agent=agent, message="m1")).data["conversation_id"]}
    await mcp.ok("send_message", **place, message="m2")
    file = tmp_path / "x.jsonl"
    await run(local_settings, capsys, "export", place["conversation_id"], "-o", str(file))
    before = file.read_bytes()
    await mcp.ok("compact", **place, mode="all")
    await mcp.ok("send_message", **place, message="m3")

    fresh = await run(local_settings, capsys, "export", place["conversation_id"])
    resumed = await run(local_settings, capsys, "export", place["conversation_id"], "-o", str(file), "--resume")

    assert "no longer lists the messages from before that compaction" in fresh.err
    assert "echo: m3" in fresh.out
    assert resumed.status == 1
    assert "no longer lists there" in resumed.err
    assert file.read_bytes() == before
