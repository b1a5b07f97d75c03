"""`doctor`: what it finds in front of every kind of server, and what it never says."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from letta_conversations_mcp.settings import Settings
from tests.cli.conftest import Commands, Run
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.loopback import loopback_socket, serve_loopback
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, connect, environment


@asynccontextmanager
async def something(*routes: tuple[str, Callable[[Request], Awaitable[Response]]]) -> AsyncGenerator[str]:
    """A web server with these routes."""
    app = Starlette(routes=[Route(path, endpoint) for path, endpoint in routes])
    async with serve_loopback(app, loopback_socket()) as url:
        yield url


def checks(out: str) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads(out)["checks"]}


async def test_a_server_that_is_well_is_said_to_be(run: Run, letta: Letta) -> None:
    _, name = await letta.new_agent()

    ran = await run("doctor")
    machine = json.loads((await run("doctor", "--json")).out)

    assert (ran.status, machine["ok"]) == (0, True)
    assert f"ok    server         a self-hosted Letta server 0.16.8 at {letta.base_url}" in ran.out
    assert name in ran.out
    assert "ok    models" in ran.out
    assert "ok    background     the server has Redis" in ran.out
    assert "letta-client 1." in ran.out


@pytest.mark.fake_only
async def test_nothing_is_sent_and_nothing_changed(run: Run, letta: Letta) -> None:
    before = len(letta.fake.requests)

    await run("doctor")

    asked = [(each.method, each.path) for each in letta.fake.requests[before:]]
    assert [path for method, path in asked if method != "GET"] == [
        "/v1/conversations/conv-00000000-0000-4000-8000-000000000000/stream"
    ]


async def test_the_configuration_starts_this_server_and_holds_no_secret(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "sk-let-very-secret")
    fake = FakeLetta(ScriptedModel(), password="sk-let-very-secret")
    async with fake.serve() as base_url:
        ran = await commands(base_url.replace("http://", "http://ann:pass-word@"))(
            "doctor", "--json", "--silence-timeout", "99"
        )

    entry = json.loads(ran.out)["configuration"]["mcpServers"]["letta"]
    assert Path(entry["command"]).is_absolute()
    assert Path(entry["command"]).exists()
    assert entry["env"] == {
        "LETTA_API_KEY": "your LETTA_API_KEY",
        "LETTA_BASE_URL": base_url,
        "LETTA_MCP_SILENCE_TIMEOUT": "99.0",
    }
    assert "secret" not in ran.out.replace("[secret]", "")
    assert "pass-word" not in ran.out


@pytest.mark.parametrize(("key", "words"), [("", "asks for a key"), ("sk-let-wrong-key", "did not accept the key")])
async def test_a_key_that_is_refused_is_named(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    monkeypatch.setenv("LETTA_API_KEY", key)
    fake = FakeLetta(ScriptedModel(), password="the right one")
    async with fake.serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")

    assert ran.status == 1
    assert checks(ran.out)["server"]["status"] == "ok"
    assert checks(ran.out)["key"]["status"] == "fail"
    assert words in checks(ran.out)["key"]["found"]
    assert "LETTA_API_KEY" in checks(ran.out)["key"]["to_do"]
    assert "wrong-key" not in ran.out


async def test_a_server_without_redis_and_agents_is_usable_with_a_warning(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_PROJECT", "books")
    async with FakeLetta(ScriptedModel(), redis=False).serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")

    found = checks(ran.out)
    assert ran.status == 0
    assert (found["background"]["status"], found["agents"]["status"]) == ("warn", "warn")
    assert "LETTA_REDIS_HOST" in found["background"]["to_do"]
    assert found["agents"]["to_do"] == "Create one with: lcm create-agent NAME"
    assert found["project"]["status"] == "warn"
    assert found["key"]["found"] == "none is set, and none is needed"


@pytest.mark.parametrize(("models", "status"), [([], "fail"), ([{"handle": "letta/letta-free"}], "warn")])
async def test_a_server_without_a_model_provider_is_said_to_have_none(
    commands: Commands, models: list[dict[str, str]], status: str
) -> None:
    fake = FakeLetta(ScriptedModel())
    fake.fail("GET", "/v1/models/", status=200, body=json.dumps(models))
    async with fake.serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")

    assert checks(ran.out)["models"]["status"] == status
    assert "provider" in checks(ran.out)["models"]["to_do"]
    assert ran.status == (1 if status == "fail" else 0)


async def _app_server_info(_: Request) -> Response:
    return JSONResponse({"type": "app_server_info_response", "letta_code_version": "0.34.12"})


async def _app_server_with_token(_: Request) -> Response:
    return JSONResponse({"error": "missing websocket bearer token"}, 401)


@pytest.mark.parametrize("info", [_app_server_info, _app_server_with_token])
async def test_an_app_server_is_recognised_and_the_right_option_named(
    commands: Commands, info: Callable[[Request], Awaitable[Response]]
) -> None:
    async with something(("/app-server-info", info)) as url:
        ran = await commands(url)("doctor", "--json")

    server = checks(ran.out)["server"]
    assert (ran.status, server["status"]) == (1, "fail")
    assert "Letta Code App Server" in server["found"]
    assert f"LETTA_MCP_APP_SERVER_URL={url.replace('http', 'ws')}/ws" in server["to_do"]


async def test_a_web_server_is_something_else(commands: Commands) -> None:
    async def page(_: Request) -> Response:
        return HTMLResponse("<html>hello</html>")

    async with something(("/{path:path}", page)) as url:
        ran = await commands(url)("doctor", "--json")

    server = checks(ran.out)["server"]
    assert server["status"] == "fail"
    assert "no Letta server" in server["found"]
    assert "HTTP 200 text/html" in server["to_do"]
    assert "agents" not in checks(ran.out)


async def test_a_letta_server_that_hides_its_health_is_recognised(commands: Commands) -> None:
    fake = FakeLetta(ScriptedModel())
    fake.fail("GET", "/v1/health/", status=404, body="gone")
    async with fake.serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")

    assert checks(ran.out)["server"]["found"] == f"a self-hosted Letta server at {base_url}"


async def test_an_old_server_is_warned_of(commands: Commands) -> None:
    async def health(_: Request) -> Response:
        return JSONResponse({"version": "0.11.7", "status": "ok"})

    async def nothing(_: Request) -> Response:
        return JSONResponse([])

    async with something(("/v1/health/", health), ("/v1/agents/", nothing), ("/v1/models/", nothing)) as url:
        ran = await commands(url)("doctor", "--json")

    assert "older than 0.16" in checks(ran.out)["server"]["to_do"]
    assert checks(ran.out)["key"]["status"] == "ok"
    assert "it has no /v1/conversations" in checks(ran.out)["conversations"]["found"]
    assert ran.status == 1


async def test_nothing_that_answers_is_said_to_be_nothing(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    ran = await commands(f"http://127.0.0.1:{port}")("doctor")

    assert ran.status == 1
    assert "fail  server         The Letta server cannot be reached" in ran.out


async def test_a_server_that_is_silent_is_given_up_in_time(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("letta_conversations_mcp.cli.doctor.CHECK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = await commands(f"http://127.0.0.1:{silent.getsockname()[1]}")("doctor", "--json")

    assert checks(ran.out)["server"]["found"] == "no answer within 0.3 s"
    assert ran.status == 1


async def test_options_that_cannot_be_used_end_with_2(run: Run) -> None:
    ran = await run("doctor", "--connect-timeout", "soon")

    assert (ran.status, ran.out) == (2, "")
    assert "--connect-timeout" in ran.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "ftp://ann:pass-word@127.0.0.1:1", "none of http, https, socks5"),
        ("http_proxy", "://nowhere", "is no URL"),
        ("HTTPS_PROXY", "http://127.0.0.1:99999", "is no URL"),
        ("SSL_CERT_FILE", "/nowhere/at-all.pem", "names no file"),
        ("SSL_CERT_FILE", __file__, "without certificates"),
        ("SSL_CERT_DIR", "/nowhere/at-all", "names no directory"),
    ],
)
async def test_a_variable_of_the_network_that_cannot_be_used_is_named(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    async with FakeLetta(ScriptedModel()).serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")
        async with connect(Settings(base_url=base_url), "memory", "modern") as client:
            said = await Caller(client).refused("list_agents")

    found = checks(ran.out)
    assert (ran.status, found["network"]["status"], found["server"]["status"]) == (1, "fail", "fail")
    assert f"The variable {name} " in found["network"]["found"]
    assert words in found["network"]["found"]
    assert f"The variable {name} " in said
    assert "A person has to" in said
    assert "pass-word" not in ran.out + said


async def test_a_proxy_that_speaks_socks_is_used() -> None:
    greetings: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        proxy = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ran = await anyio.run_process(
            [sys.executable, "-m", "letta_conversations_mcp", "doctor", "--json"],
            env=environment(Settings(base_url="http://letta.invalid"))
            | {"ALL_PROXY": f"socks5://ann:pass-word@{proxy}"},
            check=False,
        )

    network = checks(ran.stdout.decode())["network"]
    assert network["status"] == "ok"
    assert f"ALL_PROXY={proxy}" in network["found"]
    assert b"pass-word" not in ran.stdout + ran.stderr
    assert set(greetings) == {b"\x05"}


async def test_a_variable_that_is_misspelt_is_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_MCP_WAIT_SECOND", "7")
    monkeypatch.setenv("LETTA_MCP_WAIT_SECONDS", "7")

    ran = await run("doctor", "--json")

    found = checks(ran.out)["variables"]
    assert (ran.status, found["status"]) == (0, "warn")
    assert found["found"] == "no option reads LETTA_MCP_WAIT_SECOND"
    assert found["to_do"] == "Did you mean LETTA_MCP_WAIT_SECONDS?"


@pytest.mark.parametrize("ending", ["/v1", "/v1/", "/"])
async def test_an_address_may_end_with_the_version(letta: Letta, commands: Commands, ending: str) -> None:
    ran = await commands(f"{letta.base_url}{ending}")("doctor", "--json")

    assert (ran.status, checks(ran.out)["key"]["status"]) == (0, "ok")


async def test_a_server_that_only_asks_for_a_key_is_no_letta_server(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "sk-let-some-key")

    async def unauthorized(_: Request) -> Response:
        return JSONResponse({"error": "log in first"}, 401)

    async with something(("/{path:path}", unauthorized)) as url:
        ran = await commands(url)("doctor", "--json")

    assert (ran.status, checks(ran.out)["server"]["status"]) == (1, "fail")
    assert "no Letta server" in checks(ran.out)["server"]["found"]


@pytest.mark.parametrize(("password", "words"), [("", "this server asks for none"), ("sk-let-right", "accepted")])
async def test_a_key_is_called_accepted_only_where_one_is_asked_for(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, password: str, words: str
) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "sk-let-right")
    async with FakeLetta(ScriptedModel(), password=password).serve() as base_url:
        ran = await commands(base_url)("doctor", "--json")

    assert checks(ran.out)["key"]["status"] == "ok"
    assert words in checks(ran.out)["key"]["found"]
