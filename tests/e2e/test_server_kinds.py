"""Servers of several kinds: locked, down, silent, newer, without models, and none of Letta's."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import loopback_socket
from tests.rig.model import CallTools, Hold, Refuse, Say, ScriptedModel, Use
from tests.rig.servers import Way

pytestmark = pytest.mark.fake_only

KEY = "sk-let-this-must-never-be-shown-0123456789"


async def test_a_wrong_key_is_named_and_not_shown(way: Way) -> None:
    fake = FakeLetta(ScriptedModel(), password="right")
    async with (
        fake.serve() as url,
        way.to(Settings(base_url=url, api_key=SecretStr(KEY))) as wrong,
        way.to(Settings(base_url=url)) as without,
    ):
        refusals = [await caller.refused("list_agents") for caller in (wrong, without)]

    assert "did not accept the key in LETTA_API_KEY" in refusals[0]
    assert "LETTA_API_KEY is not set" in refusals[1]
    # Where Letta is, is for its operators to know.
    assert not any(url in refusal or KEY in refusal for refusal in refusals)


async def test_the_right_key_opens(way: Way) -> None:
    fake = FakeLetta(ScriptedModel(), password=KEY)
    fake.add_agent("guarded")
    async with fake.serve() as url, way.to(Settings(base_url=url, api_key=SecretStr(KEY))) as caller:
        answer = await caller.ok("list_agents")

    assert answer.data["agents"][0]["name"] == "guarded"
    assert KEY not in answer.text


async def test_a_server_that_is_down_is_said_to_be_unreachable(way: Way) -> None:
    with loopback_socket() as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with way.to(Settings(base_url=url)) as caller:
            read = await caller.refused("list_agents")
            sent = await caller.refused(
                "send_message", conversation_id="conv-00000000-0000-4000-8000-000000000000", message="hello"
            )

    for refusal in (read, sent):
        assert "cannot be reached" in refusal
        assert url not in refusal
        assert "Nothing was done" in refusal


async def test_a_server_that_is_no_letta_server_is_said_to_be_none(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, way.to(Settings(base_url=f"{url}/elsewhere")) as caller:
        fake.fail("GET", "*/v1/conversations/*", status=200, body="<html>Welcome</html>")
        not_found = await caller.refused("list_agents")
        page = await caller.refused("list_conversations")

    for refusal in (not_found, page):
        assert "not a Letta REST server" in refusal
        assert "App Server" in refusal


async def test_a_server_that_says_nothing_is_given_up_within_the_bound(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("silent")
    gate = anyio.Event()
    async with (
        fake.serve() as url,
        way.to(Settings(base_url=url, request_timeout=1, compact_timeout=1)) as caller,
    ):
        conversation_id = fake.add_conversation(agent_id)
        await caller.ok("list_conversations")
        fake.stall("POST", "*/compact", gate)
        fake.stall("GET", "/v1/agents/", gate, times=3)
        compacted = await caller.refused("compact", conversation_id=conversation_id)
        listed = await caller.refused("list_agents")
        gate.set()

    assert "did not answer within 1 s" in compacted
    assert "may have been compacted" in compacted
    assert "Nothing was changed" in listed


@pytest.mark.parametrize("which", ["an old run", "a run that stored its own message"])
async def test_a_failed_run_of_another_message_is_not_the_fate_of_one_that_never_arrived(way: Way, which: str) -> None:
    """Without Redis, runs are all that tells what became of a message. One that fails at its first step stores none."""
    model = ScriptedModel()
    fake = FakeLetta(model, redis=False)
    agent_id = fake.add_agent("mixed up")
    if which == "a run that stored its own message":
        model.enqueue(CallTools((Use("conversation_search", {"query": "tea"}),)))
    model.enqueue(Refuse(401), to="another")
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        place = {"conversation_id": fake.add_conversation(agent_id)}
        another = await caller.ok("send_message", **place, message="another")
        if which == "an old run":
            fake.runs[another.data["run_id"]].created -= timedelta(hours=1)
        fake.drop("POST", "/v1/conversations/*/messages", before_request_is_handled=True)
        mine = await caller.ok("send_message", **place, message="mine")

    fake.check_used()
    assert another.data["status"] == "failed"
    assert (mine.data["status"], mine.data.get("reply")) == ("completed", "echo: mine")
    assert mine.data["run_id"] != another.data["run_id"]


async def test_silence_within_a_turn_is_bounded_and_the_turn_found_again(way: Way) -> None:
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("thinker")
    held = Hold(Say("Finally."))
    model.enqueue(held)
    async with fake.serve() as url, way.to(Settings(base_url=url, silence_timeout=0.3)) as caller:
        conversation_id = fake.add_conversation(agent_id)
        running = await caller.ok("send_message", conversation_id=conversation_id, message="think", wait_seconds=0)
        # The model is silent, and so is the stream: it is given up while the turn runs, and taken up again.
        await fake.requests.until(lambda each: each.path.endswith("/stream") and "starting_after" in each.json)
        held.gate.set()
        reply = await caller.ok("wait_for_reply", conversation_id=conversation_id)

    assert running.data["status"] == "running"
    assert reply.data["reply"] == "Finally."
    assert sum(each.path.endswith("/messages") and each.method == "POST" for each in fake.requests) == 1


async def test_the_first_message_waits_for_no_otid_that_letta_does_not_have(way: Way) -> None:
    # The server (0.16.8) looks for such an otid for 1.8 seconds.
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("quick")
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        await caller.ok("send_message", agent=agent_id, message="hello")
        await caller.ok("send_message", agent=agent_id, message="hello", message_key="a new key")

    streams = [each.json for each in fake.requests if each.path.endswith("/stream")]
    assert [list(each) for each in streams] == [["run_id"]]


async def test_a_newer_server_keeps_what_it_is_given(way: Way) -> None:
    fake = FakeLetta(ScriptedModel(), cloud=True)
    agent_id = fake.add_agent("cloudy")
    async with fake.serve() as url, way.to(Settings(base_url=url)) as caller:
        created = await caller.ok(
            "create_conversation",
            agent=agent_id,
            summary="s",
            description="long",
            hidden=True,
            context_window_limit=9000,
        )
        isolated = await caller.ok("create_conversation", agent=agent_id, isolated_blocks=["human"])

    assert "note" not in created.data
    assert "shares ALL memory blocks" in isolated.data["note"]


async def test_agents_are_created_here_when_the_settings_offer_it(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, way.to(Settings(base_url=url, create_agents=True)) as caller:
        created = await caller.ok("create_agent", name="made here", human="Likes tea.", model="openai-proxy/fake-2")
        chosen = await caller.ok("create_agent", name="with any model")
        refused = await caller.refused("create_agent", name="x", model="no/such")
        listed = await caller.ok("list_agents", search="made")

    assert listed.data["agents"] == [
        {"id": created.data["agent_id"], "name": "made here", "model": "openai-proxy/fake-2"}
    ]
    assert chosen.data["model"].startswith("openai-proxy/")
    assert "this server has no 'no/such'" in refused


async def test_a_server_without_models_says_what_to_do(way: Way) -> None:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, way.to(Settings(base_url=url, create_agents=True)) as caller:
        fake.fail("GET", "/v1/models/", status=200, body="[]", times=2)
        listed = await caller.ok("list_models")
        refused = await caller.refused("create_agent", name="x")

    assert "connect a model provider" in listed.text
    assert "connect a model provider" in refused
