"""Callers of one server who have lists of agents, on this machine."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL
from tests.http.team import Team, client_of
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, http_server

TALKED_IN = (4, 0, 5)
"""The conversations that were talked in, by their number, in this order; two agents have each second one."""


async def pages(caller: Caller, **query: Any) -> list[list[str]]:
    """The list, page by page, as somebody reads it who follows the cursors."""
    found: list[list[str]] = []
    after = ""
    while True:
        page = await caller.ok("list_conversations", **query, limit=2, after=after)
        ids = [each["id"] for each in page.data["conversations"]]
        found.append(ids)
        if "after=" not in page.data.get("next", ""):
            return found
        assert ids[-1] in page.data["next"]
        after = ids[-1]


async def test_a_list_of_several_agents_is_read_page_by_page(
    local_settings: Settings, model: ScriptedModel, tmp_path: Path
) -> None:
    team = Team(tmp_path / "tokens.toml")
    team.add("boss")
    settings = local_settings.model_copy(update={"tokens_file": team.path})
    async with http_server(settings) as url, client_of(url, team.tokens["boss"], "modern") as boss:
        agents = [
            (await boss.ok("create_agent", name=f"one {uuid.uuid4().hex[:6]}", model=MODEL)).data["agent_id"]
            for _ in range(3)
        ]
        made: list[str] = []
        for number in range(7):
            for agent_id in (agents[number % 2], agents[2]):
                opened = await boss.ok("create_conversation", agent=agent_id, summary=f"number {number}")
                made += [opened.data["conversation_id"]] if agent_id != agents[2] else []
        for number in TALKED_IN:
            sent = await boss.ok("send_message", conversation_id=made[number], message="hello")
            assert sent.data["status"] == "completed"
        deleted = made.pop()
    team.add("ann", agents=agents[:2])
    async with http_server(settings) as url, client_of(url, team.tokens["ann"], "modern") as ann:
        await ann.ok("delete", conversation_id=deleted, confirm=True)
        listed = {
            (order, order_by): [each for page in await pages(ann, order=order, order_by=order_by) for each in page]
            for order in ("desc", "asc")
            for order_by in ("created_at", "last_message_at")
        }
        foreign = await ann.refused("list_conversations", after=(await others(url, team, agents[2])))

    talked_in = [made[number] for number in TALKED_IN]
    first = {key: ids[: len(made if key[1] == "created_at" else talked_in)] for key, ids in listed.items()}
    assert first == {
        ("asc", "created_at"): made,
        ("desc", "created_at"): made[::-1],
        ("asc", "last_message_at"): talked_in,
        ("desc", "last_message_at"): talked_in[::-1],
    }
    for ids in listed.values():
        assert len(ids) == len(set(ids))
        assert set(ids) <= set(made)
    assert "There is no conversation" in foreign


async def others(url: str, team: Team, agent_id: str) -> str:
    """A conversation of an agent that is not on Ann's list."""
    async with client_of(url, team.tokens["boss"], "legacy") as boss:
        listed = await boss.ok("list_conversations", agent=agent_id, limit=1)
    return listed.data["conversations"][0]["id"]


async def test_a_cursor_that_was_deleted_since_is_still_a_place(
    local_settings: Settings, model: ScriptedModel, tmp_path: Path
) -> None:
    team = Team(tmp_path / "tokens.toml")
    team.add("boss")
    settings = local_settings.model_copy(update={"tokens_file": team.path})
    async with http_server(settings) as url, client_of(url, team.tokens["boss"], "modern") as boss:
        agent_id = (await boss.ok("create_agent", name=f"one {uuid.uuid4().hex[:6]}", model=MODEL)).data["agent_id"]
        opened = [await boss.ok("create_conversation", agent=agent_id, summary=f"number {n}") for n in range(3)]
        made = [each.data["conversation_id"] for each in opened]
        await boss.ok("delete", conversation_id=made[1], confirm=True)
        page = await boss.ok("list_conversations", agent=agent_id, order="asc", after=made[1])
        unknown = await boss.refused("list_conversations", agent=agent_id, after=f"{made[1]}0000")

    assert [each["id"] for each in page.data["conversations"]] == made[2:]
    assert "There is no conversation" in unknown
