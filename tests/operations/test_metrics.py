"""What Prometheus sees: every kind of event counted, and nothing in a label that grows with use."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from mcp import Client
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from letta_conversations_mcp import __version__
from letta_conversations_mcp.http.app import build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.context import ToolContext
from letta_conversations_mcp.tools.results.models import ModelList
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client, serve_loopback
from tests.rig.model import Hold, Refuse, Say, ScriptedModel
from tests.rig.servers import Caller, http_server
from tests.rig.waiting import until

TOKEN = "the-token-for-calls"
METRICS_TOKEN = "the-token-for-metrics"


class Scrape:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [each for family in text_string_to_metric_families(text) for each in family.samples]

    def value(self, name: str, **labels: str) -> float:
        found = [each.value for each in self._samples if each.name == name and each.labels.items() >= labels.items()]
        return sum(found)

    def labels(self) -> set[str]:
        return {value for each in self._samples for value in each.labels.values()}


async def scrape(url: str, token: str = "") -> Scrape:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with http_client() as http:
        response = await http.get(f"{url}/metrics", headers=headers)
    assert response.status_code == 200, response.text
    return Scrape(response.text)


async def ended_turns(url: str, count: int) -> Scrape:
    """A reading after so many turns have ended, which is a moment after their replies were given."""
    return await counted(url, "letta_mcp_turns_total", count)


async def counted(url: str, name: str, count: int) -> Scrape:
    """A reading in which a metric has come to this number."""

    async def look() -> Scrape | None:
        seen = await scrape(url)
        return seen if seen.value(name) >= count else None

    return await until(look)


@asynccontextmanager
async def served(letta_url: str) -> AsyncGenerator[tuple[Caller, str]]:
    """A server over HTTP in front of this Letta: a caller of its tools, and its URL."""
    async with http_server(Settings(base_url=letta_url)) as url, Client(f"{url}/mcp") as client:
        yield Caller(client), url


async def test_calls_turns_and_requests_to_letta_are_counted_by_how_they_ended(
    letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent()
    async with served(letta.base_url) as (caller, url):
        await caller.ok("send_message", agent=agent_id, message="hello")
        model.enqueue(Refuse(500))
        await caller.ok("send_message", agent=agent_id, message="fail")
        await caller.refused("send_message", agent="nobody", message="hello")
        await caller.refused("no_such_tool")
        seen = await ended_turns(url, 2)

    assert seen.value("letta_mcp_tool_calls_total", tool="send_message", outcome="ok") == 2
    assert seen.value("letta_mcp_tool_calls_total", tool="send_message", outcome="error") == 1
    assert seen.value("letta_mcp_tool_calls_total", tool="unknown", outcome="error") == 1
    assert seen.value("letta_mcp_tool_call_seconds_count", tool="send_message") == 3
    assert seen.value("letta_mcp_turns_total", status="completed") == 1
    assert seen.value("letta_mcp_turns_total", status="failed") == 1
    assert seen.value("letta_mcp_turn_seconds_count") == 2
    assert seen.value("letta_mcp_letta_requests_total", status="200") > 2
    for name in ("letta_mcp_tasks", "process_resident_memory_bytes", "process_open_fds", "python_info"):
        assert seen.value(name) > 0, name
    assert seen.value("letta_mcp_info", version=__version__) == 1


async def test_a_fault_of_this_server_and_a_call_that_is_given_up_are_no_errors_that_a_caller_was_told() -> None:
    fake, gate = FakeLetta(ScriptedModel()), anyio.Event()
    fake.stall("GET", "/v1/agents/*", gate)
    async with fake.serve() as letta_url:
        settings = Settings(base_url=letta_url)
        server = build_server(settings)
        server.specs["list_models"] = replace(server.specs["list_models"], fn=faulty)
        async with (
            serve_loopback(build_app(server, settings), listen(settings.model_copy(update={"port": 0}))) as url,
            Client(f"{url}/mcp") as client,
        ):
            caller = Caller(client)
            told = await caller.refused("list_models")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(caller.call, "list_agents")
                await fake.requests.until()
                tasks.cancel_scope.cancel()
            seen = await counted(url, "letta_mcp_tool_calls_total", 2)
        gate.set()

    assert "failed inside this MCP server" in told
    assert "not for callers" not in told
    assert seen.value("letta_mcp_tool_calls_total", tool="list_models", outcome="crash") == 1
    assert seen.value("letta_mcp_tool_calls_total", tool="list_agents", outcome="cancelled") == 1
    assert seen.value("letta_mcp_tool_calls_total") == 2


async def faulty(ctx: ToolContext) -> ModelList:
    """A tool with a fault."""
    raise RuntimeError("not for callers")


async def test_turns_that_run_and_messages_that_wait_are_told_apart(letta: Letta, model: ScriptedModel) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("done"))
    model.enqueue(held)
    async with served(letta.base_url) as (caller, url):
        place = {"conversation_id": conversation_id}
        await caller.ok("send_message", **place, message="think", wait_seconds=0.1)
        running = await scrape(url)
        await caller.refused("send_message", **place, message="think again", wait_seconds=0.1)
        held.gate.set()
        await caller.ok("wait_for_reply", **place)
        ended = await ended_turns(url, 2)

    assert running.value("letta_mcp_turns_in_flight") == 1
    assert running.value("letta_mcp_messages_queued") == 0
    assert ended.value("letta_mcp_turns_in_flight") == 0
    assert ended.value("letta_mcp_turns_total", status="withdrawn") == 1
    assert ended.value("letta_mcp_turns_total", status="completed") == 1


async def test_broken_connections_are_counted_with_what_was_done_about_them() -> None:
    fake = FakeLetta(ScriptedModel())
    agent_id = fake.add_agent("far")
    async with fake.serve() as letta_url, served(letta_url) as (caller, url):
        fake.drop("POST", "/v1/conversations/*/messages", after_events=2)
        await caller.ok("send_message", agent=agent_id, message="hello")
        seen = await ended_turns(url, 1)

    assert seen.value("letta_mcp_streams_lost_total") == 1
    assert seen.value("letta_mcp_streams_resumed_total") == 1
    assert seen.value("letta_mcp_messages_resent_total") == 0


async def test_a_message_that_never_arrived_is_counted_when_it_is_sent_again() -> None:
    fake = FakeLetta(ScriptedModel(), redis=False)
    agent_id = fake.add_agent("far")
    async with fake.serve() as letta_url, served(letta_url) as (caller, url):
        fake.drop("POST", "/v1/conversations/*/messages", before_request_is_handled=True)
        await caller.ok("send_message", agent=agent_id, message="hello")
        seen = await ended_turns(url, 1)

    assert seen.value("letta_mcp_messages_resent_total") == 1
    assert seen.value("letta_mcp_letta_requests_total", status="none") == 1


async def test_a_turn_that_is_joined_again_is_counted_once(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    message = {"agent": agent_id, "message": "hello", "message_key": "once"}
    async with served(letta.base_url) as (first, one), served(letta.base_url) as (second, other):
        sent = await first.ok("send_message", **message)
        again = await second.ok("send_message", **message)
        await ended_turns(one, 1)
        await second.ok("send_message", agent=agent_id, message="another")
        seen = await ended_turns(other, 1)

    assert again.data["run_id"] == sent.data["run_id"]
    assert seen.value("letta_mcp_turns_total") == 1
    assert seen.value("letta_mcp_turn_seconds_count") == 1


async def test_no_label_holds_an_id_a_name_or_a_text(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent("Bartholomew")
    async with served(letta.base_url) as (caller, url):
        sent = await caller.ok("send_message", agent="Bartholomew", message="a very private text")
        await caller.refused("tool-of-my-own-invention")
        few = (await ended_turns(url, 1)).labels()
        for number in range(20):
            await caller.refused(f"tool-{number}")
            await caller.ok("send_message", agent=agent_id, message=f"text {number}")
        seen = await ended_turns(url, 21)

    assert seen.labels() == few
    for secret in ("Bartholomew", "private", agent_id, sent.data["conversation_id"], sent.data["run_id"], "invention"):
        assert secret not in seen.text
    assert not re.search(r"conv-|run-|agent-[0-9a-f]", seen.text)


async def test_where_calls_need_a_token_metrics_need_one_of_their_own() -> None:
    closed = Settings(token=SecretStr(TOKEN))
    opened = Settings(token=SecretStr(TOKEN), metrics_token=SecretStr(METRICS_TOKEN))
    async with http_client() as http:
        async with http_server(closed) as url:
            none = await http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        async with http_server(opened) as url:
            calls_token = await http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            nothing = await http.get(f"{url}/metrics")
            right = await http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})

    assert [each.status_code for each in (none, calls_token, nothing, right)] == [404, 401, 401, 200]
    assert "letta_mcp" not in none.text + calls_token.text + nothing.text


@pytest.mark.parametrize("path", ["/metrics/", "/readyz/x", "/healthz2"])
async def test_paths_beside_the_known_ones_get_nothing(path: str) -> None:
    async with http_server(Settings()) as url, http_client() as http:
        assert (await http.get(f"{url}{path}")).status_code == 404
