"""Who is let in, and what a token opens: scopes, expiry, changes of the file, keys of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import anyio
import httpx
import pytest
from mcp import MCPError
from mcp_types import EmptyResult, ResourceTemplateReference, SubscribeRequest, SubscribeRequestParams
from pydantic import SecretStr

from letta_conversations_mcp.core.quoting import without_secrets
from letta_conversations_mcp.http.app import CannotServe, build_app
from letta_conversations_mcp.http.auth import open_requests, token_file
from letta_conversations_mcp.http.auth.token_file import make_token
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.catalogue import TOOLS
from tests.http.team import HEADERS, Team, call_tool, client_of, member, modern_call, post
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say
from tests.rig.servers import Answer, Era, http_server
from tests.rig.waiting import until

NOWHERE = "http://127.0.0.1:9"
SCOPES = ("read", "write", "delete")


def names_of(scope: str) -> set[str]:
    return {spec.name for spec in TOOLS if spec.scope == scope and spec.for_models}


async def test_a_caller_is_let_in_by_their_token_alone(team: Team) -> None:
    team.add("ann")
    team.add("old", expires="2020-01-01")
    team.add("late", expires="2020-01-01T00:00:00+02:00")
    refused: dict[str, dict[str, str | bytes]] = {
        "none": {},
        "empty": {"Authorization": "Bearer"},
        "unknown": {"Authorization": f"Bearer {make_token()}"},
        "no bearer": {"Authorization": f"Basic {team.tokens['ann']}"},
        "the hash": {"Authorization": f"Bearer {team.tables['ann'].split(chr(34))[3]}"},
        "expired": {**team.bearer("old")},
        "expired in its zone": {**team.bearer("late")},
        "a part": {"Authorization": f"Bearer {team.tokens['ann'][:-1]}"},
        "no ASCII": {"Authorization": b"Bearer \xff\xfe"},
    }
    async with http_server(team.settings(NOWHERE)) as url:
        answers = {why: await post(url, "tools/list", {}, each) for why, each in refused.items()}
        allowed = await post(url, "tools/list", {}, team.bearer("ann"))

    assert {why: each.status_code for why, each in answers.items()} == dict.fromkeys(answers, 401)
    assert all(each.headers["WWW-Authenticate"].startswith("Bearer") for each in answers.values())
    assert "error=" not in answers["none"].headers["WWW-Authenticate"]
    assert 'error="invalid_token"' in answers["expired"].headers["WWW-Authenticate"]
    assert allowed.status_code == 200


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_caller_is_offered_only_what_their_scope_opens(team: Team, era: Era, scope: str) -> None:
    team.add("ann", scopes=[scope])
    settings = team.settings(NOWHERE, create_agents=True)
    async with member(team, settings, "ann", era) as ann:
        offered = {tool.name for tool in (await ann.client.list_tools()).tools}
        refusals = {
            spec.name: await ann.refused(spec.name, conversation_id="conv-x") for spec in TOOLS if spec.scope != scope
        }

    assert offered == names_of(scope)
    assert all(f"needs the scope '{spec.scope}'" in refusals[spec.name] for spec in TOOLS if spec.name in refusals), (
        refusals
    )


def test_every_scope_has_its_tools() -> None:
    assert names_of("delete") == {"delete", "delete_agent"}
    assert {"send_message", "create_conversation", "compact"} <= names_of("write")
    assert {"list_messages", "wait_for_reply", "list_agents"} <= names_of("read")


async def test_who_may_not_read_finds_no_resources(team: Team, letta: Letta, era: Era) -> None:
    conversation = await letta.new_conversation((await letta.new_agent())[0])
    team.add("sender", scopes=["write"])
    async with member(team, team.settings(letta.base_url), "sender", era) as sender:
        listed = await sender.client.list_resources()
        templates = await sender.client.list_resource_templates()
        completed = await sender.client.complete(
            ResourceTemplateReference(uri="letta://conversations/{conversation_id}"),
            {"name": "conversation_id", "value": ""},
        )
        with pytest.raises(MCPError, match="needs the scope 'read'"):
            await sender.client.read_resource(f"letta://conversations/{conversation}")

    assert (listed.resources, templates.resource_templates, completed.completion.values) == ([], [], [])


@pytest.mark.parametrize(
    ("method", "scope"), [("tasks/get", "read"), ("tasks/cancel", "write"), ("tasks/update", "write")]
)
async def test_tasks_need_the_scope_of_what_they_do(team: Team, method: str, scope: str) -> None:
    team.add("other", scopes=[each for each in SCOPES if each != scope])
    team.add("holder", scopes=[scope])
    params: dict[str, Any] = {"taskId": "unknown", "inputResponses": {}}
    async with http_server(team.settings(NOWHERE)) as url:
        refused = await post(url, method, params, team.bearer("other"))
        asked = await post(url, method, params, team.bearer("holder"))

    assert f"needs the scope '{scope}'" in refused.json()["error"]["message"]
    assert "scope" not in asked.json()["error"]["message"]


async def test_who_may_not_read_is_told_of_no_changes(team: Team, letta: Letta) -> None:
    conversation = await letta.new_conversation((await letta.new_agent())[0])
    uri = f"letta://conversations/{conversation}"
    team.add("sender", scopes=["write", "delete"])
    team.add("reader", scopes=["read"])
    asked = {"notifications": {"resourceSubscriptions": [uri], "resourcesListChanged": True}}
    async with http_server(team.settings(letta.base_url)) as url:
        modern = await post(url, "subscriptions/listen", asked, team.bearer("sender"))
        request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
        async with client_of(url, team.tokens["sender"], "legacy") as sender:
            with pytest.raises(MCPError, match="needs the scope 'read'"):
                await sender.client.session.send_request(request, EmptyResult)
        async with client_of(url, team.tokens["reader"], "legacy") as reader:
            await reader.client.session.send_request(request, EmptyResult)
        async with (
            client_of(url, team.tokens["reader"], "modern") as reader,
            reader.client.listen(resource_subscriptions=[uri]) as stream,
        ):
            honored = stream.honored.resource_subscriptions

    assert "needs the scope 'read'" in modern.json()["error"]["message"]
    assert honored == [uri]


async def test_prompts_need_what_their_tools_need(team: Team, era: Era) -> None:
    team.add("reader", scopes=["read"])
    team.add("writer", scopes=["read", "write"])
    team.add("sender", scopes=["write"])
    names: dict[str, set[str]] = {}
    async with http_server(team.settings(NOWHERE)) as url:
        for who in team.tokens:
            async with client_of(url, team.tokens[who], era) as caller:
                names[who] = {each.name for each in (await caller.client.list_prompts()).prompts}
                if who == "reader":
                    with pytest.raises(MCPError, match="no prompt 'hand_over'"):
                        await caller.client.get_prompt("hand_over", {"agent": "x", "what": "y"})

    assert names["sender"] == set()
    assert names["reader"] == names["writer"] - {"hand_over", "continue_conversation"}
    assert "summarise_conversation" in names["reader"]


async def test_read_only_holds_for_everybody(team: Team, era: Era) -> None:
    team.add("admin")
    async with member(team, team.settings(NOWHERE, read_only=True), "admin", era) as admin:
        offered = {tool.name for tool in (await admin.client.list_tools()).tools}
        refusal = await admin.refused("delete", conversation_id="conv-x", confirm=True)

    assert offered == names_of("read")
    assert "no tool 'delete'" in refusal


async def test_a_change_of_the_file_holds_for_the_next_call(team: Team, era: Era) -> None:
    token = team.add("ann", scopes=["read", "delete"])
    async with http_server(team.settings(NOWHERE)) as url, client_of(url, token, era) as ann:
        assert "scope" not in await ann.refused("delete", conversation_id="conv-x")
        team.add("ann", scopes=["read"])

        async def may_not() -> bool:
            # The response to a call that is being answered when the rights change is ended.
            with suppress(MCPError):
                return "needs the scope 'delete'" in await ann.refused("delete", conversation_id="conv-x")
            return False

        async def is_refused() -> bool:
            return (await post(url, "tools/list", {}, team.bearer("ann"))).status_code == 401

        await until(may_not)
        team.tables.clear()
        team.write()
        await until(is_refused)


@asynccontextmanager
async def open_stream(url: str, headers: dict[str, str]) -> AsyncGenerator[AsyncIterator[str]]:
    """The lines of a stream of changes, after its acknowledgement."""
    body, own = modern_call("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
    async with (
        http_client() as http,
        http.stream("POST", f"{url}/mcp", json=body, headers={**own, **headers}) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()
        async for line in lines:
            if "acknowledged" in line:
                break
        yield lines


@asynccontextmanager
async def stream_of_session(url: str, headers: dict[str, str]) -> AsyncGenerator[AsyncIterator[str]]:
    """The lines of the stream that a client of the older protocol opens with GET."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    async with http_client(headers={**HEADERS, **headers}) as http:
        opened = await http.post(f"{url}/mcp", json=call)
        session_id = opened.headers["mcp-session-id"]
        http.headers.update({"Mcp-Session-Id": session_id, "MCP-Protocol-Version": "2025-11-25"})
        await http.post(f"{url}/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        async with http.stream("GET", f"{url}/mcp") as response:
            assert response.status_code == 200
            yield response.aiter_lines()


async def test_a_stream_ends_with_its_token_and_no_other_does(team: Team, letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent()
    team.add("ann")
    team.add("bob")
    stream = open_stream if era == "modern" else stream_of_session
    async with (
        http_server(team.settings(letta.base_url)) as url,
        stream(url, team.bearer("ann")) as of_ann,
        stream(url, team.bearer("bob")) as of_bob,
    ):
        del team.tables["ann"]
        team.write()
        with anyio.fail_after(HANG_SECONDS):
            assert not [line async for line in of_ann if line.startswith("data")]
            await call_tool(url, "create_conversation", {"agent": agent_id}, team.bearer("bob"))
            assert "list_changed" in await anext(line async for line in of_bob if line.startswith("data"))


def test_the_file_and_open_requests_are_looked_at_every_second() -> None:
    assert max(token_file.LOOK_SECONDS, open_requests.LOOK_SECONDS) <= 1


async def test_only_those_are_told_whose_list_changed(team: Team, letta: Letta) -> None:
    own, other = (await letta.new_agent())[0], (await letta.new_agent())[0]
    team.add("ann", agents=[own])
    team.add("bob")
    async with (
        http_server(team.settings(letta.base_url)) as url,
        open_stream(url, team.bearer("ann")) as of_ann,
        open_stream(url, team.bearer("bob")) as of_bob,
    ):
        for agent in (other, own, other):
            await call_tool(url, "create_conversation", {"agent": agent}, team.bearer("bob"))
        team.tables.clear()
        team.write()
        with anyio.fail_after(HANG_SECONDS):
            told_ann = [line async for line in of_ann if "list_changed" in line]
            told_bob = [line async for line in of_bob if "list_changed" in line]

    assert (len(told_ann), len(told_bob)) == (1, 3)


async def test_a_stream_ends_when_its_token_expires(team: Team, letta: Letta) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    team.add("ann", expires=soon.isoformat(timespec="seconds"))
    async with (
        http_server(team.settings(letta.base_url)) as url,
        open_stream(url, team.bearer("ann")) as of_ann,
    ):
        with anyio.fail_after(HANG_SECONDS):
            assert not [line async for line in of_ann if line.startswith("data")]
        assert datetime.now(UTC) >= soon.replace(microsecond=0), "it ended before its time"


async def test_a_call_that_waits_ends_with_its_token_and_its_turn_goes_on(team: Team, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    held = Hold(Say("done"))
    letta.model.enqueue(held, to="think")
    team.add("ann")
    team.add("bob")
    here = {"conversation_id": conversation_id}
    async with http_server(team.settings(letta.base_url)) as url:
        answers: list[httpx.Response] = []
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                answers.append(await call_tool(url, "send_message", {**here, "message": "think"}, team.bearer("ann")))

            tasks.start_soon(send)
            await letta.model.asked()
            del team.tables["ann"]
            team.write()
        held.gate.set()
        reply = await call_tool(url, "wait_for_reply", here, team.bearer("bob"))

    assert "result" not in answers[0].text
    assert "done" in reply.text


async def test_a_file_that_is_broken_leaves_the_tokens_in_force(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    team.add("ann")
    async with http_server(team.settings(NOWHERE)) as url:

        async def is_let_in_and_warned(times: int) -> bool:
            assert (await post(url, "tools/list", {}, team.bearer("ann"))).status_code == 200
            return caplog.text.count("stay in force") == times

        team.path.write_text("[[tokens]]\nname = ")
        await until(lambda: is_let_in_and_warned(1))
        team.path.unlink()
        await until(lambda: is_let_in_and_warned(2))
        assert await is_let_in_and_warned(2)


@pytest.mark.fake_only
async def test_letta_is_asked_with_the_callers_own_key_and_never_with_their_token(
    team: Team, letta: Letta, era: Era
) -> None:
    agent, _ = await letta.new_agent()
    team.add("ann", letta_api_key="sk-let-of-ann")
    team.add("bob")
    settings = team.settings(letta.base_url, api_key=SecretStr("sk-let-of-the-server"))
    async with (
        http_server(settings) as url,
        client_of(url, team.tokens["ann"], era) as ann,
        client_of(url, team.tokens["bob"], era) as bob,
    ):
        letta.fake.requests.clear()
        conversation = (await ann.ok("send_message", agent=agent, message="hello")).data["conversation_id"]
        of_ann = {each.headers.get("authorization") for each in letta.fake.requests}
        letta.fake.requests.clear()
        await bob.ok("list_messages", conversation_id=conversation)
        of_bob = {each.headers.get("authorization") for each in letta.fake.requests}

    assert of_ann == {"Bearer sk-let-of-ann"}
    assert of_bob == {"Bearer sk-let-of-the-server"}


async def test_callers_with_different_keys_share_the_order_of_a_conversation(
    team: Team, letta: Letta, era: Era
) -> None:
    agent, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent)
    team.add("ann", letta_api_key="sk-let-of-ann")
    team.add("bob", letta_api_key="sk-let-of-bob")
    held = Hold(Say("the first reply"))
    statuses: list[str] = []
    replies: list[Answer] = []
    letta.model.enqueue(held, Say("the second reply"))
    async with (
        http_server(team.settings(letta.base_url)) as url,
        client_of(url, team.tokens["ann"], era) as ann,
        client_of(url, team.tokens["bob"], era) as bob,
    ):
        first = await ann.ok("send_message", conversation_id=conversation, message="one", wait_seconds=0)
        async with anyio.create_task_group() as tasks:

            async def second() -> None:
                replies.append(await bob.ok("send_message", conversation_id=conversation, message="two"))

            tasks.start_soon(second)
            # What Ann has sent is a turn that Bob can wait for: both see this conversation.
            statuses.append(
                (await bob.ok("wait_for_reply", conversation_id=conversation, wait_seconds=0)).data["status"]
            )
            held.gate.set()

    assert [first.data["status"], *statuses] == ["running", "running"]
    assert replies[0].data["reply"] == "the second reply"
    assert await letta.stored_texts(agent, conversation) == ["one", "two"]


def test_a_server_that_others_reach_through_a_proxy_needs_a_token() -> None:
    for settings in (Settings(allowed_hosts=("team.example",)), Settings(public_url="https://team.example/mcp")):
        with pytest.raises(CannotServe, match="a token is needed"):
            build_app(build_server(settings), settings)


async def test_the_public_url_is_a_host_and_an_origin_to_accept(team: Team) -> None:
    team.add("ann")
    settings = team.settings(NOWHERE, public_url="https://team.example:8443/mcp")
    own = {"Host": "team.example:8443", "Origin": "https://team.example:8443"}
    async with http_server(settings) as url:
        accepted = await post(url, "tools/list", {}, team.bearer("ann") | own)
        foreign_host = await post(url, "tools/list", {}, team.bearer("ann") | {"Host": "team.example"})
        foreign_origin = await post(url, "tools/list", {}, team.bearer("ann") | own | {"Origin": "http://team.example"})

    assert [each.status_code for each in (accepted, foreign_host, foreign_origin)] == [200, 421, 403]


async def test_a_session_of_one_caller_is_none_for_another(team: Team) -> None:
    team.add("ann")
    team.add("bob")
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    legacy = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Method": ""}
    async with http_server(team.settings(NOWHERE)) as url:
        opened = await post(url, "initialize", hello, team.bearer("ann") | legacy)
        session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        stolen = await post(url, "tools/list", {}, team.bearer("bob") | legacy | session)

    assert (opened.status_code, stolen.status_code) == (200, 404)


async def test_an_unknown_tool_and_a_forbidden_one_reveal_nothing_more(team: Team) -> None:
    team.add("ann", scopes=["read"])
    async with http_server(team.settings(NOWHERE)) as url:
        forbidden = await call_tool(url, "delete", {"conversation_id": "conv-x", "confirm": True}, team.bearer("ann"))
        unknown = await call_tool(url, "drop_everything", {}, team.bearer("ann"))

    said = forbidden.json()["result"]["content"][0]["text"] + unknown.json()["result"]["content"][0]["text"]
    assert "needs the scope 'delete'" in said
    assert "send_message" not in said
    assert "list_messages" in said


async def test_a_server_that_knows_its_callers_answers_nobody_in_another_way(team: Team) -> None:
    team.add("ann")
    settings = team.settings(NOWHERE)
    server = build_server(settings)
    build_app(server, settings)

    with pytest.raises(MCPError, match="only callers that it knows"):
        await server.list_tools()


def test_over_http_there_are_many_clients() -> None:
    server = build_server(Settings(base_url=NOWHERE))
    assert not server.serves_many
    build_app(server, Settings(base_url=NOWHERE))
    assert server.serves_many


@pytest.mark.parametrize("mode", ["ask", "on"])
def test_tools_of_this_machine_are_not_served_without_a_token(mode: Literal["ask", "on"]) -> None:
    settings = Settings(backend="local", local_tools=mode)

    with pytest.raises(CannotServe, match=f"--local-tools {mode} lets agents run shell commands"):
        build_app(build_server(settings), settings)
    for safe in (
        settings.model_copy(update={"token": SecretStr("a-token")}),
        settings.model_copy(update={"local_tools": "off"}),
        settings.model_copy(update={"backend": "api"}),
    ):
        build_app(build_server(safe), safe)


def test_agents_of_this_machine_without_a_token_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for settings in (
        Settings(backend="api"),
        Settings(backend="local", token=SecretStr("a-token")),
        Settings(backend="local"),
    ):
        build_app(build_server(settings), settings)

    assert caplog.text.count("every program of this machine can read and use the agents") == 1
    # The log hides what looks like a secret, and here is none.
    assert without_secrets(caplog.text) == caplog.text


def test_a_short_token_is_only_for_this_machine() -> None:
    short, long = SecretStr("x" * 19), SecretStr("x" * 20)
    public = Settings(base_url=NOWHERE, token=short, allowed_hosts=("letta.example.org",))

    with pytest.raises(CannotServe, match="has 19 characters"):
        build_app(build_server(public), public)
    for safe in (Settings(base_url=NOWHERE, token=short), public.model_copy(update={"token": long})):
        build_app(build_server(safe), safe)
