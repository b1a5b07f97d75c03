"""The commands that lettactl has too."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from tests.cli.conftest import Commands, Ran, Run
from tests.rig.letta_server import Letta


@pytest.fixture
def lcm(commands: Commands, letta: Letta, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of any number of words."""
    monkeypatch.setattr(sys, "argv", ["lcm"])
    monkeypatch.setenv("LETTA_BASE_URL", letta.base_url)

    async def run(*arguments: str) -> Ran:
        from anyio import to_thread

        from letta_conversations_mcp.cli.main import main

        status = await to_thread.run_sync(main, list(arguments))
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return run


async def test_send_without_a_conversation_goes_to_the_default_one(lcm: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()

    sent = await lcm("send", name, "hello", "-o", "json")
    shown = await lcm("get", "messages", name)
    elsewhere = await lcm("get", "conversations", name, "-o", "json")

    assert json.loads(sent.out)["reply"] == "echo: hello"
    assert json.loads(sent.out)["conversation_id"] == "default"
    assert json.loads(sent.out)["agent_id"] == agent_id
    assert "echo: hello" in shown.out
    assert json.loads(elsewhere.out) == []


async def test_a_conversation_is_created_used_described_compacted_and_deleted(lcm: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()

    created = await lcm("create", "conversation", name)
    [row] = json.loads((await lcm("get", "conversations", name, "-o", "json")).out)
    sent = await lcm("send", name, "The invoice is due.", "--conversation-id", row["id"])
    described = await lcm("describe", "conversation", row["id"], "-o", "json")
    compacted = await lcm("compact-messages", name, "--conversation-id", row["id"])
    kept = await lcm("delete", "conversation", row["id"])
    deleted = await lcm("delete", "conversation", row["id"], "--force")
    left = await lcm("get", "conversations", name, "-o", "yaml")

    assert created.status == sent.status == compacted.status == deleted.status == 0
    assert row["id"] in created.out
    assert json.loads(described.out)["conversation_id"] == row["id"]
    assert f"Compacted {row['id']}" in compacted.out
    assert kept.status == 1
    assert "add --force" in kept.err
    assert yaml.safe_load(left.out) == []


async def test_the_systems_messages_are_shown_only_when_asked_for(lcm: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()
    await lcm("send", name, "hello")

    plain = json.loads((await lcm("get", "messages", name, "-o", "json")).out)
    full = json.loads((await lcm("get", "messages", name, "--system", "-o", "json")).out)

    assert {row["kind"] for row in plain} == {"user", "assistant"}
    assert "system" in {row["kind"] for row in full}


async def test_a_table_has_a_line_for_each_agent_and_cuts_nothing(lcm: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent("Überweisungen 請求書 and everything else that has to do with the books")

    lines = (await lcm("get", "agents")).out.splitlines()
    rows = json.loads((await lcm("get", "agents", "-o", "json")).out)

    assert lines[0].split()[:2] == ["NAME", "ID"]
    assert len(lines) == len(rows) + 1
    assert any(line.startswith(name) and agent_id in line for line in lines)


async def test_a_summary_cannot_turn_the_line_of_a_table_around(lcm: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    await letta.new_conversation(agent_id, "\u202e4711 eciovni")

    listed = await lcm("get", "conversations", name)

    assert "\u202e" not in listed.out
    assert "\\u202e4711 eciovni" in listed.out


async def test_describe_and_delete_still_take_a_conversation(lcm: Run, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    assert conversation_id in (await lcm("describe", conversation_id)).out
    assert (await lcm("delete", conversation_id, "--confirm")).status == 0


async def test_an_agent_is_deleted_only_with_force(lcm: Run, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    _, other = await letta.new_agent()

    kept = await lcm("delete", "agent", name)
    before = (await lcm("get", "agents")).out
    deleted = await lcm("delete", "agent", name, "--force")
    after = (await lcm("get", "agents")).out

    assert (kept.status, deleted.status) == (1, 0)
    assert agent_id in before
    assert agent_id not in after
    assert other in after
