"""/healthz and /readyz: alive is not the same as able to work, and neither tells a stranger anything more."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
from pydantic import SecretStr

from letta_conversations_mcp.observability import readiness
from letta_conversations_mcp.settings import Settings
from tests.http.team import Team
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client, loopback_socket
from tests.rig.model import ScriptedModel
from tests.rig.servers import http_server

KEY = "sk-let-a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine even a refusal can take longer than a probe waits."""
    monkeypatch.setattr(readiness, "LONGEST_SECONDS", HANG_SECONDS)


async def ask(settings: Settings, path: str = "/readyz") -> httpx.Response:
    async with http_server(settings) as url, http_client(timeout=20) as http:
        return await http.get(f"{url}{path}")


async def test_it_is_ready_when_letta_answers(letta: Letta) -> None:
    response = await ask(Settings(base_url=letta.base_url, token=SecretStr("a-token")))

    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_it_is_alive_but_not_ready_when_letta_is_gone() -> None:
    with loopback_socket() as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ready = await ask(Settings(base_url=address))
        alive = await ask(Settings(base_url=address), "/healthz")

    assert ready.status_code == 503
    assert ready.json() == {"status": "unready", "reason": "Letta cannot be reached."}
    assert "Retry-After" in ready.headers
    assert alive.status_code == 200


async def test_a_key_that_letta_does_not_take_is_named_and_not_shown() -> None:
    async with FakeLetta(ScriptedModel(), password="right").serve() as letta_url:
        response = await ask(Settings(base_url=letta_url, api_key=SecretStr(KEY)))

    assert response.status_code == 503
    assert "key" in response.json()["reason"]
    assert KEY not in response.text
    assert letta_url.split("//")[1] not in response.text


async def test_letta_s_own_words_do_not_get_out() -> None:
    fake = FakeLetta(ScriptedModel())
    fake.fail("GET", "/v1/agents/*", status=500, body={"detail": "db at 10.0.0.7 says no"}, times=3)
    async with fake.serve() as letta_url:
        response = await ask(Settings(base_url=letta_url))

    assert response.json() == {"status": "unready", "reason": "Letta answers with an error."}


async def test_a_letta_that_does_not_answer_makes_it_unready_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LONGEST_SECONDS", 0.2)
    fake = FakeLetta(ScriptedModel())
    gate = anyio.Event()
    fake.stall("GET", "/v1/agents/*", gate)
    async with fake.serve() as letta_url:
        with anyio.fail_after(HANG_SECONDS):
            response = await ask(Settings(base_url=letta_url))
        gate.set()

    assert response.json()["reason"] == "Letta does not answer in time."


async def test_letta_is_asked_once_however_many_ask_and_again_when_the_answer_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeLetta(ScriptedModel())
    async with (
        fake.serve() as letta_url,
        http_server(Settings(base_url=letta_url)) as url,
        http_client() as http,
    ):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(http.get, f"{url}/readyz")
        asked_once = len(fake.requests)
        monkeypatch.setattr(readiness, "KEPT_SECONDS", 0)
        await http.get(f"{url}/readyz")

    assert asked_once == 1
    assert len(fake.requests) == 2


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
async def test_a_page_under_a_name_of_its_own_reads_nothing(letta: Letta, path: str) -> None:
    settings = Settings(base_url=letta.base_url, allowed_hosts=("letta.example.org",), token=SecretStr("x" * 20))
    opened = settings.model_copy(update={"metrics_token": SecretStr("for-metrics")})
    answers: dict[str, int] = {}
    async with http_server(opened) as url, http_client() as http:
        for host in (
            "evil.example",
            "letta.example.org.evil.example",
            "",
            "letta.example.org",
            "localhost:1",
            "10.0.0.7:8000",
            "[::1]:8000",
        ):
            headers = {"Host": host, "Authorization": "Bearer for-metrics"}
            answers[host] = (await http.get(f"{url}{path}", headers=headers)).status_code

    assert list(answers.values()) == [421, 421, 421, 200, 200, 200, 200]


async def test_a_server_whose_callers_all_bring_their_own_key_is_ready(tmp_path: Path) -> None:
    team = Team(tmp_path / "tokens.toml")
    team.add("ann", letta_api_key=KEY)
    async with FakeLetta(ScriptedModel(), password=KEY).serve() as letta_url:
        all_keyed = await ask(team.settings(letta_url))
        team.add("bob")
        one_without = await ask(team.settings(letta_url))

    assert (all_keyed.status_code, one_without.status_code) == (200, 503)
