"""`apply` against a Letta server: what a fleet file declares is there afterwards, once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anyio
import pytest
from pydantic_core import to_json

from tests.cli.conftest import Commands, Run, process
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import ScriptedModel

Declared = dict[str, list[str | dict[str, object]]]


def fleet(folder: Path, agents: Declared) -> str:
    """A fleet file; a text stands for a conversation with that summary. JSON is YAML too."""
    content = [
        {
            "name": name,
            "conversations": [{"summary": each} if isinstance(each, str) else each for each in conversations],
        }
        for name, conversations in agents.items()
    ]
    path = folder / "fleet.yaml"
    path.write_bytes(to_json({"agents": content}))
    return str(path)


async def summaries(letta: Letta, agent_id: str) -> list[str]:
    listed = await letta.request("GET", "/v1/conversations/", params={"agent_id": agent_id, "limit": 1000})
    return sorted(each["summary"] for each in listed)


async def test_what_is_declared_is_created_once(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    there = await letta.new_conversation(agent_id, "taxes")
    file = fleet(tmp_path, {name: ["invoice 4711", "taxes", "100% _done_"]})

    first = await run("apply", "-f", file)
    second = await run("apply", "-f", file)

    assert (first.status, second.status) == (0, 0)
    assert await summaries(letta, agent_id) == ["100% _done_", "invoice 4711", "taxes"]
    assert f"{name} · 'taxes' · {there} · there already\n" in first.out
    assert first.out.endswith("2 created, 1 there already.\n")
    assert second.out.endswith("3 there already.\n")


async def test_a_dry_run_creates_nothing(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()

    ran = await run("apply", "--dry-run", "-f", fleet(tmp_path, {name: ["invoice 4711"]}))

    assert (ran.status, ran.out) == (
        0,
        f"{name} · 'invoice 4711' · would create\n{name} has 0 conversation(s), and will have 1.\n1 would create.\n",
    )
    assert await summaries(letta, agent_id) == []


async def test_a_dry_run_counts_what_each_agent_has_and_will_have(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    await letta.new_conversation(agent_id, "taxes")
    await letta.new_conversation(agent_id, "not declared")
    file = fleet(tmp_path, {name: ["invoice 4711", "taxes", "travel"]})

    told = await run("apply", "--dry-run", "-f", file)
    machine = json.loads((await run("apply", "--dry-run", "--json", "-f", file)).out)

    assert f"{name} has 2 conversation(s), and will have 4.\n" in told.out
    assert machine["agents"] == [{"agent": name, "has": 2, "will_have": 4, "at_least": False}]


async def test_what_is_probably_not_meant_is_reported_and_the_rest_is_done(
    run: Run, letta: Letta, tmp_path: Path
) -> None:
    agent_id, name = await letta.new_agent()
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"agents:\n  - name: {name}\n    conversations:\n      - summary: Ticket #103\n    conversation: []\n"
    )

    ran = await run("apply", "-f", str(path))

    assert ran.status == 0
    assert "line 4: the summary is 'Ticket'; '#103' is a comment" in ran.err
    assert await summaries(letta, agent_id) == ["Ticket"]


async def test_a_conversation_is_found_however_many_others_there_are(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    await letta.new_conversation(agent_id, "note 1")
    for number in range(120):
        await letta.new_conversation(agent_id, f"note 1{number}")

    ran = await run("apply", "-f", fleet(tmp_path, {name: ["note 1"]}))

    assert ran.out.endswith("1 there already.\n")


async def test_one_failure_does_not_stop_the_rest(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    file = fleet(
        tmp_path,
        {
            "nobody of this name": ["a", "b"],
            name: [{"summary": "c", "isolated_blocks": ["no such block"]}, "d"],
        },
    )

    ran = await run("apply", "-f", file)

    assert ran.status == 1
    assert ran.out.count("failed: There is no agent 'nobody of this name'") == 2
    assert "'c' · failed: isolated_blocks" in ran.out
    assert ran.out.splitlines()[-1].startswith("3 failed, 1 created. Fix")
    assert await summaries(letta, agent_id) == ["d"]


async def test_a_declared_block_that_a_conversation_lacks_is_reported(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    await letta.new_conversation(agent_id, "shares all")
    declared: Declared = {
        name: [
            {"summary": "shares all", "isolated_blocks": ["human"]},
            {"summary": "has its own", "isolated_blocks": ["human"]},
        ]
    }

    first = await run("apply", "-f", fleet(tmp_path, declared))
    second = await run("apply", "-f", fleet(tmp_path, declared))

    assert (first.status, second.status) == (1, 1)
    assert "differs: it has no copy of its own of the memory block 'human'" in first.out
    assert first.out.splitlines()[-1].startswith("1 differs, 1 created.")
    assert second.out.splitlines()[-1].startswith("1 differs, 1 there already.")


async def test_conversations_of_the_same_name_are_reported_and_kept(run: Run, letta: Letta, tmp_path: Path) -> None:
    agent_id, name = await letta.new_agent()
    twins = [await letta.new_conversation(agent_id, "twin") for _ in range(2)]

    ran = await run("apply", "-f", fleet(tmp_path, {name: ["twin"]}))

    assert ran.status == 1
    assert "differs: several have this summary" in ran.out
    assert all(twin in ran.out for twin in twins)
    assert await summaries(letta, agent_id) == ["twin", "twin"]


async def test_only_the_chosen_agent_is_looked_after(run: Run, letta: Letta, tmp_path: Path) -> None:
    first, name = await letta.new_agent()
    second, other = await letta.new_agent()
    file = fleet(tmp_path, {name: ["mine"], other: ["theirs"]})

    ran = await run("apply", "-f", file, "--agent", name)
    refused = await run("apply", "-f", file, "--agent", "no such agent")

    assert ran.status == 0
    assert (await summaries(letta, first), await summaries(letta, second)) == (["mine"], [])
    assert refused.status == 2
    assert "declares no agent 'no such agent'" in refused.err


async def test_machines_read_one_json_object(run: Run, letta: Letta, tmp_path: Path) -> None:
    _, name = await letta.new_agent()

    ran = await run("apply", "--json", "-f", fleet(tmp_path, {name: ["invoice 4711"], "nobody here": ["x"]}))

    answer = json.loads(ran.out)
    made, failed = answer["conversations"]
    assert (ran.status, answer["ok"]) == (1, False)
    assert (made["agent"], made["summary"], made["status"]) == (name, "invoice 4711", "created")
    assert made["conversation_id"].startswith("conv-")
    assert failed["status"] == "failed"
    assert "nobody here" in failed["detail"]


async def test_a_fleet_without_conversations_is_nothing_to_do(run: Run, tmp_path: Path) -> None:
    ran = await run("apply", "-f", fleet(tmp_path, {"whoever": []}))

    assert (ran.status, ran.out) == (0, "No conversations are declared.\n")


async def test_a_file_that_cannot_be_used_ends_with_2_before_anything_is_done(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("agents: [{name: 7}]")

    ran = await run("apply", "-f", str(path))

    assert (ran.status, ran.out) == (2, "")
    assert "agents[0].name" in ran.err


async def test_a_fleet_comes_from_standard_input_too(letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    content = to_json({"agents": [{"name": name, "conversations": [{"summary": "piped"}]}]})

    with anyio.fail_after(HANG_SECONDS):
        ran = await anyio.run_process(process(letta, "apply", "-f", "-"), input=content, stderr=subprocess.STDOUT)

    assert ran.stdout.decode().endswith("1 created.\n")
    assert await summaries(letta, agent_id) == ["piped"]


@pytest.mark.fake_only
async def test_a_creation_that_breaks_is_not_repeated_and_the_next_run_finds_what_is_there(
    run: Run, letta: Letta, tmp_path: Path
) -> None:
    agent_id, name = await letta.new_agent()
    file = fleet(tmp_path, {name: ["first", "second"]})
    letta.fake.drop("POST", "/v1/conversations/", after_request_is_handled=True)

    broken = await run("apply", "-f", file)
    again = await run("apply", "-f", file)

    assert broken.status == 1
    assert "'first' · failed: Letta failed when asked to create a conversation" in broken.out
    assert again.out.endswith("2 there already.\n")
    assert await summaries(letta, agent_id) == ["first", "second"]


async def test_archived_conversations_are_there_too_and_a_server_that_ignores_blocks_is_told(
    commands: Commands, tmp_path: Path
) -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    async with fake.serve() as base_url:
        letta = Letta(base_url, ScriptedModel(), fake)
        agent_id, name = await letta.new_agent()
        archived = await letta.new_conversation(agent_id, "old")
        await letta.request("PATCH", f"/v1/conversations/{archived}", json={"archived": True})
        own: dict[str, object] = {"summary": "own", "isolated_blocks": ["human"]}

        ran = await commands(base_url)("apply", "-f", fleet(tmp_path, {name: ["old", own]}))
        await letta.close()

    assert ran.status == 1
    assert f"'old' · {archived} · there already" in ran.out
    assert "differs: it was created, and it has no copy of its own" in ran.out
